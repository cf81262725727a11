"""How much accuracy owes to the seed: the measured noise by which two results are told apart.

Goes in: curves of trainings that differ in their seed alone, and the size of the validation split. Comes
out: the standard deviation of one training's accuracy at an epoch, a fraction. No Ray.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from kdsearch.membership import pooled_variance
from kdsearch.statistics import binomial_error

Curve = Sequence[float]  # validation accuracy by epoch, the first epoch first

# Epochs from epoch/1.5 to epoch*1.5 are pooled: two pairs of seeds alone have two degrees of freedom, with
# which a standard deviation is known to a factor of about three.
POOLED = 1.5


def seed_sd(repeats: Sequence[Sequence[Curve]], epoch: int, num_validation: int | None) -> float:
    """The standard deviation of a training's validation accuracy at `epoch`.

    `repeats` are groups of curves that differ in their seed alone; variances are pooled over the groups
    and over neighbouring epochs. Never below the binomial standard error of the validation split,
    sqrt(p (1 - p) / n) at the groups' mean accuracy p, and that alone where nothing was repeated; p is 0.5,
    where the error is largest, while no curve has come that far. `num_validation` None is no bound.
    """
    reached = [curve[epoch - 1] for group in repeats for curve in group if len(curve) >= epoch]
    accuracy = statistics.mean(reached) if reached else 0.5
    return max(binomial_error(accuracy, num_validation), _pooled_sd(repeats, epoch))


def _pooled_sd(repeats: Sequence[Sequence[Curve]], epoch: int) -> float:
    """0 where no group has two curves that came so far."""
    groups = [
        [curve[near - 1] for curve in group if len(curve) >= max(near, epoch)]
        for near in range(math.ceil(epoch / POOLED), math.floor(epoch * POOLED) + 1)
        for group in repeats
    ]
    variance, degrees = pooled_variance(groups)
    return math.sqrt(variance) if degrees else 0.0
