"""What a stopped trial would have reached: its last accuracy, carried on to the full budget.

Goes in: a stopped trial and the finished ones. Comes out: a guess that only the sampler hears, never a
result.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from kdsearch.curve import last_evaluated
from kdsearch.records import TrialRecord

NEAREST = (
    9  # finished trials whose further course is taken: enough for a median, few enough to be of its size
)


def final_accuracy(trial: TrialRecord, finished: Sequence[TrialRecord]) -> float | None:
    """The stopped trial's accuracy at full budget, at most 1.

    Its last value plus the median gain from that epoch to the last over the NEAREST finished trials by log
    params, of equally near ones the first. None where nothing has finished, or the trial was never evaluated.
    """
    epoch = last_evaluated(trial)
    finished = [other for other in finished if last_evaluated(other, epoch)]
    if trial.val_accuracy is None or not finished:
        return None
    size = math.log(trial.cost["params"])
    nearest = sorted(finished, key=lambda other: (abs(math.log(other.cost["params"]) - size), other.number))
    gains = [_gain(other, epoch) for other in nearest[:NEAREST]]
    return min(1.0, trial.val_accuracy + statistics.median(gains))


def _gain(finished: TrialRecord, epoch: int) -> float:
    """What a finished trial gained from this epoch to its last."""
    assert finished.val_accuracy is not None
    reached: float = finished.epochs[last_evaluated(finished, epoch) - 1]["metrics"]["val_accuracy"]
    return finished.val_accuracy - reached
