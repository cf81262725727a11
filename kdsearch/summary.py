"""A sweep in numbers: counts, time, hypervolume, and how methods compare among students of one size.

Goes in: a `SweepRecord` and the events behind it. Comes out: what summary.json says, and the groups
that the report's tables show; needs numpy only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdsearch import costs, results
from kdsearch.confirmation import confirmation, front_of_record
from kdsearch.records import Event, SweepRecord, TrialConfig, TrialRecord
from kdsearch.volume import hypervolume as hypervolume  # for whoever asks `summary`


@dataclass(frozen=True)
class Session:
    """One run of the sweep's process: the first, or a resumed one. Times are Unix seconds."""

    started: float
    ended: float
    status: str  # of its sweep_ended event; "unfinished" without one
    reason: str
    phases: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Cell:
    """Students of completed search trials of one kind."""

    n: int
    mean: float
    best: float


@dataclass(frozen=True)
class Group:
    """One kind of trial: over all sizes, and in every size band (None where it has no trial)."""

    label: str
    overall: Cell
    bands: tuple[Cell | None, ...]


def summary(sweep: SweepRecord, events: Sequence[Event]) -> dict[str, Any]:
    """summary.json: what a script asks a finished or running sweep first."""
    runs = sessions(events)
    header = sweep.header
    return {
        "name": header["name"],
        "sweep_id": header["sweep_id"],
        "status": runs[-1].status,
        "reason": runs[-1].reason,
        "seed": header["seed"],
        "spec_hash": header["spec_hash"],
        "commit": header["commit"],
        "versions": header["versions"],
        "objectives": list(results.objectives(sweep)),
        "trials": counts(sweep),
        "teacher_accuracy": results.teacher_accuracy(sweep),
        "front": [trial.student_id for trial in front_of_record(sweep)],
        "search_front": [trial.student_id for trial in results.front(sweep)],
        "beaten_by_control": {
            student.student_id: control.trial_id for student, control in results.beaten_by_controls(sweep)
        },
        "hypervolume": hypervolume(sweep),
        "budget_reached": budget_reached(sweep),
        "wall_s": round(wall_s(runs), 3),
        "phases": phases(runs),
        "training": training_time(sweep),
        "costs": costs_of(sweep, events),
        "confirmation": confirmed(sweep),
        "sessions": len(runs),
        "test_openings": len(sweep.test_openings),
    }


def counts(sweep: SweepRecord) -> dict[str, dict[str, int]]:
    """How many trials of each role have each status, zeros included."""
    return {
        role: {status: sum(t.status == status for t in sweep.of_role(role)) for status in results.STATUSES}
        for role in results.ROLES
    }


def sessions(events: Iterable[Event]) -> list[Session]:
    """The runs that wrote this journal; the time between a crash and its resume belongs to none."""
    runs: list[list[Event]] = []
    for event in events:
        if event["kind"] == "sweep_started":
            runs.append([])
        runs[-1].append(event)
    return [_session(run) for run in runs]


def _session(run: Sequence[Event]) -> Session:
    end = next((event for event in reversed(run) if event["kind"] == "sweep_ended"), {})
    return Session(
        started=run[0]["time"],
        ended=max(event["time"] for event in run if event["kind"] != "mlflow_run"),  # may come days later
        status=end.get("status", "unfinished"),
        reason=end.get("reason") or "",
        phases=end.get("phases") or {},
    )


def wall_s(runs: Iterable[Session]) -> float:
    return math.fsum(run.ended - run.started for run in runs)


def phases(runs: Iterable[Session]) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds by phase, summed over the sessions that lived to say so."""
    total: dict[str, dict[str, float]] = {}
    for run in runs:
        for name, spent in run.phases.items():
            seconds = total.setdefault(name, {"wall_s": 0.0, "cpu_s": 0.0})
            for unit in seconds:
                seconds[unit] = round(seconds[unit] + spent.get(unit, 0.0), 3)
    return total


def training_time(sweep: SweepRecord) -> dict[str, dict[str, float]]:
    """Epochs and the seconds inside them by role; stopped and failed trials count too."""
    spent: dict[str, dict[str, float]] = {}
    for role in results.ROLES:
        epochs = [epoch for trial in sweep.of_role(role) for epoch in trial.epochs]
        spent[role] = {"epochs": len(epochs)} | {
            unit: round(math.fsum(epoch[unit] for epoch in epochs), 3) for unit in ("time_s", "cpu_s")
        }
    return spent


def budget_reached(sweep: SweepRecord) -> dict[str, Any] | None:
    """Which budget ended the search, its limit, what it was found at, and that in words; None: none yet."""
    event = sweep.budget_reached
    return event and {name: event[name] for name in ("budget", "limit", "value", "text")}


def costs_of(sweep: SweepRecord, events: Sequence[Event]) -> dict[str, Any]:
    """Seconds by kind of work, and by front student with its share of everything that is not its own."""
    spent = costs.accounts(sweep, events)
    return {
        "unit": costs.unit(sweep),
        "accounts": {
            key: {"trials": account.num_trials, "epochs": account.epochs}
            | {name: round(getattr(account, name), 3) for name in ("time_s", "cpu_s", "gpu_s")}
            for key, account in spent.items()
        },
        "front": {
            name: {part: round(getattr(cost, part), 3) for part in ("own", "confirming", "share", "total")}
            for name, cost in costs.of_front(sweep).items()
        },
    }


def confirmed(sweep: SweepRecord) -> dict[str, Any] | None:
    """What repeats made of the search's front, None before there are any; accuracies are fractions."""
    found = confirmation(sweep)
    if found is None:
        return None
    variance, degrees = found.spread
    return {
        "is_complete": found.is_complete,
        "students": len(found.students),
        "left": [student.record.student_id for student in found.left],
        "unrepeated": [trial.student_id for trial in found.unrepeated],
        "selection_bias": found.bias,
        "seed_std": math.sqrt(variance) if degrees else None,
        "seed_degrees": degrees,
        "gains_on": found.split,
    }


def bands(sweep: SweepRecord) -> list[tuple[float, float]]:
    """The size bands (low, high), smallest first; one band where the journal has none."""
    edges = (sweep.header.get("bands") or {}).get("edges") or [0.0, math.inf]
    return list(itertools.pairwise(edges))


def groups(sweep: SweepRecord, labels: Callable[[TrialConfig], Iterable[str]]) -> list[Group]:
    """Students of completed search trials by label (one may have several or none), most frequent first."""
    members: dict[str, list[TrialRecord]] = {}
    for trial in results.completed(sweep, "search"):
        for label in labels(trial.config):
            members.setdefault(label, []).append(trial)
    ordered = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
    return [group(sweep, label, found) for label, found in ordered]


def group(sweep: SweepRecord, label: str, found: Sequence[TrialRecord]) -> Group:
    """The cells of one kind of trial; `found` must not be empty."""
    cells = tuple(_cell([t for t in found if t.band == band]) for band in range(len(bands(sweep))))
    overall = _cell(found)
    assert overall is not None
    return Group(label, overall, cells)


def _cell(found: Sequence[TrialRecord]) -> Cell | None:
    values = [results.accuracy(trial) for trial in found]
    return Cell(len(values), math.fsum(values) / len(values), max(values)) if values else None


def beyond_size(trials: Sequence[TrialRecord]) -> list[float]:
    """Accuracies of completed trials less a straight line in log10 of the params, fitted to these trials."""
    values = np.array([results.accuracy(trial) for trial in trials])
    sizes = np.log10([trial.cost["params"] for trial in trials])
    if len(set(sizes.tolist())) < 2:
        return [float(value) for value in values]
    return [float(value) for value in values - np.polyval(np.polyfit(sizes, values, 1), sizes)]
