"""Which students are on the front: nothing else in the package decides it.

Goes in: a `SweepRecord`. Comes out: records of students, and their objectives as numbers. The search looks
here to see whom to train again, `results` for everything that shows or chooses; needs numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdsearch import pareto
from kdsearch.records import Role, SweepRecord, TrialRecord

# Confirmation repeats a front student with other seeds: it qualifies the front, it does not join it.
FRONT_ROLES: tuple[Role, ...] = ("search",)


def students(sweep: SweepRecord, *roles: Role) -> list[TrialRecord]:
    """A record for each student of these roles' trials; most trials have one."""
    return [student for role in roles for trial in sweep.of_role(role) for student in trial.students()]


def completed(sweep: SweepRecord, *roles: Role) -> list[TrialRecord]:
    """The students of these roles' trials that ran their full budget, the smallest first."""
    found = [trial for trial in students(sweep, *roles) if trial.status == "completed" and trial.epochs]
    return sorted(found, key=lambda trial: (trial.cost["params"], trial.student_id))


def accuracy(trial: TrialRecord) -> float:
    """The last epoch's validation accuracy of a trial that has one."""
    assert trial.val_accuracy is not None
    return trial.val_accuracy


def objectives(sweep: SweepRecord) -> tuple[str, ...]:
    """`val_accuracy` (higher is better), then the costs (lower is better) of the spec."""
    costs = [name for name in sweep.header["objectives"] if name != "val_accuracy"]
    return ("val_accuracy", *costs)


def objective(trial: TrialRecord, name: str) -> float:
    """A completed trial's value of one objective."""
    return accuracy(trial) if name == "val_accuracy" else trial.cost[name]


def objective_point(trial: TrialRecord, names: Iterable[str]) -> list[float]:
    """A completed trial's objectives, every one to be minimised."""
    return [objective(trial, name) * (-1 if name == "val_accuracy" else 1) for name in names]


def front(sweep: SweepRecord) -> list[TrialRecord]:
    """The students of completed search trials that no other dominates, by params; equal ones are all in it.

    No-KD controls are the floor that the front is compared with and never on it.
    """
    found = completed(sweep, *FRONT_ROLES)
    names = objectives(sweep)
    mask = pareto.non_dominated([objective_point(trial, names) for trial in found])
    return [trial for trial, is_on_front in zip(found, mask, strict=True) if is_on_front]
