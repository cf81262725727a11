"""A Gaussian process over configurations: what accuracy an untried one will have, and how sure that is.

Goes in: features [N, D] of what was tried, with the parameter that each belongs to, values [N] and noise
variances [N]. Comes out: means and standard deviations anywhere. numpy and scipy alone.

A Matern 5/2 kernel with a relevance for each parameter (Rasmussen and Williams, Gaussian Processes for
Machine Learning, MIT Press 2006, chapters 4 and 5), fitted by the likelihood in a fixed number of steps: a
proposal must not take longer the harder the fit is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg  # type: ignore[import-untyped]  # its stubs are a package of their own

Floats = NDArray[np.float64]

MAX_FITTED = (
    100  # points that the relevances are fitted to: the fit is cubic in them, and done for each proposal
)
FACTORS = (0.2, 5.0)  # tried on each relevance
NOISE_FACTORS = (0.3, 3.0)
SWEEPS = 2
# Log-normal priors: the median of a relevance (1 / length^2, features span about 1), and standard deviations.
RELEVANCE, RELEVANCE_SD, NOISE_SD = 1.5, 2.0, 1.5
SMALLEST_GAIN = 0.1  # in log posterior: less does not change a relevance
SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True)
class Kernel:
    """`relevances` [G] by parameter, `columns` [D] the parameter of each feature.

    Values are `mean` plus `variance`^(1/2) times a process of variance 1; `noise` turns the variance of an
    observation into units of that.
    """

    relevances: Floats
    columns: NDArray[np.int64]
    noise: float
    mean: float
    variance: float

    def between(self, a: Floats, b: Floats) -> Floats:
        """[N, M] covariances of features [N, D] and [M, D], 1 for equal ones."""
        scale = np.sqrt(self.relevances[self.columns])
        scaled_a, scaled_b = a * scale, b * scale
        squares = np.square(scaled_a).sum(1)[:, None] + np.square(scaled_b).sum(1) - 2 * scaled_a @ scaled_b.T
        return _matern(squares)


@dataclass(frozen=True)
class Posterior:
    """What is asked for is given by its covariances with the observations, `across` [M, N]."""

    kernel: Kernel
    factor: Floats  # lower Cholesky factor of the observations' covariance
    weights: Floats

    def mean(self, across: Floats) -> Floats:
        """[M] of the noise-free value; much less work than `predict`."""
        return self.kernel.mean + math.sqrt(self.kernel.variance) * (across @ self.weights)

    def predict(self, across: Floats) -> tuple[Floats, Floats]:
        """Mean [M] and standard deviation [M] of the noise-free value."""
        left = linalg.solve_triangular(self.factor, across.T, lower=True)
        variance = np.maximum(1 - np.square(left).sum(0), SMALLEST_VARIANCE)
        return self.mean(across), math.sqrt(self.kernel.variance) * np.sqrt(variance)


def condition(kernel: Kernel, within: Floats, values: Floats, noise: Floats) -> Posterior:
    """What follows from values [N] with covariances `within` [N, N]; `noise` [N] are their variances."""
    covariance = within + np.diag(kernel.noise * noise)
    factor = linalg.cholesky(covariance, lower=True)
    standard = (values - kernel.mean) / math.sqrt(kernel.variance)
    return Posterior(kernel, factor, linalg.cho_solve((factor, True), standard))


def fit(features: Floats, parameters: Sequence[str], values: Floats, noise: Floats) -> Kernel:
    """The kernel under which the values are likely; `parameters` [D] names the parameter of each feature."""
    if len(values) > MAX_FITTED:
        chosen = np.linspace(0, len(values) - 1, MAX_FITTED).round().astype(int)
        features, values, noise = features[chosen], values[chosen], noise[chosen]
    mean = float(np.average(values, weights=1 / noise))
    spread = max(float(np.var(values)), SMALLEST_VARIANCE)
    names = list(dict.fromkeys(parameters))
    columns = np.array([names.index(name) for name in parameters], dtype=np.int64)
    squares = np.stack([_squares(features[:, columns == group]) for group in range(len(names))])
    standard = (values - mean) / math.sqrt(spread)
    relevances, scale = np.full(len(names), RELEVANCE), 1.0
    distances = np.tensordot(relevances, squares, 1)
    best, variance = _posterior(distances, relevances, scale, standard, noise / spread)
    for _ in range(SWEEPS):
        for group in range(len(names)):
            for factor in FACTORS:
                tried = relevances.copy()
                tried[group] *= factor
                moved = distances + (tried[group] - relevances[group]) * squares[group]
                found, own = _posterior(moved, tried, scale, standard, noise / spread)
                if found > best + SMALLEST_GAIN:
                    best, variance, relevances, distances = found, own, tried, moved
        for factor in NOISE_FACTORS:
            found, own = _posterior(distances, relevances, scale * factor, standard, noise / spread)
            if found > best + SMALLEST_GAIN:
                best, variance, scale = found, own, scale * factor
    return Kernel(relevances, columns, scale / spread, mean, spread * variance)


def _posterior(
    distances: Floats, relevances: Floats, scale: float, standard: Floats, noise: Floats
) -> tuple[float, float]:
    """The log posterior of a kernel, up to a constant, and the variance that maximises it."""
    covariance = _matern(distances)
    covariance[np.diag_indices_from(covariance)] += scale * noise
    try:
        factor = linalg.cholesky(covariance, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return -math.inf, 1.0
    whitened = linalg.solve_triangular(factor, standard, lower=True, check_finite=False)
    variance = max(float(whitened @ whitened) / len(standard), SMALLEST_VARIANCE)
    likelihood = -0.5 * len(standard) * math.log(variance) - float(np.log(np.diag(factor)).sum())
    prior = float(np.square(np.log(relevances / RELEVANCE)).sum()) / RELEVANCE_SD**2
    return likelihood - 0.5 * (prior + (math.log(scale) / NOISE_SD) ** 2), variance


def _matern(squared_distances: Floats) -> Floats:
    root = np.sqrt(5 * np.maximum(squared_distances, 0.0))
    return np.asarray((1 + root + root**2 / 3) * np.exp(-root))


def _squares(features: Floats) -> Floats:
    return np.asarray(np.square(features[:, None] - features).sum(2))
