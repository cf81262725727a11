"""What a stopped trial would have reached: its last accuracy, carried on to the full budget.

Goes in: stopped trials and the finished ones. Comes out: guesses that only the sampler hears, never a result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdsearch.curve import last_evaluated
from kdsearch.losses.alone import epochs_alone
from kdsearch.records import TrialRecord

NEAREST = (
    9  # finished trials whose further course is taken: enough for a median, few enough to be of its size
)
FOREIGN = 1e6  # added to the distance of another family: none is farther from its own


def final_accuracy(trial: TrialRecord, finished: Sequence[TrialRecord]) -> float | None:
    """As `final_accuracies`, of one trial."""
    return final_accuracies([trial], finished)[0]


def final_accuracies(trials: Sequence[TrialRecord], finished: Sequence[TrialRecord]) -> list[float | None]:
    """Each stopped trial's accuracy at full budget, at most 1.

    Its last value plus the median gain from that epoch to the last over the NEAREST finished trials, those of
    its family first, by log params, of equally near ones the first. None where nothing has finished, or the
    trial was never evaluated.
    """
    finished = sorted(finished, key=lambda trial: trial.number)
    sizes = np.array([math.log(trial.cost["params"]) for trial in finished])
    families = np.array([trial.config.student.name for trial in finished])
    gains: dict[int, NDArray[np.float64]] = {}  # by epoch, NaN where there is none

    def final(trial: TrialRecord) -> float | None:
        epoch = last_evaluated(trial)
        if trial.val_accuracy is None or not finished:
            return None
        if epoch not in gains:
            gains[epoch] = np.array([_gain(other, epoch) for other in finished])
        distances = np.abs(sizes - math.log(trial.cost["params"]))
        distances += FOREIGN * (families != trial.config.student.name)
        order = np.argsort(np.where(np.isnan(gains[epoch]), np.inf, distances), kind="stable")
        nearest = gains[epoch][order[:NEAREST]]
        known = nearest[~np.isnan(nearest)]
        return min(1.0, trial.val_accuracy + float(np.median(known))) if len(known) else None

    return [final(trial) for trial in trials]


def _gain(finished: TrialRecord, epoch: int) -> float:
    """What a finished trial gained from this epoch, or the last look before it, to its last.

    NaN where nobody had looked, or where it had not begun to learn the labels.
    """
    assert finished.val_accuracy is not None
    then = last_evaluated(finished, epoch)
    if then <= epochs_alone(finished.config):
        return math.nan
    reached: float = finished.epochs[then - 1]["metrics"]["val_accuracy"]
    return finished.val_accuracy - reached
