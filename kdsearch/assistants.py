"""Teacher assistants: which networks stand between the teacher and a student.

Goes in: the teacher's and a student's number of parameters, and what the spec asks of the chain. Comes out:
widths. Assistants stand on a ladder of sizes below the teacher, each a fixed ratio smaller than the one
above, so that students of many sizes share few of them. Without torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdsearch.models import family
from kdsearch.spec import Assistants
from kdsearch.spec_dimensions import reachable

SizeOf = Callable[[str, dict[str, object]], float]  # params of a family with options

# Two rungs are one step of the usual most, 4.5: every step that is not at an end has one place to move to.
RATIO = math.sqrt(4.5)
SIZES_PER_RUNG = 2  # students' sizes are told apart this finely when a chain is chosen
WIDTHS_PER_UNIT = 32  # an assistant's width is a multiple of 1/32


@dataclass(frozen=True)
class Rung:
    width: float
    params: float


def chain(
    ladder: Sequence[Rung], teacher: float, student: float, steps: int | None, max_compression: float
) -> tuple[Rung, ...]:
    """The assistants for a student, largest first; `teacher` and `student` are numbers of parameters.

    At least `steps` of them, more where a step would shrink params by more than `max_compression`, fewer
    where the ladder has no more rungs between the two. Of equally many, those whose largest step is the
    smallest: nearest to a geometric row.
    """
    between = [rung for rung in ladder if student < rung.params < teacher]

    def largest_step(rungs: Sequence[Rung]) -> float:
        sizes = [teacher, *(rung.params for rung in rungs), student]
        return max(larger / smaller for larger, smaller in itertools.pairwise(sizes))

    best: tuple[Rung, ...] = ()
    for count in range(min(steps or 0, len(between)), len(between) + 1):
        best = min(itertools.combinations(between, count), key=largest_step)
        if largest_step(best) <= max_compression:
            break
    return best


def ladder(source: Assistants, size_of: SizeOf, smallest: float) -> list[Rung]:
    """Sizes from below the teacher down to the smallest student, each of the narrowest width that has it.

    One rung shrinks params by no more than RATIO, unless no width lies between.
    """
    network = source.network
    assert network.family is not None, "assistants name their family"
    name, options = network.family, network.options
    narrowest = max(1, math.ceil((family(name).options["width"].low or 0.0) * WIDTHS_PER_UNIT))

    def size(width: int) -> float:
        return size_of(name, {**options, "width": width / WIDTHS_PER_UNIT})

    rungs: list[Rung] = []
    width, params = math.ceil(options["width"] * WIDTHS_PER_UNIT), size_of(name, options)
    while params > smallest:
        below, enough = narrowest - 1, width
        while enough - below > 1:  # the narrowest that is not too small
            middle = (below + enough) // 2
            below, enough = (below, middle) if size(middle) * RATIO >= params else (middle, enough)
        while enough >= narrowest and size(enough) >= params:  # widths round to equal channels
            enough -= 1
        if enough < narrowest or size(enough) <= smallest:
            break
        width, params = enough, size(enough)
        rungs.append(Rung(width / WIDTHS_PER_UNIT, params))
    return rungs


def rounded_down(student: float, teacher: float) -> float:
    """A student's size on a coarse scale, the next below: students of about one size share a chain."""
    if student >= teacher:
        return teacher
    rungs = math.log(teacher / student, RATIO)
    return teacher / math.pow(RATIO, math.ceil(SIZES_PER_RUNG * rungs - 1e-9) / SIZES_PER_RUNG)


def chains(
    source: Assistants, rungs: Sequence[Rung], teacher: float, smallest: float, largest: float
) -> list[tuple[Rung, ...]]:
    """Every chain that students of these sizes may need, and every beginning of one, shortest first."""
    sizes = [rounded_down(smallest, teacher)]
    while sizes[-1] < rounded_down(largest, teacher) * (1 - 1e-9):
        sizes.append(sizes[-1] * RATIO ** (1 / SIZES_PER_RUNG))
    found: set[tuple[Rung, ...]] = set()
    for student, steps in itertools.product(sizes, reachable(source.steps)):
        whole = chain(rungs, teacher, student, steps, source.max_compression)
        found |= {whole[:length] for length in range(1, len(whole) + 1)}
    return sorted(found, key=lambda some: (len(some), [-rung.width for rung in some]))


def name(some: Sequence[Rung]) -> str:
    """A chain by its widths, `0.5>0.25`."""
    return ">".join(f"{rung.width:g}" for rung in some)
