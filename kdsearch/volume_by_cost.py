"""How the hypervolume of the front grew with what was spent.

Goes in: a `SweepRecord`. Comes out: (seconds spent, hypervolume) for each search trial that moved the front,
where confirmation began, and what the front is worth by its repeats.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from dataclasses import dataclass

from kdsearch import costs, pareto, results
from kdsearch.confirmation import Confirmation
from kdsearch.records import SweepRecord, TrialRecord
from kdsearch.summary import hypervolume


@dataclass(frozen=True)
class Growth:
    """Seconds are those of `costs.unit`, of students alone; the volumes have one reference point.

    `confirming_from` is what had been spent when the first repeat or tuned or paired control began, and
    `confirmed` the volume of the front of record by its repeats; None before there is such a thing.
    """

    steps: tuple[tuple[float, float], ...]
    total: float
    confirming_from: float | None
    confirmed: float | None


def growth(sweep: SweepRecord, found: Confirmation | None) -> Growth:
    """Epochs count when they were reported, students when their trial ended."""
    spent = _Clock(sweep)
    trials = sorted(
        (trial for trial in sweep.of_role("search") if trial.status == "completed" and trial.epochs),
        key=lambda trial: (trial.ended, trial.number),
    )
    names = results.objectives(sweep)
    members: list[TrialRecord] = []
    steps: list[tuple[float, float]] = []
    for trial in trials:
        tried = [*members, trial]
        students = [(owner, student) for owner in tried for student in owner.students()]
        mask = pareto.non_dominated([results.objective_point(student, names) for _, student in students])
        owners = {
            owner.trial_id for (owner, _), is_on_front in zip(students, mask, strict=True) if is_on_front
        }
        if trial.trial_id in owners:
            members = [owner for owner in tried if owner.trial_id in owners]
            steps.append((spent.at(trial.ended), _volume(sweep, members)))
    after = [trial.started for trial in sweep.trials.values() if _is_after_the_search(trial)]
    return Growth(
        tuple(steps),
        spent.total,
        spent.at(min(after)) if after else None,
        _confirmed_volume(sweep, found) if found is not None and found.is_complete else None,
    )


class _Clock:
    """Seconds spent on trials up to a moment."""

    def __init__(self, sweep: SweepRecord) -> None:
        epochs = [
            (epoch["time"], costs.device_s([epoch]))
            for trial in sweep.trials.values()
            for epoch in trial.epochs
        ]
        self._times = sorted(epochs)
        self._sums = list(itertools.accumulate(seconds for _, seconds in self._times))
        self.total = self._sums[-1] if self._sums else 0.0

    def at(self, moment: float) -> float:
        index = bisect.bisect_right(self._times, (moment, float("inf")))
        return self._sums[index - 1] if index else 0.0


def _is_after_the_search(trial: TrialRecord) -> bool:
    return trial.role == "confirm" or trial.purpose not in ("", "floor")


def _volume(sweep: SweepRecord, members: list[TrialRecord]) -> float:
    """Of these trials' front, with the reference point of the whole sweep."""
    others = {name: trial for name, trial in sweep.trials.items() if trial.role != "search"}
    kept = others | {trial.trial_id: trial for trial in members}
    value: float = hypervolume(dataclasses.replace(sweep, trials=kept))["value"]
    return value


def _confirmed_volume(sweep: SweepRecord, found: Confirmation) -> float:
    """Of the front of record, every student with the mean accuracy of its repeats."""
    members = [
        dataclasses.replace(record, trial_id=record.student_id, peers=(), student_number=1)
        for record in (student.as_confirmed for student in found.on_front)
    ]
    return _volume(sweep, members)
