"""Which learning rates and weight decays the controls of a size band are tried with.

Goes in: the spec and a student near the front. Comes out: the same points for both kinds of control, so
that neither is tuned better than the other.
"""

from __future__ import annotations

import math
import random

from kdsearch.records import TrainConfig
from kdsearch.spec import Categorical, Dimension, Float, Int, SweepSpec, grid_value

Point = tuple[float, float]  # lr, weight_decay
NAMES = ("lr", "weight_decay")


def points(spec: SweepSpec, own: TrainConfig, band: int) -> list[Point]:
    """The student's own point, then others that fill the spec's ranges: `confirm.tuning` in all.

    The others are a Latin hypercube: cut into as many parts as there are points, each range has one point in
    every part (McKay, Beckman and Conover, Technometrics 1979). Fewer where a grid has no more, and the own
    one alone where the spec searches neither.
    """
    first, number = (own.lr, own.weight_decay), most_points(spec) - 1
    chance = random.Random(f"tuning {spec.search.seed} {band} {own.optimizer}")
    columns = []
    for name in NAMES:
        shares = [(part + chance.random()) / number for part in range(number)]
        chance.shuffle(shares)
        columns.append([_at(spec.train[name], share) for share in shares])
    return list(dict.fromkeys([first, *zip(*columns, strict=True)]))


def most_points(spec: SweepSpec) -> int:
    """How many points there are at most; 1 where there is nothing to tune."""
    is_searched = any(isinstance(spec.train[name], Float | Int | Categorical) for name in NAMES)
    return spec.confirm.tuning if is_searched else 1


def _at(dimension: Dimension, share: float) -> float:
    """The value at this share of a dimension, 0 its low end and 1 its high one; on its grid."""
    match dimension:
        case Categorical(choices):
            return float(choices[int(share * len(choices))])
        case Float(low, high, None, True):
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        case Float(low, high, None):
            return low + share * (high - low)
        case Float(low, high, step) if step is not None:
            return grid_value(low, step, int(share * (round((high - low) / step) + 1)))
        case Int(low, high, step):
            return float(low + step * int(share * ((high - low) // step + 1)))
    assert isinstance(dimension, float | int)
    return float(dimension)
