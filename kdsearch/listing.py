"""The trials of a search that lists its configurations instead of proposing one after another.

Goes in: a SweepSpec whose sampler is `grid` or `one_at_a_time`. Comes out: every trial, in the order in
which they run. A configuration is what `space.suggest` makes of one way to answer its questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdsearch.records import Role, Scalar, TrialConfig
from kdsearch.space import Trial, suggest, trial_seed
from kdsearch.spec import Stages, SweepSpec, grid_value, num_teacher_stages
from kdsearch.spec_schema import LISTING

MAX_CONFIGURATIONS = 10_000  # of a listed search: nobody meant to run more


@dataclass(frozen=True)
class Listed:
    """A trial that is known before the search begins. `params` has Optuna's names; empty for a control."""

    role: Role
    number: int
    config: TrialConfig
    params: dict[str, Scalar]


def is_listed(spec: SweepSpec) -> bool:
    """Whether the sampler lists its configurations instead of proposing one after another."""
    return spec.search.sampler in LISTING


def listed(spec: SweepSpec, num_teacher_stages: Stages) -> list[Listed]:
    """Every trial of a listed search in the order in which they run, each control before its partners.

    All configurations are run with the first seed, then all with the second: a sweep cut short anywhere
    has tried every configuration about as often, and one with more trials or seeds begins like this one.
    Where anything is distilled, every student and recipe also runs without, and a configuration that
    distils nothing is that control. Raises ValueError for more than MAX_CONFIGURATIONS.
    """
    points = configurations(spec, num_teacher_stages)
    compares = any(config.is_distilled for _, config in points)
    limit = spec.search.trials or len(points) * spec.search.seeds
    found: dict[Role, list[Listed]] = {"control": [], "search": []}
    queue: list[Listed] = []

    def add(role: Role, config: TrialConfig, params: dict[str, Scalar]) -> None:
        found[role].append(Listed(role, len(found[role]), config, params))
        queue.append(found[role][-1])

    for round_ in range(spec.search.seeds):
        controls: set[str] = set()
        for params, point in points:
            config = replace(point, seed=trial_seed(spec, round_))
            if compares and repr(config.control) not in controls:
                controls.add(repr(config.control))
                add("control", config.control, {})
            if config.is_distilled or not compares:
                add("search", config, params)
            if len(found["search"]) == limit:
                return queue
    return queue


def num_search_trials(spec: SweepSpec, num_teacher_stages: Stages) -> int:
    """How many search trials a sweep has; `search.trials` unless it lists fewer."""
    if not is_listed(spec):
        assert spec.search.trials is not None  # the spec asks for it
        return spec.search.trials
    return sum(trial.role == "search" for trial in listed(spec, num_teacher_stages))


def configurations(
    spec: SweepSpec, num_teacher_stages: Stages, limit: int = MAX_CONFIGURATIONS
) -> list[tuple[dict[str, Scalar], TrialConfig]]:
    """The distinct configurations that the sampler lists, with Optuna's names and values; seed 0.

    `grid` combines all values of all dimensions. `one_at_a_time` begins with every slot's and dimension's
    first value and changes one of them at a time, to each of its further values; what applies only then
    stays at its first. The first of a slot is none, else the first by name.
    Raises ValueError where a dimension is continuous and for more than `limit` ways to choose.
    """
    walk = _one_at_a_time if spec.search.sampler == "one_at_a_time" else _all_positions
    found: dict[str, tuple[dict[str, Scalar], TrialConfig]] = {}
    for count, trial in enumerate(walk(lambda trial: suggest(trial, spec, num_teacher_stages, seed=0))):
        if count == limit:
            raise ValueError(f"more than {limit:,} configurations")
        found.setdefault(repr(trial.config), (trial.params, trial.config))  # equal maps are one map
    return list(found.values())


def grid_size(
    spec: SweepSpec, teacher_stages: Stages | None = None, limit: int = MAX_CONFIGURATIONS
) -> int | None:
    """How many distinct configurations there are, found by suggesting every one.

    None where a dimension is continuous, where there are more than `limit` ways to choose, or where only
    the teacher's checkpoint knows its number of stages and it is not given.
    """
    stages = num_teacher_stages(spec) if teacher_stages is None else teacher_stages
    if stages is None:
        return None
    whole = replace(spec, search=replace(spec.search, sampler="grid"))
    try:
        return len(configurations(whole, stages, limit))
    except ValueError:
        return None


class _GridTrial:
    """Takes the given positions on the grids that it meets, then the first one of each further grid.

    `sizes` are those of the grids that it met, `params` its answers.
    """

    def __init__(self, positions: Sequence[int], make: Callable[[Trial], TrialConfig]) -> None:
        self._given = positions
        self.taken: list[int] = []
        self.sizes: list[int] = []
        self.params: dict[str, Scalar] = {}
        self.config = make(self)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is None and low < high:
            raise ValueError(f"{name} is continuous")
        size = 1 if step is None else round((high - low) / step) + 1
        value = grid_value(low, step or 0.0, self._take(size))
        self.params[name] = value
        return value

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        value = low + step * self._take((high - low) // step + 1)
        self.params[name] = value
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.params[name] = choices[self._take(len(choices))]
        return self.params[name]

    def _take(self, size: int) -> int:
        depth = len(self.taken)
        self.taken.append(self._given[depth] if depth < len(self._given) else 0)
        self.sizes.append(size)
        return self.taken[-1]


def _all_positions(make: Callable[[Trial], TrialConfig]) -> Iterator[_GridTrial]:
    """Every way to choose, the last grid turning fastest."""
    positions: list[int] | None = []
    while positions is not None:
        trial = _GridTrial(positions, make)
        yield trial
        taken = trial.taken
        turnable = [depth for depth, size in enumerate(trial.sizes) if taken[depth] + 1 < size]
        positions = [*taken[: turnable[-1]], taken[turnable[-1]] + 1] if turnable else None


def _one_at_a_time(make: Callable[[Trial], TrialConfig]) -> Iterator[_GridTrial]:
    """The first of everything; then every further position of each grid alone, the others at their first."""
    baseline = _GridTrial([], make)
    yield baseline
    for depth, size in enumerate(baseline.sizes):
        for position in range(1, size):
            yield _GridTrial([*[0] * depth, position], make)
