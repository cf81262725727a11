"""A table of learning curves: every cell of a full-factorial space trained to the end, once.

Goes in: `benchmarks/tables/NAME.yaml`, a spec without continuous dimensions, and `NAME.jsonl`, what
`benchmarks.record_curves` wrote. Comes out: a `Table`, which answers what a training would have shown.

The first line of the file says what was recorded (keys of data and teacher, versions). Every other line is a
run: `role` search with Optuna's `params`, or control with its `student`; `seed`; `cost` (params, macs,
size_mb); `val_accuracy` after every epoch, rounded to four digits; `cpu_s`, the median of an epoch; `error`
where the run broke off.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.pairs import whole_lines
from kdsearch import listing, pareto, space
from kdsearch import spec as specs
from kdsearch.records import Choice, TrialConfig
from kdsearch.search import features
from kdsearch.spec import SweepSpec

FOLDER = Path(__file__).parent / "tables"


def spec_of(name: str, overrides: Sequence[str] = ()) -> SweepSpec:
    return specs.load(FOLDER / f"{name}.yaml", overrides)


def num_stages(spec: SweepSpec) -> int:
    found = specs.num_teacher_stages(spec)
    assert isinstance(found, int), "a table has one teacher of a known family"
    return found


def key_of(config: TrialConfig) -> str:
    """What a configuration is recorded under: everything but its seed and views."""
    return features.key(config.flat())


@dataclass(frozen=True)
class Curve:
    """What one training showed. It broke off where `error` is not empty."""

    accuracies: tuple[float, ...]
    error: str = ""


@dataclass(frozen=True)
class Cell:
    """One configuration. `final` is what it is worth: the mean over its seeds of the last accuracy.

    A search sees the first seed's curve. Were that its worth, the best cells would be the lucky ones, and no
    rule could tell them before the end. -inf where a training broke off.
    """

    config: TrialConfig
    params: Mapping[str, Any]  # Optuna's names and values
    cost: Mapping[str, float]
    curves: tuple[Curve, ...]  # by seed

    @property
    def final(self) -> float:
        if any(curve.error for curve in self.curves):
            return -math.inf
        return math.fsum(curve.accuracies[-1] for curve in self.curves) / len(self.curves)

    def curve(self, seed: int) -> Curve:
        """Of the recorded seeds the one that `seed` falls on."""
        return self.curves[seed % len(self.curves)]


@dataclass(frozen=True, eq=False)
class Table:
    """`cells` by `key_of`; `floors` are the students without distillation, by `key_of` their control.

    The hypervolume is that of `kdsearch.summary`: accuracy between the smallest student's floor and 1
    against log10 params between the smallest and the largest student.
    """

    spec: SweepSpec
    cells: Mapping[str, Cell]
    floors: Mapping[str, Cell]
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by `_student_key`

    def cost_of(self, student: Choice) -> Mapping[str, float]:
        return self.costs[_student_key(student)]

    def cell(self, config: TrialConfig) -> Cell:
        """The recorded cell of a search trial or of a control. Raises KeyError outside of the table."""
        key = key_of(config)
        return self.cells[key] if key in self.cells else self.floors[key]

    @property
    def epochs(self) -> int:
        return self.spec.epochs

    @cached_property
    def sizes(self) -> tuple[float, ...]:
        """Params of the students, smallest first."""
        return tuple(sorted({cell.cost["params"] for cell in self.cells.values()}))

    @cached_property
    def floor(self) -> float:
        """The smallest student's accuracy without distillation."""
        return min(self.floors.values(), key=lambda cell: cell.cost["params"]).final

    def hypervolume(self, points: Iterable[tuple[float, float]]) -> float:
        """The share of the box that (accuracy, params) dominate."""
        low, high = self.sizes[0], self.sizes[-1]
        span = math.log10(high / low)
        scaled = [
            ((1 - accuracy) / (1 - self.floor), math.log10(params / low) / span)
            for accuracy, params in points
        ]
        return pareto.hypervolume(scaled, (1.0, 1.0))

    @cached_property
    def front(self) -> tuple[Cell, ...]:
        """The cells that no other one dominates, smallest first; of equal ones the first."""
        best = -math.inf
        found = []
        for cell in sorted(self.cells.values(), key=lambda cell: (cell.cost["params"], -cell.final)):
            if cell.final > best:
                best = cell.final
                found.append(cell)
        return tuple(found)

    @cached_property
    def best_hypervolume(self) -> float:
        return self.hypervolume((cell.final, cell.cost["params"]) for cell in self.front)

    @cached_property
    def work(self) -> float:
        """Training every cell once: epochs times MACs."""
        return self.epochs * math.fsum(cell.cost["macs"] for cell in self.cells.values())

    def shortfall(self, points: Iterable[tuple[float, float]]) -> float:
        """How far (accuracy, params) stay behind the front over the smallest third of log10 params.

        The mean over the front's students there of its accuracy minus the best found at that size or below;
        the floor stands in where nothing was found.
        """
        found = list(points)
        limit = self.sizes[0] * (self.sizes[-1] / self.sizes[0]) ** (1 / 3)
        small = [cell for cell in self.front if cell.cost["params"] <= limit]
        gaps = [
            cell.final - max([a for a, p in found if p <= cell.cost["params"]], default=self.floor)
            for cell in small
        ]
        return math.fsum(max(0.0, gap) for gap in gaps) / len(gaps)


def load(name: str) -> Table:
    """The recorded table. Raises ValueError where a cell of the space or a floor is missing."""
    _, *runs = whole_lines(FOLDER / f"{name}.jsonl")
    return table(spec_of(name), runs)


def table(spec: SweepSpec, runs: Sequence[Mapping[str, Any]]) -> Table:
    """The table that these recorded runs make. Raises ValueError where a run of the space is missing."""
    cells: dict[str, Cell] = {}
    floors: dict[str, Cell] = {}
    recorded: dict[str, list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        recorded.setdefault(run_key(run), []).append(run)

    def add(found: dict[str, Cell], name: str, config: TrialConfig, params: Mapping[str, Any]) -> None:
        own = recorded.get(name)
        if own is None:
            raise ValueError(f"not recorded: {name}")
        curves = tuple(Curve(tuple(run["val_accuracy"]), run.get("error", "")) for run in own)
        found[key_of(config)] = Cell(config, params, own[0]["cost"], curves)

    for params, config in listing.configurations(spec, num_stages(spec)):
        add(cells, run_key({"role": "search", "params": params}), config, params)
        control = space.control(spec, config.student, seed=0)
        add(floors, run_key({"role": "control", "student": student_of(control)}), control, {})
    costs = {_student_key(cell.config.student): cell.cost for cell in floors.values()}
    return Table(spec, cells, floors, costs)


def run_key(run: Mapping[str, Any]) -> str:
    """Which cell a recorded run is of, whatever its seed."""
    return json.dumps([run["role"], run.get("params", run.get("student"))], sort_keys=True)


def _student_key(student: Choice) -> str:
    return features.key({"family": student.name, **student.options})


def student_of(config: TrialConfig) -> dict[str, Any]:
    return {"family": config.student.name, **config.student.options}
