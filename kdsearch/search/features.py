"""Configurations as numbers: Optuna's parameters in [0, 1], with a place for what does not apply.

Goes in: parameters and distributions. Comes out: features [N, D] for `gaussian_process`, and the parameter
that each column belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from kdsearch.records import Scalar

ABSENT = 0.5  # of a number that does not apply: as far from one end as from the other
Column = tuple[str, CategoricalChoiceType]  # the parameter, and of a categorical one the choice

Features = Mapping[Column, float]


def key(values: Mapping[str, Any]) -> str:
    """What makes two of them the same: Optuna's own grid ends in 0.7000000000000001, the spec's in 0.7."""
    shown = {name: round(value, 9) if isinstance(value, float) else value for name, value in values.items()}
    return repr(sorted(shown.items()))


def features(params: Mapping[str, Scalar], distributions: Mapping[str, BaseDistribution]) -> Features:
    """A configuration's values by column: numbers by their place in the range, choices as 0 or 1.

    Choices that are all numbers are ordered, and stand at even distances.
    """
    found: dict[Column, float] = {}
    for name, distribution in distributions.items():
        value = params[name]
        match distribution:
            case CategoricalDistribution() if len(numbers := _numbers(distribution)) > 1:
                found[name, None] = sorted(numbers).index(float(value)) / (len(numbers) - 1)
            case CategoricalDistribution():
                # So that two choices are as far apart as the ends of a range.
                found |= {(name, c): math.sqrt(0.5) * (c == value) for c in distribution.choices}
            case FloatDistribution() | IntDistribution():
                found[name, None] = _place(float(value), distribution)
    return found


def matrix(rows: Sequence[Features]) -> tuple[NDArray[np.float64], list[str]]:
    """[N, D] of the columns in which the rows differ, and the parameter of each column."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    filled = [[row.get(c, ABSENT if c[1] is None else 0.0) for c in columns] for row in rows]
    whole = np.array(filled, dtype=np.float64).reshape(len(rows), len(columns))
    differs = np.ptp(whole, axis=0) > 0
    return whole[:, differs], [column[0] for column, is_kept in zip(columns, differs, strict=True) if is_kept]


def _numbers(distribution: CategoricalDistribution) -> list[float]:
    """The choices where all of them are numbers, else none."""
    found = [float(c) for c in distribution.choices if isinstance(c, int | float) and not isinstance(c, bool)]
    return found if len(found) == len(distribution.choices) else []


def _place(value: float, distribution: FloatDistribution | IntDistribution) -> float:
    low, high = distribution.low, distribution.high
    if high == low:
        return ABSENT
    if distribution.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)
