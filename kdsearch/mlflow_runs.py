"""What MLflow should hold about a sweep: names, params, metrics and tags of every run.

Goes in: a `SweepRecord`, replayed from the journal. Comes out: a `Run` for the sweep (the parent) and one
for each trial, always in full and within MLflow's limits, so that sending one is a matter of difference.
Needs no mlflow; `tracking.py` does the sending.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from kdsearch import results
from kdsearch.losses import SLOTS
from kdsearch.records import Choice, Event, Status, SweepRecord, TrialConfig, TrialRecord, of_student

# Limits of mlflow 3.17, mlflow/utils/validation.py. One name over them loses a whole batch.
MAX_NAME = 250
MAX_PARAM = 6000
MAX_TAG = 8000
_ILLEGAL = re.compile(r"[^A-Za-z0-9_./ -]")

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
SWEEP_ID, TRIAL_ID, ON_FRONT = "kdsearch.sweep_id", "kdsearch.trial_id", "kdsearch.on_front"

# A trial that the scheduler stopped did what it should: FINISHED, and the tag kdsearch.status says stopped.
_TRIAL_STATUS: Mapping[Status, RunStatus] = {
    "running": "RUNNING",
    "completed": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
}
_SWEEP_STATUS: Mapping[str, RunStatus] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class Point(NamedTuple):
    """One value of a metric. MLflow drops a point sent again only if its time is the same: the journal's."""

    name: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class Run:
    """All that MLflow should hold about one run; `trial_id` is '' for the sweep's own.

    `points` are in order of their step: 0 for what is known before training, then the epochs.
    """

    trial_id: str
    name: str
    started_ms: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: tuple[Point, ...]
    status: RunStatus
    ended_ms: int


def sweep_run(sweep: SweepRecord, teacher: Event | None) -> Run:
    """The parent run: the spec as params, the teacher as metrics.

    `teacher` is the journal's first `teacher_ready`: a resumed sweep has one for each session, and sending
    a later one would log step 0 twice.
    """
    header, ended = sweep.header, sweep.ended
    tags = {
        SWEEP_ID: header["sweep_id"],
        "kdsearch.role": "sweep",
        "kdsearch.status": ended["status"] if ended else "running",
        "kdsearch.reason": (ended or {}).get("reason", ""),
        "kdsearch.spec_hash": header["spec_hash"],
        "mlflow.source.git.commit": header["commit"],
        **{f"kdsearch.version.{package}": version for package, version in header["versions"].items()},
    }
    if sweep.budget_reached:
        tags["kdsearch.budget_reached"] = sweep.budget_reached["budget"]
    if sweep.warnings:
        tags["kdsearch.warnings"] = "\n".join(event["text"] for event in sweep.warnings)
    if teacher:
        tags |= {f"kdsearch.teacher.{name}": teacher.get(name, "") for name in ("key", "family", "source")}
    return Run(
        trial_id="",
        name=f"sweep {header['sweep_id']}",
        started_ms=_milliseconds(sweep.sessions[0]["time"]),
        params=_legal(_flat(header["spec"]), MAX_PARAM),
        tags=_legal(tags, MAX_TAG),
        points=tuple(_teacher_points(teacher)) if teacher else (),
        status=_SWEEP_STATUS.get(ended["status"], "FINISHED") if ended else "RUNNING",
        ended_ms=_milliseconds(ended["time"]) if ended else 0,
    )


def trial_run(sweep: SweepRecord, trial: TrialRecord) -> Run:
    """A child run. A trial that was running when its sweep ended is KILLED; a resume takes it up again."""
    is_cut_off = trial.status == "running" and sweep.ended is not None
    ended = sweep.ended["time"] if is_cut_off and sweep.ended else trial.ended
    tags = {
        SWEEP_ID: sweep.header["sweep_id"],
        TRIAL_ID: trial.trial_id,
        "kdsearch.role": trial.role,
        "kdsearch.purpose": trial.purpose,
        "kdsearch.partner": trial.partner,
        "kdsearch.status": "interrupted" if is_cut_off else trial.status,
        "kdsearch.reason": trial.reason,
        "kdsearch.rule": trial.rule,
        "kdsearch.error": trial.error,
        "kdsearch.student": trial.student,
    }
    if trial.origin:
        tags["kdsearch.origin"] = trial.origin
    return Run(
        trial_id=trial.trial_id,
        name=run_name(trial.trial_id, trial.config),
        started_ms=_milliseconds(trial.started),
        params=_legal({"seed": trial.seed, "band": trial.band, **trial.config.flat()}, MAX_PARAM),
        tags=_legal(tags, MAX_TAG),
        points=tuple(_trial_points(sweep, trial)),
        status="KILLED" if is_cut_off else _TRIAL_STATUS[trial.status],
        ended_ms=_milliseconds(ended),
    )


def run_name(trial_id: str, config: TrialConfig) -> str:
    """`t0007 resnet d20 w0.5 kd+at`: what tells one line of MLflow's table from the next."""
    names = [config.distill[slot].name for slot in SLOTS if slot in config.distill]
    names += [] if config.online.name == "none" else [config.online.name]
    methods = "+".join(names) or "no-kd"
    return " ".join([trial_id, config.student.name, *_sizes(config.student), methods])


def _sizes(student: Choice) -> list[str]:
    return [f"{name[0]}{value:g}" for name, value in student.options.items() if type(value) in (int, float)]


def _teacher_points(teacher: Event) -> Iterator[Point]:
    """Every number of the teacher's report as `teacher/...`: the UI groups metrics by such a prefix."""
    time_ms = _milliseconds(teacher["time"])
    for name, value in teacher.items():
        nested = (
            {f"{name}/{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
        )
        for key, number in nested.items():
            if type(number) in (int, float) and key not in ("v", "seq", "time"):
                yield Point(legal_name(f"teacher/{key}"), _finite(number), time_ms, 0)


def _trial_points(sweep: SweepRecord, trial: TrialRecord) -> Iterator[Point]:
    """Each student's size and compression once, for MLflow to sort and scatter by; then every epoch; in the
    end what all of them took, and accuracies on the test split, where it was opened."""
    once: dict[str, float | None] = {}
    for student in trial.students():
        sizes = {**student.cost, "compression": results.compression(sweep, student)}
        once |= {of_student(name, student.student_number): value for name, value in sizes.items()}
    for name, value in once.items():
        if value is not None:
            yield Point(legal_name(name), _finite(value), _milliseconds(trial.started), 0)
    reference = results.teacher_accuracy(sweep)
    for epoch in trial.epochs:
        values = dict(epoch["metrics"])
        for number in range(1, len(trial.peers) + 2):
            accuracy = epoch["metrics"].get(of_student("val_accuracy", number))
            if reference and accuracy is not None:
                values[of_student("retention", number)] = accuracy / reference
        values |= {f"term/{name}": value for name, value in epoch["terms"].items()}
        for name, value in values.items():
            yield Point(legal_name(name), _finite(value), _milliseconds(epoch["time"]), epoch["epoch"])
    if trial.status == "running":
        return
    last = {name: sum(epoch[name] for epoch in trial.epochs) for name in ("time_s", "cpu_s")}
    for student in trial.students():
        if student.test_accuracy is not None:
            last[of_student("test_accuracy", student.student_number)] = student.test_accuracy
    for name, value in last.items():
        # A step of its own: what is in the store is known by the newest step there.
        yield Point(name, _finite(value), _milliseconds(trial.ended), trial.num_epochs + 1)


def legal_name(name: str) -> str:
    """A name that MLflow accepts on every system, itself where it already is.

    A changed name ends in a checksum of the original, so that two names never become one.
    """
    legal = posixpath.normpath(_ILLEGAL.sub("_", name)).lstrip("/")
    if legal == name and len(name) <= MAX_NAME and name not in (".", "..") and not name.startswith("../"):
        return name
    return f"{legal.replace('..', '_')[: MAX_NAME - 9]}-{zlib.crc32(name.encode()):08x}"


def _legal(values: Mapping[str, Any], limit: int) -> dict[str, str]:
    return {legal_name(name): _text(value)[:limit] for name, value in values.items()}


def _text(value: Any) -> str:
    """A value as the YAML would have it: true and not True."""
    return value if isinstance(value, str) else json.dumps(value)


def _finite(value: float) -> float:
    """Infinity as NaN: MLflow would store it as 1.8e308, which flattens every chart."""
    return float(value) if math.isfinite(value) else math.nan


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A spec under dotted names, without what is unset. A distribution stays one value."""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, Mapping) and "type" not in value:
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat
