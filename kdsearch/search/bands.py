"""Size bands: the range of a spec's students cut into equal parts of log10 params.

Goes in: the spec and a function that measures a student. Comes out: edges, and the band of a size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from kdsearch import space
from kdsearch.records import Choice
from kdsearch.spec import SweepSpec

NUM_BANDS = 3

CostOf = Callable[[Choice], Mapping[str, float]]  # params, macs and size_mb of a student, without training it


def check_students(spec: SweepSpec, cost_of: CostOf) -> None:
    """Raise ValueError for a student that does not suit the images, before anything is trained.

    Of ranges of whole numbers every value is looked at: a patch of vit must divide the image's side.
    """
    for student in space.stepped_students(spec):
        cost_of(student)


def extreme_students(spec: SweepSpec, cost_of: CostOf) -> list[Choice]:
    """The smallest and the largest student that the spec allows, by params: one or two."""
    students = sorted(space.corner_students(spec), key=lambda student: cost_of(student)["params"])
    return [students[0]] if students[0] == students[-1] else [students[0], students[-1]]


def floor_students(spec: SweepSpec, cost_of: CostOf) -> list[Choice]:
    """A student for each size band: the smallest, the largest, one near the middle of log10 params.

    Fewer where the spec has fewer: without a middle one where none lies between the others.
    """
    extremes = extreme_students(spec, cost_of)
    low, high = (math.log10(cost_of(student)["params"]) for student in (extremes[0], extremes[-1]))
    between: list[tuple[float, Choice]] = []
    for student in [*space.middle_students(spec), *space.corner_students(spec)]:
        size = math.log10(cost_of(student)["params"])
        if low < size < high:
            between.append((abs(size - (low + high) / 2), student))
    return extremes + [student for _, student in sorted(between, key=lambda found: found[0])[:1]]


def floor_controls(spec: SweepSpec, cost_of: CostOf) -> list[Choice]:
    """What is trained without distillation at the start: a student of each band.

    Where trials are stopped by the front, all but the largest twice: the second seeds say how much of an
    accuracy is luck, and a second seed of the largest student would cost more than all others together.
    """
    students = floor_students(spec, cost_of)
    early = spec.search.early_stopping
    repeated = early.scheduler == "pareto" and early.grace_epochs < spec.epochs
    return [*students, *students[:1], *students[2:]] if repeated else students


def cost_bounds(spec: SweepSpec, cost_of: CostOf) -> dict[str, list[float]]:
    """The smallest and the largest of each cost over the spec's extreme students."""
    costs = [cost_of(student) for student in space.corner_students(spec)]
    return {name: [min(c[name] for c in costs), max(c[name] for c in costs)] for name in costs[0]}


def band_edges(spec: SweepSpec, cost_of: CostOf) -> list[float]:
    """Edges of the size bands: the range of params cut into equal parts of log10, smallest to largest."""
    sizes = [cost_of(student)["params"] for student in extreme_students(spec, cost_of)]
    low, high = math.log10(sizes[0]), math.log10(sizes[-1])
    return [
        float(sizes[0]),
        *(10 ** (low + (high - low) * i / NUM_BANDS) for i in range(1, NUM_BANDS)),
        float(sizes[-1]),
    ]


def band_of(params: float, edges: Sequence[float]) -> int:
    """0 for the smallest band; sizes beyond the edges belong to the outermost bands."""
    return sum(params >= edge for edge in edges[1:-1])
