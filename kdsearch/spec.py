"""The spec of a sweep: YAML in, a checked `SweepSpec` out.

Goes in: a YAML file and `--set a.b=v` overrides, or the plain dict that `to_dict` wrote. Comes out: a
`SweepSpec` with every default filled in, or a `SpecError` with every problem at once. The way there:
`spec_yaml` (lines), `spec_schema` (what may be said), `spec_read` (each value), `spec_checks` (values
together). Imports no torch, ray, optuna or mlflow.

`python -m kdsearch.spec --schema` prints the JSON Schema for editors.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdsearch import spec_checks, spec_methods, spec_teacher
from kdsearch.losses import SLOTS
from kdsearch.models import family
from kdsearch.schema_distill import RESPONSE_NUMBERS
from kdsearch.schema_networks import TRAIN_NEEDS, TRAIN_OPTIONS
from kdsearch.spec_read import INVALID, Categorical, Dimension, Float, Int, grid_value, read
from kdsearch.spec_schema import DATA, LISTING, SPEC, json_schema
from kdsearch.spec_teacher import (
    Assistants,
    BornAgain,
    Ensemble,
    Lesson,
    OneOf,
    TeacherChoice,
    TeacherSource,
    TeacherSpec,
)
from kdsearch.spec_yaml import Node, Problem, Problems, SpecError, from_plain, override, read_file

__all__ = [
    "RESPONSE_NUMBERS",
    "TRAIN_NEEDS",
    "TRAIN_OPTIONS",
    "Assistants",
    "BornAgain",
    "Categorical",
    "ConfirmSpec",
    "DataSpec",
    "Dimension",
    "DistillSpec",
    "EarlyStopping",
    "Ensemble",
    "Float",
    "Int",
    "Lesson",
    "OneOf",
    "Options",
    "Problem",
    "ResourcesSpec",
    "SearchSpec",
    "Slot",
    "SpecError",
    "Stages",
    "SweepSpec",
    "TeacherChoice",
    "TeacherSource",
    "TeacherSpec",
    "UnlabelledSpec",
    "check_layer_maps",
    "check_teacher_family",
    "diff",
    "from_dict",
    "grid_value",
    "json_schema",
    "load",
    "num_teacher_stages",
    "to_dict",
]

Options = dict[str, Any]  # values of a family, data set or method: scalars, or dimensions where searched
Slot = dict[str, Options]  # the names to choose from, each with its options; "none" is an empty choice


@dataclass(frozen=True)
class UnlabelledSpec:
    """Images to distil on without labels: of `dataset` (`rest`: what subset leaves out) or in `folder`."""

    dataset: str | None
    folder: str | None = None
    root: str | None = None
    share: float = 1.0
    ratio: float = 1.0


@dataclass(frozen=True)
class DataSpec:
    """`validation`: a count, or a fraction below 1; None: the data set's own split or share."""

    dataset: str
    root: str = "data"
    validation: int | float | None = None
    subset: int | None = None
    resize: int | None = None
    augment: tuple[tuple[str, Options], ...] = ()
    unlabelled: UnlabelledSpec | None = None
    options: Options = dataclasses.field(default_factory=dict)
    seed: int = 0


CONFIRM_SEEDS = 3
DISTILL_NUMBERS = ("alpha", "temperature", "label_weight", "teacher_views")


@dataclass(frozen=True)
class DistillSpec:
    """`slots` has every one of SLOTS. None leaves `alpha`, `temperature` and `label_weight` to the method.

    `teacher_views` is the number of views of an image over which the teacher's answer is averaged;
    `schedule` and `curriculum` are slots over SCHEDULES and CURRICULA.
    `online` trains further students beside the one that the trial is about (`kdsearch.online`).
    """

    alpha: Dimension
    temperature: Dimension
    label_weight: Dimension
    teacher_views: Dimension
    slots: dict[str, Slot]
    schedule: Slot
    curriculum: Slot
    online: Slot


@dataclass(frozen=True)
class EarlyStopping:
    scheduler: str  # asha, none or pareto
    grace_epochs: int
    reduction_factor: int


@dataclass(frozen=True)
class SearchSpec:
    """`trials` None: as many as a listing sampler (grid, one_at_a_time) has; ehvi and tpe need a number."""

    trials: int | None
    seed: int
    objectives: tuple[str, ...]
    early_stopping: EarlyStopping
    time_s: float | None
    device_s: float | None = None
    hypervolume: float | None = None
    patience: int | None = None
    warm_start: tuple[str, ...] = ()
    sampler: str = "ehvi"
    seeds: int = 1


@dataclass(frozen=True)
class ConfirmSpec:
    """`seeds` 0: nothing follows the search. `tuning`: trials for each kind of control in a size band."""

    seeds: int
    tuning: int = 4


@dataclass(frozen=True)
class ResourcesSpec:
    cpus_per_trial: float
    gpus_per_trial: float
    max_concurrent: int | None
    cache_gb: float


@dataclass(frozen=True)
class SweepSpec:
    """A sweep, every default filled in. `train` has all of TRAIN_OPTIONS; `evaluate` stands beside them."""

    name: str
    data: DataSpec
    teacher: TeacherSource
    student: Slot
    distill: DistillSpec
    train: Options
    evaluate: str  # rungs or every_epoch
    search: SearchSpec
    confirm: ConfirmSpec
    resources: ResourcesSpec

    @property
    def epochs(self) -> int:
        """The full budget of a trial."""
        return int(self.train["epochs"])


def load(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> SweepSpec:
    """The spec in a YAML file, changed by `a.b=v` overrides. Raises SpecError with every problem."""
    root, found = read_file(path)
    for setting in overrides:
        found += override(root, setting)
    return _spec(root, found)


def from_dict(data: Mapping[str, Any]) -> SweepSpec:
    """The spec that `to_dict` wrote. Raises SpecError."""
    return _spec(from_plain(data, "spec"), [])


def to_dict(spec: SweepSpec) -> dict[str, Any]:
    """The resolved spec in the form of the YAML, of plain JSON values; `load` reads its dump back."""
    data, distill = dataclasses.asdict(spec.data), spec.distill
    data |= {"augment": [{name: options} for name, options in spec.data.augment], **data.pop("options")}
    numbers = {name: getattr(distill, name) for name in DISTILL_NUMBERS}
    resolved: dict[str, Any] = _plain(
        {
            "name": spec.name,
            "data": data,
            "teacher": spec_teacher.written(spec.teacher),
            "student": spec.student,
            "distill": {
                **numbers,
                **distill.slots,
                "schedule": distill.schedule,
                "curriculum": distill.curriculum,
                "online": distill.online,
            },
            "train": {**spec.train, "evaluate": spec.evaluate},
            "search": dataclasses.asdict(spec.search),
            "confirm": dataclasses.asdict(spec.confirm),
            "resources": dataclasses.asdict(spec.resources),
        }
    )
    return resolved


BUDGETS = (
    *(f"search.{name}" for name in ("trials", "seeds", "time_s", "device_s", "hypervolume", "patience")),
    *("confirm.seeds", "resources."),
)


def diff(old: SweepSpec, new: SweepSpec) -> tuple[list[str], list[str]]:
    """What differs, as `search.trials: 20 -> 40`: what a resumed sweep cannot change, and what it can."""
    before, after = _flat(to_dict(old)), _flat(to_dict(new))
    fixed: list[str] = []
    budgets: list[str] = []
    for key in before | after:
        was, now = (json.dumps(side[key]) if key in side else "nothing" for side in (before, after))
        if was != now:
            (budgets if _may_change(key) else fixed).append(f"{key}: {was} -> {now}")
    return fixed, budgets


def _may_change(key: str) -> bool:
    """Budgets, and what is asked of the teacher before the search: it changes none of its results."""
    return key.startswith(BUDGETS) or (key.startswith("teacher.") and key.endswith(".min_accuracy"))


Stages = int | Mapping[str, int]  # of the teacher, or by name where there is a choice


def num_teacher_stages(spec: SweepSpec) -> Stages | None:
    """How many stages the teacher has; None when only a checkpoint can tell."""
    counts: dict[str, int] = {}
    for name, choice in spec_teacher.choices(spec.teacher).items():
        network = spec_teacher.leader(choice)
        if network.family is None:
            return None
        counts[name] = len(family(network.family).stages(network.options))
    return counts if isinstance(spec.teacher, OneOf) else counts[""]


def check_layer_maps(spec: SweepSpec, num_teacher_stages: Stages) -> None:
    """Raises SpecError where a layer map does not fit a teacher that came from a checkpoint."""
    problems = Problems(from_plain(to_dict(spec), "spec"))
    values = {"student": spec.student, "distill": spec.distill.slots}
    counts = num_teacher_stages.values() if isinstance(num_teacher_stages, Mapping) else [num_teacher_stages]
    spec_checks.check_layer_maps(values, counts, problems)
    problems.raise_if_any()


def check_teacher_family(spec: SweepSpec, name: str) -> None:
    """Raises SpecError where a method reads what a teacher that came from a checkpoint does not publish."""
    problems = Problems(from_plain(to_dict(spec), "spec"))
    roles = [*(("student", student) for student in spec.student), ("teacher", name)]
    spec_methods.check_networks({"distill": spec.distill.slots}, roles, problems)
    problems.raise_if_any()


def _spec(root: Node, found: list[Problem]) -> SweepSpec:
    problems = Problems(root, found)
    values = read(SPEC, root, (), problems)
    if values is not INVALID:
        spec_checks.check(values, problems)
        spec_methods.check(values, spec_checks.roles(values), problems)
    problems.raise_if_any()
    search = values["search"]
    train = {name: values["train"][name] for name in TRAIN_OPTIONS}
    return SweepSpec(
        name=values["name"],
        data=_data(values["data"]),
        teacher=spec_teacher.source(values["teacher"], train),
        student=values["student"],
        distill=DistillSpec(
            **{name: values["distill"][name] for name in DISTILL_NUMBERS},
            slots={slot: values["distill"][slot] for slot in SLOTS},
            schedule=values["distill"]["schedule"],
            curriculum=values["distill"]["curriculum"],
            online=values["distill"]["online"],
        ),
        train=train,
        evaluate=values["train"]["evaluate"],
        search=SearchSpec(**{**search, "early_stopping": _early_stopping(search, train["epochs"])}),
        confirm=_confirm(values["confirm"], search["sampler"]),
        resources=ResourcesSpec(**values["resources"]),
    )


def _early_stopping(search: Options, epochs: int) -> EarlyStopping:
    """pareto unless the spec says otherwise, and where it can decide: with proposals, and a rung left."""
    early = EarlyStopping(**search["early_stopping"])
    decides = search["sampler"] not in LISTING and early.grace_epochs < epochs
    return dataclasses.replace(early, scheduler=early.scheduler or ("pareto" if decides else "none"))


def _confirm(values: Options, sampler: str) -> ConfirmSpec:
    """Three seeds unless the spec says otherwise; a sampler that lists repeats its trials itself."""
    seeds = values["seeds"]
    usual = 0 if sampler in LISTING else CONFIRM_SEEDS
    return ConfirmSpec(usual if seeds is None else seeds, values["tuning"])


def _data(values: Options) -> DataSpec:
    common = {name: values[name] for name in DATA.fields}
    validation = values["validation"]
    if validation is not None and validation >= 1:
        common["validation"] = int(validation)
    unlabelled = UnlabelledSpec(**values["unlabelled"])
    common["unlabelled"] = unlabelled if unlabelled.dataset or unlabelled.folder else None
    return DataSpec(**common, options={n: v for n, v in values.items() if n not in common})


_TYPES: dict[type, str] = {Float: "float", Int: "int", Categorical: "categorical"}


def _plain(value: Any) -> Any:
    """JSON values: distributions as mappings of what differs from their defaults, tuples as lists."""
    if isinstance(value, Float | Int | Categorical):
        settings = {
            f.name: getattr(value, f.name)
            for f in dataclasses.fields(value)
            if getattr(value, f.name) != f.default
        }
        return {"type": _TYPES[type(value)], **_plain(settings)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves under their dotted keys; a list is a leaf."""
    leaves: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            leaves |= _flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m kdsearch.spec", description="What a spec may say.")
    parser.add_argument(
        "--schema", action="store_true", required=True, help="print the JSON Schema for editors"
    )
    parser.parse_args(arguments)
    print(json.dumps(json_schema(), indent=2))


if __name__ == "__main__":
    main()
