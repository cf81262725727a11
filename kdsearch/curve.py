"""A student's validation accuracy by epoch: it is not looked at after every one.

Goes in: a `TrialRecord`. Comes out: epochs and accuracies.
"""

from __future__ import annotations

from kdsearch.records import TrialRecord


def points(trial: TrialRecord) -> list[tuple[int, float]]:
    """Every epoch in which the student was evaluated, with its validation accuracy."""
    metrics = [(epoch["epoch"], epoch["metrics"]) for epoch in trial.epochs]
    return [(epoch, found["val_accuracy"]) for epoch, found in metrics if "val_accuracy" in found]


def last_evaluated(trial: TrialRecord, epoch: int | None = None) -> int:
    """The last epoch, up to the given one, in which the student was evaluated; 0 where there is none."""
    last = trial.num_epochs if epoch is None else epoch
    return next((n for n in range(last, 0, -1) if "val_accuracy" in trial.epochs[n - 1]["metrics"]), 0)
