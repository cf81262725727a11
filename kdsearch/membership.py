"""How likely a student is on the true front, when its accuracy is the mean of a few seeds.

Goes in: mean accuracies, how many seeds each is the mean of, costs, and the variance between seeds. Comes
out: for each student the probability that no other is as cheap and as accurate and better in one. Pure
numpy; knows nothing of trials. Costs are known exactly; only accuracies are uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def pooled_variance(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """The variance within groups (each around its own mean) and its degrees of freedom, the sum of n - 1.

    Groups of one value add nothing; where there are no others the variance is unknown: (nan, 0). Pooling
    assumes that all have the same spread; three values of one student alone would say no more than that the
    standard deviation lies between half and six times theirs (95 %).
    """
    known = [group for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in known)
    means = [math.fsum(group) / len(group) for group in known]
    squares = math.fsum(
        (value - mean) ** 2 for group, mean in zip(known, means, strict=True) for value in group
    )
    return (squares / degrees if degrees else math.nan), degrees


def p_on_front(
    means: ArrayLike,
    counts: ArrayLike,
    costs: ArrayLike,
    variance: float,
    degrees: float,
    draws: int = 4000,
    seed: int = 0,
) -> Floats:
    """[N] The share of draws of all true means in which no other student dominates this one.

    A true mean is drawn from mean [N] ± sqrt(variance / counts [N]), the variance, once a draw for all, from
    its scaled inverse chi-square with `degrees` (math.inf: it is known): the posterior of normal values with
    one variance and flat priors (Gelman et al., Bayesian Data Analysis, chapter 3). `costs` [N, C] are to be
    minimised, the means to be maximised; equal points do not dominate each other. Shares have a Monte Carlo
    error of at most 0.008 with 4,000 draws. A student's share does not depend on the order of students.

    In simulations with known truth it is right within 0.1 where students lie far apart compared with the
    noise, and errs low where many are near equals: of those with p = 0.9, 90 to 97 % were on the true front,
    of those with p = 0.3 up to 53 % (a flat prior lets every rival be as lucky as the luckiest).
    The means must not be values that the students were chosen by: the best of many looks better than it is.
    Raises ValueError for shapes that do not fit, values that are not finite, and an unknown variance.
    """
    accuracy, number, prices = _checked(means, counts, costs)
    if not degrees > 0 or not variance >= 0:
        raise ValueError(f"variance {variance} with {degrees} degrees of freedom: not known")
    order = np.lexsort((number, accuracy, *prices.T))
    accuracy, number, prices = accuracy[order], number[order], prices[order]
    generator = np.random.default_rng(seed)
    scale = np.ones(draws) if math.isinf(degrees) else degrees / generator.chisquare(degrees, draws)
    noise = generator.standard_normal((draws, len(accuracy))) * np.sqrt(variance * scale)[:, None]
    drawn = accuracy + noise / np.sqrt(number)
    shares = np.empty(len(accuracy))
    shares[order] = 1 - _dominated(drawn, prices).mean(axis=0)
    return shares


def _dominated(drawn: Floats, costs: Floats) -> NDArray[np.bool_]:
    """[draws, N] where in a draw [draws, N] of accuracies another student dominates this one."""
    mask = np.zeros(drawn.shape, dtype=bool)
    for index, price in enumerate(costs):
        affordable = np.all(costs <= price, axis=1)
        cheaper = affordable & np.any(costs < price, axis=1)
        own = drawn[:, index]
        mask[:, index] = drawn[:, affordable].max(axis=1) > own  # it can afford itself: never empty
        if cheaper.any():
            mask[:, index] |= drawn[:, cheaper].max(axis=1) >= own
    return mask


def _checked(means: ArrayLike, counts: ArrayLike, costs: ArrayLike) -> tuple[Floats, Floats, Floats]:
    accuracy, number = np.asarray(means, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    prices = np.asarray(costs, dtype=np.float64)
    if accuracy.ndim != 1 or number.shape != accuracy.shape or prices.shape[:1] != accuracy.shape:
        raise ValueError(
            "means [N], counts [N] and costs [N, C] do not fit: "
            f"{accuracy.shape}, {number.shape}, {prices.shape}"
        )
    if not (np.isfinite(accuracy).all() and np.isfinite(prices).all() and np.all(number >= 1)):
        raise ValueError("means and costs must be finite, counts at least 1")
    return (
        accuracy,
        number,
        prices.reshape(len(accuracy), prices.size // len(accuracy) if len(accuracy) else 0),
    )
