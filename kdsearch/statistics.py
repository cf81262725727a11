"""Means and how far to trust them.

Goes in: repeated measurements, as plain numbers. Comes out: their mean with a confidence interval, and what
it says. Knows nothing of trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95
_EQUAL = 1e-12  # below it a spread is rounding

Verdict = Literal["helped", "hurt", "not separated"]


@dataclass(frozen=True)
class Estimate:
    """The mean of n values. `std` is the sample's (n - 1), None for n = 1.

    `low` and `high` are the ends of the mean's confidence interval; None for n = 1, and where all values
    are equal: a spread of zero says that the measure is too coarse, not that the mean is exact.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Mean and two-sided interval by Student's t: mean ± t(n - 1) * std / sqrt(n).

    Exact for independent values from a normal distribution. Raises ValueError without values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(1, mean, None, None, None)
    if max(values) - min(values) < _EQUAL:
        return Estimate(n, mean, 0.0, None, None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile((1 + confidence) / 2, n - 1) * std / math.sqrt(n)
    return Estimate(n, mean, std, mean - half, mean + half)


def pooled_estimate(
    values: Sequence[float], variance: float, degrees: int, confidence: float = CONFIDENCE
) -> Estimate:
    """Mean of few values, its interval by a spread pooled over many: mean ± t(degrees) * sqrt(variance / n).

    Two or three seeds say next to nothing of their own spread (Student's t multiplies it by 12.7 or 4.3), so
    `variance` and its `degrees` of freedom come from all students together (`membership.pooled_variance`),
    which takes for granted that all vary alike. `std` is still the values' own. No interval where the
    variance is not known (no degrees) or zero. Raises ValueError without values.
    """
    own = estimate(values)
    if degrees < 1 or not variance > _EQUAL**2:
        return Estimate(own.n, own.mean, own.std, None, None)
    half = t_quantile((1 + confidence) / 2, degrees) * math.sqrt(variance / own.n)
    return Estimate(own.n, own.mean, own.std, own.mean - half, own.mean + half)


def binomial_error(accuracy: float, num_images: int | None) -> float:
    """The standard error of an accuracy that was measured on so many images; 0 where that is unknown.

    That of all right or all wrong is not 0: it is taken for half an image less.
    """
    if not num_images:
        return 0.0
    p = min(max(accuracy, 0.5 / num_images), 1 - 0.5 / num_images)
    return math.sqrt(p * (1 - p) / num_images)


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution with that many degrees of freedom."""
    # A report without repeats does without.
    from scipy import special  # type: ignore[import-untyped]  # its stubs are a package of their own

    return float(special.stdtrit(degrees, probability))


def verdict(difference: Estimate) -> Verdict:
    """helped or hurt where the whole interval lies above or below zero, else (or without one) neither."""
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return "not separated"
    return "helped" if difference.low > 0 else "hurt"
