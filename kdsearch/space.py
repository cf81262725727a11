"""The search space of a spec: what a trial may be, and one trial out of it.

Goes in: a SweepSpec, and any object with Optuna's `suggest_float`, `suggest_int` and
`suggest_categorical`. Comes out: `TrialConfig`s and `Choice`s. A dimension is suggested only where it
applies, under a name that holds the names of the choices above it, so that no two of them collide.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from kdsearch import layer_map, schedules
from kdsearch.models import family
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import (
    TRAIN_NEEDS,
    TRAIN_OPTIONS,
    Categorical,
    Dimension,
    Float,
    Int,
    Slot,
    SweepSpec,
    grid_value,
    num_teacher_stages,
)

# Slots of a trial without distillation.
CONSTANT: Slot = {"constant": {}}
NONE: Slot = {"none": {}}


class Trial(Protocol):
    """What `suggest` needs of Optuna's `Trial` or `FixedTrial`."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


def suggest(trial: Trial, spec: SweepSpec, num_teacher_stages: int, seed: int) -> TrialConfig:
    """One configuration; `seed` is the trial's own, of initial weights and order."""
    student = _suggest_choice(trial, "student", spec.student)
    num_stages = len(family(student.name).stages(student.options))
    distill: dict[str, Choice] = {}
    for slot, methods in spec.distill.slots.items():
        choice = _suggest_choice(trial, f"distill.{slot}", methods)
        if choice.name != "none":
            distill[slot] = _with_pairs(trial, slot, choice, num_stages, num_teacher_stages)

    schedule = _suggest_schedule(trial, spec, distill)
    curriculum = _suggest_choice(trial, "distill.curriculum", spec.distill.curriculum if distill else NONE)

    def weight(name: str, applies: bool) -> Any:
        return _suggest(trial, f"distill.{name}", getattr(spec.distill, name)) if applies else None

    # A schedule that brings its own start leaves the trial's temperature without a meaning.
    own = schedule.options.get("temperature_from")
    temperature = weight("temperature", "response" in distill) if own is None else own
    return TrialConfig(
        student=student,
        train=_train(spec, lambda name, dimension: _suggest(trial, f"train.{name}", dimension)),
        distill=distill,
        alpha=weight("alpha", "response" in distill),
        temperature=temperature,
        label_weight=weight("label_weight", bool(distill)),
        schedule=schedule,
        curriculum=curriculum,
        seed=seed,
    )


def control(spec: SweepSpec, student: Choice, seed: int) -> TrialConfig:
    """The student without distillation, every searched part of the recipe at its middle."""
    return TrialConfig(student=student, train=_train(spec, lambda _, dimension: middle(dimension)), seed=seed)


def corner_students(spec: SweepSpec) -> list[Choice]:
    """Every family at all of its corners: both ends of each range, every categorical choice."""
    return [
        Choice(name, dict(zip(options, corner, strict=True)))
        for name, options in spec.student.items()
        for corner in itertools.product(*map(_ends, options.values()))
    ]


def middle(dimension: Dimension) -> Any:
    """The middle of a range, geometric on a logarithmic scale, on the grid; the first of several choices."""
    match dimension:
        case Categorical(choices):
            return choices[0]
        case Float(low, high, None, log):
            return _center(low, high, log)
        case Float(low, high, step) if step is not None:
            return grid_value(low, step, round((_center(low, high, log=False) - low) / step))
        case Int(low, high, step, log):
            return low + step * round((_center(low, high, log) - low) / step)
        case _:
            return dimension


def grid_size(spec: SweepSpec, teacher_stages: int | None = None, limit: int = 10_000) -> int | None:
    """How many distinct configurations there are, found by suggesting every one.

    None where a dimension is continuous, where there are more than `limit` ways to choose, or where only
    the teacher's checkpoint knows its number of stages and it is not given.
    """
    stages = num_teacher_stages(spec) if teacher_stages is None else teacher_stages
    if stages is None:
        return None
    configs: set[str] = set()
    trial = _GridTrial([])
    for _ in range(limit):
        try:
            configs.add(repr(suggest(trial, spec, stages, seed=0)))
        except _Continuous:
            return None
        following = trial.following()
        if following is None:
            return len(configs)
        trial = following
    return None


class _Continuous(Exception):  # noqa: N818, it is an answer and not an error
    """A dimension has no grid."""


class _GridTrial:
    """Takes the given positions on the grids that it meets, then the first one of each further grid."""

    def __init__(self, positions: Sequence[int]) -> None:
        self._given = positions
        self._taken: list[int] = []
        self._sizes: list[int] = []

    def following(self) -> _GridTrial | None:
        """The next trial in the order of an odometer, None after the last."""
        for depth in reversed(range(len(self._taken))):
            if self._taken[depth] + 1 < self._sizes[depth]:
                return _GridTrial([*self._taken[:depth], self._taken[depth] + 1])
        return None

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is None and low < high:
            raise _Continuous(name)
        return low if step is None else grid_value(low, step, self._take(round((high - low) / step) + 1))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return low + step * self._take((high - low) // step + 1)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[self._take(len(choices))]

    def _take(self, size: int) -> int:
        depth = len(self._taken)
        self._taken.append(self._given[depth] if depth < len(self._given) else 0)
        self._sizes.append(size)
        return self._taken[-1]


def _suggest(trial: Trial, name: str, dimension: Dimension) -> Any:
    match dimension:
        case Float(low, high, step, log):
            return trial.suggest_float(name, low, high, step=step, log=log)
        case Int(low, high, step, log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case Categorical(choices):
            return trial.suggest_categorical(name, choices)
        case _:
            return dimension


def _suggest_choice(trial: Trial, key: str, slot: Slot) -> Choice:
    """A name of the slot, asked for only where there are several, and then that name's own options.

    An option that is not set, None, is left out.
    """
    names = list(slot)
    name = names[0] if len(names) == 1 else trial.suggest_categorical(key, names)
    given = {option: dimension for option, dimension in slot[name].items() if dimension is not None}
    return Choice(name, {n: _suggest(trial, f"{key}.{name}.{n}", d) for n, d in given.items()})


def _suggest_schedule(trial: Trial, spec: SweepSpec, distill: Mapping[str, Choice]) -> Choice:
    """The course of temperature, alpha and weights; what this trial has not is not asked for."""
    applying = {
        name: {o: d for o, d in options.items() if d is not None and schedules.applies(o, distill)}
        for name, options in spec.distill.schedule.items()
    }
    choice = _suggest_choice(trial, "distill.schedule", applying if distill else CONSTANT)
    return choice if choice.options else Choice("constant")


def _with_pairs(trial: Trial, slot: str, choice: Choice, num_student: int, num_teacher: int) -> Choice:
    """The choice with its layer map as canonical text; a searched map asks for one target a student stage."""
    text = choice.options.get("layer_map")
    if text is None:
        return choice
    if text == layer_map.SEARCHED:
        # The stage counts are part of the name: another student's stages are other dimensions.
        key = f"distill.{slot}.{choice.name}.layer_map.{num_student}x{num_teacher}"
        stages = range(1, num_student + 1)
        targets = [trial.suggest_int(f"{key}.stage{stage}", 0, num_teacher) for stage in stages]
        pairs = layer_map.from_choices(targets, num_teacher)
    else:
        pairs = layer_map.parse(text, num_student, num_teacher)
    return Choice(choice.name, {**choice.options, "layer_map": layer_map.to_text(pairs)})


def _train(spec: SweepSpec, pick: Callable[[str, Dimension], Any]) -> TrainConfig:
    """The recipe out of picked values; what its optimizer or schedule does not use stays at its default."""
    values: dict[str, Any] = {}
    for name, dimension in spec.train.items():
        other, needed = TRAIN_NEEDS.get(name, (name, None))
        unused = name in TRAIN_NEEDS and values[other] != needed
        values[name] = TRAIN_OPTIONS[name].default if unused else pick(name, dimension)
    return TrainConfig(**values)


def _ends(dimension: Dimension) -> Sequence[Any]:
    match dimension:
        case Categorical(choices):
            return choices
        case Float(low, high) | Int(low, high):
            return sorted({low, high})
        case _:
            return [dimension]


def _center(low: float, high: float, log: bool) -> float:
    return math.sqrt(low * high) if log else (low + high) / 2
