"""When to stop a trial: pure functions over what the rungs have seen.

Goes in: a trial's accuracy at a rung and the accuracies recorded there. Comes out: go on or stop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rungs(grace_epochs: int, reduction_factor: int, max_epochs: int) -> list[int]:
    """The epochs at which a trial is judged: grace, grace*factor, ... below the full budget.

    >>> rungs(3, 3, 60)
    [3, 9, 27]
    """
    levels = []
    epoch = grace_epochs
    while epoch < max_epochs:
        levels.append(epoch)
        epoch *= reduction_factor
    return levels


def is_stopped(accuracy: float, recorded: Sequence[float], reduction_factor: int) -> bool:
    """Whether a trial that reaches a rung stops there.

    It goes on when its accuracy is in the top 1/reduction_factor of the rung, itself included; the
    first arrivals have nothing to be compared with and go on. Source: the stopping variant of ASHA,
    Li et al., MLSys 2020, arXiv 1810.05934.
    """
    if not recorded:
        return False
    cutoff = float(np.percentile(recorded, (1 - 1 / reduction_factor) * 100))
    return accuracy < cutoff
