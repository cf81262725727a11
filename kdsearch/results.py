"""What a sweep found, as plain values: rows of the result files, the front, and its hypervolume.

Goes in: a `SweepRecord`, replayed from a folder's journal. Comes out: dicts and lists of Python numbers
and strings. Everything that shows or chooses results (report, pick, tracking) asks here, so that they
agree; needs numpy only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from kdsearch import cli, costs, journal, pareto
from kdsearch.confirmation import Split, Student, confirmation, front_of_record, no_kd_controls
from kdsearch.front import accuracy as accuracy  # this and the next ones for whoever asks `results`
from kdsearch.front import completed as completed
from kdsearch.front import front as front
from kdsearch.front import objective as objective
from kdsearch.front import objective_point as objective_point
from kdsearch.front import objectives as objectives
from kdsearch.front import students as students
from kdsearch.losses import SLOTS
from kdsearch.records import (
    Event,
    Role,
    SweepRecord,
    TrainConfig,
    TrialConfig,
    TrialRecord,
    is_of_further_student,
    replay,
)
from kdsearch.statistics import Estimate

Row = dict[str, Any]

ROLES: tuple[Role, ...] = ("control", "search", "confirm")
STATUSES = ("completed", "stopped", "failed", "running")

# The contract of trials.csv, curves.csv and pareto.csv: names and order are what scripts rely on.
RESULT_COLUMNS = (
    *("trial_id", "student_id", "role", "status", "epochs", "max_epochs", "seed", "val_accuracy"),
    *(
        "params",
        "macs",
        "size_mb",
        "retention",
        "compression",
        "time_s",
        "on_front",
        "mlflow_run_id",
        "error",
    ),
)
CURVE_COLUMNS = ("trial_id", "epoch", "train_loss", "val_accuracy", "time_s")
CONFIRM_COLUMNS = (
    *("num_seeds", "confirmed_val_accuracy_mean", "confirmed_val_accuracy_std"),
    *("test_accuracy_mean", "test_accuracy_std", "no_kd_test_accuracy_mean"),
    *("gain", "gain_low", "gain_high", "p_on_front", "cost_s"),
)
CONFIRMED_COLUMNS = (
    *("was_on_front", "split", "verdict"),
    *("gain_over_kd", "gain_over_kd_low", "gain_over_kd_high", "verdict_over_kd"),
)
_CONFIG_ORDER: Mapping[str, tuple[str, ...]] = {
    "teacher": (),
    "student": ("family",),
    "distill": ("alpha", "temperature", "label_weight", *SLOTS, "schedule", "curriculum"),
    "train": tuple(field.name for field in dataclasses.fields(TrainConfig)),
}
_CONFIG_COLUMNS = {f"{section}.{name}" for section, names in _CONFIG_ORDER.items() for name in names}


def load(folder: Path) -> tuple[SweepRecord, list[Event]]:
    """The sweep in a folder and the events it was replayed from.

    Raises UsageError without a folder or a journal, NotFinishedError for an empty or damaged journal.
    """
    path = folder / journal.FILE
    if not path.is_file():
        missing = f"no {journal.FILE} in it" if folder.is_dir() else "no such folder"
        raise cli.UsageError(f"{folder}: {missing}; give the folder of a sweep, as in reports/cifar100")
    try:
        events = journal.read(path)
        return replay(events), events
    except journal.JournalError as error:
        raise cli.NotFinishedError(str(error)) from None
    except KeyError as error:
        raise cli.NotFinishedError(f"{path}: an event lacks or does not know {error}; damaged?") from error
    except (TypeError, ValueError) as error:
        raise cli.NotFinishedError(f"{path}: {error}") from error


def trials(sweep: SweepRecord) -> list[TrialRecord]:
    """All trials: controls, search, confirmation, each by number."""
    return [trial for role in ROLES for trial in sweep.of_role(role)]


def beaten_by_controls(sweep: SweepRecord) -> list[tuple[TrialRecord, TrialRecord]]:
    """(front student, best no-KD control that dominates it): where distillation did not help."""
    names = objectives(sweep)
    beaten = []
    for student in front(sweep):
        point = objective_point(student, names)
        better = [
            control
            for control in no_kd_controls(sweep)
            if pareto.dominates(objective_point(control, names), point)
        ]
        if better:
            beaten.append((student, max(better, key=accuracy)))
    return beaten


def method_label(config: TrialConfig) -> str:
    """The methods of a configuration in slot order, as in `kd + fitnet`."""
    names = [config.distill[slot].name for slot in SLOTS if slot in config.distill]
    names += [] if config.online.name == "none" else [config.online.name]
    return " + ".join(names) or "no distillation"


def layer_map_labels(config: TrialConfig) -> list[str]:
    """One `fitnet stage3>stage3` for every method of a configuration that compares stages."""
    choices = [config.distill[slot] for slot in SLOTS if slot in config.distill]
    return [f"{c.name} {c.options['layer_map']}" for c in choices if "layer_map" in c.options]


def teacher_accuracy(sweep: SweepRecord) -> float | None:
    return sweep.teacher.get("accuracy") if sweep.teacher else None


def retention(sweep: SweepRecord, trial: TrialRecord) -> float | None:
    """Student over teacher accuracy, None while either is unknown.

    Of several teachers it is the most accurate one, whoever taught this student: one measure for all.
    """
    return _ratio(trial.val_accuracy, teacher_accuracy(sweep))


def compression(sweep: SweepRecord, trial: TrialRecord) -> float | None:
    """Teacher over student params, None while either is unknown."""
    return _ratio(sweep.teacher.get("params") if sweep.teacher else None, trial.cost.get("params"))


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None


def trial_row(sweep: SweepRecord, trial: TrialRecord, is_on_front: bool) -> Row:
    """One line of trials.csv, of a student; None where nothing applies. Epochs and time are its trial's."""
    return {
        "trial_id": trial.trial_id,
        "student_id": trial.student_id,
        "role": trial.role,
        "status": trial.status,
        "epochs": trial.num_epochs,
        "max_epochs": trial.max_epochs,
        "seed": trial.seed,
        "val_accuracy": trial.val_accuracy,
        **{name: trial.cost.get(name) for name in ("params", "macs", "size_mb")},
        "retention": retention(sweep, trial),
        "compression": compression(sweep, trial),
        "time_s": round(math.fsum(epoch["time_s"] for epoch in trial.epochs), 3),
        "on_front": is_on_front,
        "mlflow_run_id": trial.mlflow_run_id or None,
        "error": " ".join(trial.error.split()) or None,
        **trial.config.flat(),
    }


def trial_rows(sweep: SweepRecord) -> list[Row]:
    """trials.csv: one row per student, controls first, by number. The front is that of record."""
    on_front = {trial.student_id for trial in front_of_record(sweep)}
    return [trial_row(sweep, trial, trial.student_id in on_front) for trial in students(sweep, *ROLES)]


def pareto_rows(sweep: SweepRecord) -> list[Row]:
    """pareto.csv: the front of record by params; what confirmation says is blank until there is some."""
    found = confirmation(sweep)
    blank: Row = dict.fromkeys(CONFIRM_COLUMNS)
    if found is None:
        return [trial_row(sweep, trial, True) | blank for trial in front(sweep)]
    known = {student.record.student_id: student for student in found.students}
    spent = costs.of_front(sweep)
    return [
        trial_row(sweep, trial, True)
        | blank
        | _confirmed_values(known.get(trial.student_id), found.split)
        | {"cost_s": round(spent[trial.student_id].total, 3)}
        for trial in front_of_record(sweep)
    ]


def confirmed_rows(sweep: SweepRecord) -> list[Row]:
    """confirmed.csv: every student that was trained again, on the front or not, by params."""
    found = confirmation(sweep)
    if found is None:
        return []
    spent = costs.of_front(sweep)
    return [
        trial_row(sweep, student.record, student.is_on_front)
        | _confirmed_values(student, found.split)
        | {"was_on_front": student.was_on_front, "split": found.split}
        | {"verdict": student.verdict or None, "verdict_over_kd": student.verdict_over_kd or None}
        | _interval("gain_over_kd", student.gain_over_kd)
        | {"cost_s": round(spent[name].total, 3) if (name := student.record.student_id) in spent else None}
        for student in found.students
    ]


def _confirmed_values(student: Student | None, split: Split) -> Row:
    """The CONFIRM_COLUMNS of one student but its cost; None where nothing applies."""
    if student is None:
        return {}
    return {
        "num_seeds": student.validation.n,
        "confirmed_val_accuracy_mean": student.validation.mean,
        "confirmed_val_accuracy_std": student.validation.std,
        "test_accuracy_mean": student.test and student.test.mean,
        "test_accuracy_std": student.test and student.test.std,
        "no_kd_test_accuracy_mean": student.no_kd.mean if student.no_kd and split == "test" else None,
        **_interval("gain", student.gain),
        "p_on_front": student.p_on_front,
    }


def _interval(name: str, known: Estimate | None) -> Row:
    return {} if known is None else {name: known.mean, f"{name}_low": known.low, f"{name}_high": known.high}


def curve_rows(sweep: SweepRecord) -> list[Row]:
    """curves.csv: one row per finished epoch, values of further students beside the first's.

    Accuracies are blank where nobody looked.
    """
    return [
        {
            "trial_id": trial.trial_id,
            "epoch": epoch["epoch"],
            "train_loss": epoch["metrics"].get("train_loss"),
            "val_accuracy": epoch["metrics"].get("val_accuracy"),
            "time_s": epoch["time_s"],
            **{name: value for name, value in epoch["metrics"].items() if is_of_further_student(name)},
            **epoch["terms"],
        }
        for trial in trials(sweep)
        for epoch in trial.epochs
    ]


def trial_columns(rows: Iterable[Row]) -> list[str]:
    """The fixed columns, then the configuration: student, distill, train, each value where it belongs.

    Slots, alpha, temperature and the recipe are always there, so that tables of two sweeps line up.
    """
    return [*RESULT_COLUMNS, *config_columns(rows, {*RESULT_COLUMNS, *CONFIRM_COLUMNS})]


def config_columns(rows: Iterable[Row], others: Collection[str]) -> list[str]:
    """The columns of the configuration: all of the rows' that are not `others`, and those always there."""
    found = {name for row in rows for name in row} - set(others)
    return sorted(found | _CONFIG_COLUMNS, key=_config_position)


def curve_columns(rows: Iterable[Row]) -> list[str]:
    """The fixed columns, those of further students, then the loss terms, the labels' first."""
    terms = {name for row in rows for name in row} - set(CURVE_COLUMNS)

    def position(name: str) -> tuple[bool, bool, str]:
        return not name.startswith(("train_loss.", "val_accuracy.")), name != "label", name

    return [*CURVE_COLUMNS, *sorted(terms, key=position)]


def _config_position(column: str) -> tuple[int, int, str]:
    section, _, name = column.partition(".")
    order = _CONFIG_ORDER[section]
    head = name.split(".")[0]
    return list(_CONFIG_ORDER).index(section), order.index(head) if head in order else len(order), column
