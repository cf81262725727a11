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
from kdsearch.losses import METHODS
from kdsearch.models import family
from kdsearch.online import SIZES, peers
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import (
    RESPONSE_NUMBERS,
    TRAIN_NEEDS,
    TRAIN_OPTIONS,
    Assistants,
    Categorical,
    Dimension,
    Ensemble,
    Float,
    Int,
    OneOf,
    Slot,
    Stages,
    SweepSpec,
    TeacherChoice,
    TeacherSource,
    grid_value,
)
from kdsearch.spec_dimensions import reachable

# Slots of a trial without distillation.
CONSTANT: Slot = {"constant": {}}
NONE: Slot = {"none": {}}
SMALLEST_WEIGHT = 0.01  # of an ensemble's member, before they are scaled to a sum of 1

# The seeds of two trials must differ in more than their last bits; a prime far above any trial count.
_SEED_STRIDE = 1_000_003


class Trial(Protocol):
    """What `suggest` needs of Optuna's `Trial` or `FixedTrial`."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


def suggest(trial: Trial, spec: SweepSpec, num_teacher_stages: Stages, seed: int) -> TrialConfig:
    """One configuration; `seed` is the trial's own, of initial weights and order.

    A teacher is chosen where a method or the curriculum reads one.
    """
    student = _suggest_choice(trial, "student", spec.student)
    num_stages = len(family(student.name).stages(student.options))
    teacher: Choice | None = None
    distill: dict[str, Choice] = {}
    numbers: dict[str, Any] = {}  # the response method's own, in place of those in distill
    for slot, methods in spec.distill.slots.items():
        choice = _suggest_choice(trial, f"distill.{slot}", methods)
        if slot == "response":
            numbers = {n: v for n, v in choice.options.items() if n in RESPONSE_NUMBERS and v is not None}
            rest = {n: v for n, v in choice.options.items() if n not in RESPONSE_NUMBERS}
            choice = Choice(choice.name, rest)
        if choice.name == "none":
            continue
        if teacher is None and METHODS[choice.name].teacher:
            teacher = _suggest_teacher(trial, spec.teacher)
        name = "" if teacher is None else teacher.name
        known = num_teacher_stages
        num_teacher = known if isinstance(known, int) else known.get(name, 0)
        distill[slot] = _with_pairs(trial, slot, choice, num_stages, num_teacher)

    schedule = _suggest_schedule(trial, spec, distill)
    curriculum = _suggest_choice(trial, "distill.curriculum", spec.distill.curriculum if distill else NONE)
    if teacher is None and curriculum.name != "none":
        teacher = _suggest_teacher(trial, spec.teacher)

    def weight(name: str, applies: bool) -> Any:
        if not applies or name in numbers:
            return numbers.get(name)
        return _suggest(trial, f"distill.{name}", getattr(spec.distill, name))

    def of_response(name: str) -> Any:
        """The spec's number, else that of the response method's paper; None without a response method."""
        given = weight(name, "response" in distill)
        if given is None and "response" in distill:
            return getattr(METHODS[distill["response"].name], name)
        return given

    taught = any(METHODS[choice.name].teacher for choice in distill.values())
    # A schedule that brings its own start leaves the trial's temperature without a meaning.
    own = schedule.options.get("temperature_from")
    temperature = of_response("temperature") if own is None else own
    return TrialConfig(
        student=student,
        train=_train(spec, lambda name, dimension: _suggest(trial, f"train.{name}", dimension)),
        distill=distill,
        alpha=of_response("alpha"),
        temperature=temperature,
        label_weight=weight("label_weight", bool(distill)),
        schedule=schedule,
        curriculum=curriculum,
        teacher_views=_suggest(trial, "distill.teacher_views", spec.distill.teacher_views) if taught else 1,
        online=_suggest_choice(trial, "distill.online", spec.distill.online),
        teacher=teacher or Choice(""),
        seed=seed,
    )


def control(spec: SweepSpec, student: Choice, seed: int) -> TrialConfig:
    """The student without distillation, every searched part of the recipe at its middle."""
    return TrialConfig(student=student, train=_train(spec, lambda _, dimension: middle(dimension)), seed=seed)


def corner_students(spec: SweepSpec) -> list[Choice]:
    """Every family at all of its corners: both ends of each range, every categorical choice.

    Where students are trained with peers of other widths, the corners' peers are among them.
    """
    students = [student for name, options in spec.student.items() for student in _corners(name, options)]
    online = [
        method
        for name, options in spec.distill.online.items()
        for method in _corners(name, {key: options[key] for key in SIZES if key in options})
    ]
    found = list(students)
    for student, method in itertools.product(students, online):
        found += [peer for peer in peers(student, method) if peer not in found]
    return found


def stepped_students(spec: SweepSpec) -> list[Choice]:
    """Every family with each of its ranges of whole numbers at all of their values, the rest at an end."""
    found = []
    for name, options in spec.student.items():
        first = {option: _ends(dimension)[0] for option, dimension in options.items()}
        for option, dimension in options.items():
            if isinstance(dimension, Int):
                found += [Choice(name, {**first, option: value}) for value in reachable(dimension)]
    return found


def middle_students(spec: SweepSpec) -> list[Choice]:
    """Every family with each range at its arithmetic and its geometric middle, every categorical choice."""
    return [
        Choice(name, dict(zip(options, point, strict=True)))
        for name, options in spec.student.items()
        for point in itertools.product(*map(_middles, options.values()))
    ]


def _middles(dimension: Dimension) -> list[Any]:
    match dimension:
        case Float(low, high, step, _) if low > 0:
            geometric = _center(low, high, log=True)
            if step is not None:
                geometric = grid_value(low, step, round((geometric - low) / step))
            return list(dict.fromkeys([middle(dimension), geometric]))
        case Int(low, high, step, _) if low > 0:
            geometric = low + step * round((_center(low, high, log=True) - low) / step)
            return list(dict.fromkeys([middle(dimension), geometric]))
        case Categorical(choices):
            return list(choices)
    return [middle(dimension)]


def _corners(name: str, options: Mapping[str, Dimension]) -> list[Choice]:
    return [
        Choice(name, dict(zip(options, corner, strict=True)))
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


def trial_seed(spec: SweepSpec, number: int) -> int:
    """The seed of a trial that has this number, or of all trials of a listed search's round `number`."""
    return (spec.search.seed * _SEED_STRIDE + number) % 2**31


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
    name = next(iter(slot)) if len(slot) == 1 else trial.suggest_categorical(key, list(slot))
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


def _suggest_teacher(trial: Trial, source: TeacherSource) -> Choice:
    """One of the teachers, and what is open about it: an ensemble's weights, the length of a chain."""
    if isinstance(source, OneOf):
        name = trial.suggest_categorical("teacher", list(source.choices))
        return Choice(name, _teacher_options(trial, f"teacher.{name}", source.choices[name]))
    return Choice("", _teacher_options(trial, "teacher", source))


def _teacher_options(trial: Trial, key: str, source: TeacherChoice) -> dict[str, Any]:
    if isinstance(source, Assistants):
        return {"steps": _suggest(trial, f"{key}.steps", source.steps)}
    if isinstance(source, Ensemble) and source.weights == "searched":
        raw = {m: trial.suggest_float(f"{key}.weights.{m}", SMALLEST_WEIGHT, 1.0) for m in source.of}
        return {f"weights.{member}": weight / sum(raw.values()) for member, weight in raw.items()}
    return {}


def _with_pairs(trial: Trial, slot: str, choice: Choice, num_student: int, num_teacher: int) -> Choice:
    """The choice with its layer map as canonical text; a searched map asks for one target a student stage."""
    text = choice.options.get("layer_map")
    if text in (None, layer_map.EMBEDDING):
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
