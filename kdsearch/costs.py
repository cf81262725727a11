"""What a sweep cost, and what each student of its front cost with its share of all that was thrown away.

Goes in: a `SweepRecord`. Comes out: CPU- and GPU-seconds by what they were spent on. Counted are the epochs
that are in the journal: neither what a crash lost before it was reported, nor starting processes, nor idle
slots. The teacher, its assistants included, is counted where this sweep trained it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kdsearch import pairing, spending
from kdsearch.confirmation import front_of_record
from kdsearch.records import Event, SweepRecord, TrialRecord

SEARCH_STATUSES = ("completed", "stopped", "failed", "running")
PURPOSES: Mapping[str, str] = {  # of controls, in the order in which they are trained
    "floor": "no-KD floors",
    "tune_no_kd": "no-KD controls, tuning",
    "tune_kd": "plain KD controls, tuning",
    "no_kd": "no-KD controls, paired",
    "kd": "plain KD controls, paired",
}


@dataclass(frozen=True)
class Account:
    """What one kind of work took. `time_s` adds up trials that ran side by side; GPU-seconds are an epoch's
    time times its share of a GPU, `device_s` these and the CPU-seconds of epochs without a GPU."""

    label: str
    num_trials: int
    epochs: int
    time_s: float
    cpu_s: float
    gpu_s: float
    device_s: float


@dataclass(frozen=True)
class Cost:
    """Seconds that one student of the front stands for, in the sweep's `unit`."""

    own: float  # the training that the search chose
    confirming: float  # its repeats and paired controls, those that it shares split evenly
    share: float  # of everything else that was trained in its size band

    @property
    def total(self) -> float:
        return self.own + self.confirming + self.share


def uses_gpus(sweep: SweepRecord) -> bool:
    """Whether any epoch had a GPU."""
    return any(_shares(sweep))


def unit(sweep: SweepRecord) -> str:
    """GPU-seconds where epochs had GPUs, else CPU-seconds; both where only some sessions had GPUs."""
    kinds = {bool(share) for share in _shares(sweep)}
    return {1: "GPU-seconds", 0: "CPU-seconds"}[kinds.pop()] if len(kinds) == 1 else "GPU- and CPU-seconds"


def accounts(sweep: SweepRecord, events: Iterable[Event]) -> dict[str, Account]:
    """By key as in summary.json, in the order of the work; kinds of work that never came up are left out."""
    found = {"teacher": _teacher(sweep, events)}
    for status in SEARCH_STATUSES:
        trials = [trial for trial in sweep.of_role("search") if trial.status == status]
        found[f"search_{status}"] = _account(f"search, {status}", trials)
    for purpose, label in PURPOSES.items():
        trials = [trial for trial in sweep.of_role("control") if (trial.purpose or "floor") == purpose]
        found[f"control_{purpose}"] = _account(label, trials)
    found["confirm"] = _account("confirmation", sweep.of_role("confirm"))
    return {key: account for key, account in found.items() if account.num_trials}


def of_front(sweep: SweepRecord) -> dict[str, Cost]:
    """The cost of each student of the front by student_id. Together they are what all trials took.

    Whatever is no front student's own training, repeat or paired control is shared evenly by the front
    students of its size band: trials that were stopped, failed or were dominated, floors, tuning, and the
    repeats and controls of students that are not on the front. A band without a front student is shared by
    all of them.
    """
    front = front_of_record(sweep)
    training: dict[str, list[str]] = {}  # whose own it is, by trial
    for trial in front:
        training.setdefault(trial.trial_id, []).append(trial.student_id)
    confirming = _confirming(sweep, {trial.student_id for trial in front})
    by_band: dict[int, list[str]] = {}
    for trial in front:
        by_band.setdefault(trial.band, []).append(trial.student_id)
    everyone = [trial.student_id for trial in front]
    parts: dict[str, list[list[float]]] = {name: [[], [], []] for name in everyone}
    for trial in sweep.trials.values():
        seconds = device_s(trial.epochs)
        kind, owners = 2, by_band.get(trial.band, everyone)
        for place, owned in enumerate((training, confirming)):
            if trial.trial_id in owned:
                kind, owners = place, owned[trial.trial_id]
        for name in owners:
            parts[name][kind].append(seconds / len(owners))
    return {name: Cost(*(math.fsum(part) for part in own)) for name, own in parts.items()}


def device_s(epochs: Iterable[Event]) -> float:
    """GPU-seconds of these epochs, CPU-seconds of those without a GPU."""
    return math.fsum(map(spending.device_s, epochs))


def _shares(sweep: SweepRecord) -> Iterator[float]:
    """Of a GPU, by epoch; before the first one what the spec asks for."""
    found = (epoch["gpus"] for trial in sweep.trials.values() for epoch in trial.epochs)
    first = next(found, spending.gpus_asked(sweep.header))
    return itertools.chain([first], found)


def _confirming(sweep: SweepRecord, on_front: set[str]) -> dict[str, list[str]]:
    """For each repeat and paired control the front students that it is for; a repeat is its student's own."""
    found = [one for one in pairing.confirmed(sweep) if one.student.student_id in on_front]
    owners: dict[str, list[str]] = {}
    for one in found:
        for run in one.runs:
            owners.setdefault(run.trial_id, []).append(one.student.student_id)
    for one in found:
        controls = {
            run.trial_id for run in (*one.no_kd, *one.kd) if run is not None and run.role == "control"
        }
        for name in sorted(controls):
            owners.setdefault(name, []).append(one.student.student_id)
    return owners


def _teacher(sweep: SweepRecord, events: Iterable[Event]) -> Account:
    """The networks that this sweep trained to teach; the mean of several costs nothing beyond them.

    They are trained before the first epoch of a student, on one whole GPU where that epoch had some of one.
    """
    trained = {
        event.get("name", ""): event
        for event in events
        if event["kind"] == "teacher_ready" and event.get("source") == "trained" and not event.get("of")
    }
    found = list(trained.values())
    seconds = math.fsum(event.get("time_s") or 0.0 for event in found)
    cpu_s = math.fsum(event.get("cpu_s") or 0.0 for event in found)
    has_gpu = bool(next(_shares(sweep)))
    return Account(
        "teacher",
        len(found),
        sum(event.get("epochs") or 0 for event in found),
        seconds,
        cpu_s,
        seconds if has_gpu else 0.0,
        seconds if has_gpu else cpu_s,
    )


def _account(label: str, trials: Sequence[TrialRecord]) -> Account:
    epochs = [epoch for trial in trials for epoch in trial.epochs]
    return Account(
        label,
        len(trials),
        len(epochs),
        _sum(epochs, "time_s"),
        _sum(epochs, "cpu_s"),
        math.fsum(epoch["time_s"] * epoch["gpus"] for epoch in epochs),
        device_s(epochs),
    )


def _sum(epochs: Iterable[Event], name: str) -> float:
    return math.fsum(epoch[name] for epoch in epochs)
