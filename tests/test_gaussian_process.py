"""The process that proposals go by: exact where it can be, and right about what matters."""

from __future__ import annotations

import numpy as np
import pytest

from kdsearch.search import gaussian_process
from kdsearch.search.gaussian_process import Floats, Kernel


def kernel(relevance: float = 1.0, noise: float = 1.0, mean: float = 0.0, variance: float = 1.0) -> Kernel:
    return Kernel(np.array([relevance]), np.array([0]), noise, mean, variance)


def given(kernel: Kernel, x: Floats, values: Floats, noise: Floats, at: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation at some features, from values at others."""
    process = gaussian_process.condition(kernel, kernel.between(x, x), values, noise)
    return process.predict(kernel.between(at, x))


def test_the_kernel_is_matern_five_halves() -> None:
    found = kernel(relevance=4.0).between(np.array([[0.0]]), np.array([[0.0], [0.5]]))

    root = np.sqrt(5.0)  # a distance of 0.5 at a length of 0.5
    assert found[0] == pytest.approx([1.0, (1 + root + root**2 / 3) * np.exp(-root)])


def test_two_observations_by_hand() -> None:
    """One point seen twice: a precision-weighted mean, shrunk towards the prior's."""
    mean, sd = given(
        kernel(mean=1.0, variance=4.0, noise=0.25),
        np.array([[0.3], [0.3]]),
        np.array([2.0, 5.0]),
        np.array([4.0, 4.0]),
        at=np.array([[0.3]]),
    )

    # Prior N(1, 4), two observations of variance 4: precision 3/4.
    assert mean == pytest.approx([(1.0 + 2.0 + 5.0) / 3])
    assert sd == pytest.approx([np.sqrt(4 / 3)])


def test_without_noise_it_goes_through_its_points_and_is_unsure_between_them() -> None:
    x = np.array([[0.0], [0.5], [1.0]])
    values = np.array([1.0, -1.0, 2.0])

    mean, sd = given(kernel(5.0), x, values, np.full(3, 1e-9), at=np.array([[0.0], [0.5], [0.75]]))

    assert mean[:2] == pytest.approx([1.0, -1.0], abs=1e-6)
    assert sd[2] > 100 * sd[1]


def test_what_decides_the_values_is_found_to_be_relevant() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(60, 3))
    values = np.sin(6 * x[:, 1]) + 0.01 * rng.normal(size=60)

    found = gaussian_process.fit(x, ["lr", "alpha", "lr"], values, np.full(60, 1e-4))

    assert list(found.columns) == [0, 1, 0]
    assert found.relevances[1] > 20 * found.relevances[0]


def test_noise_larger_than_believed_is_noticed() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(80, 1))
    values = x[:, 0] + 0.3 * rng.normal(size=80)

    found = gaussian_process.fit(x, ["lr"], values, np.full(80, 0.03**2))

    assert found.noise * 0.03**2 * found.variance == pytest.approx(0.3**2, rel=0.9)


def test_it_predicts_better_than_the_mean_from_many_points_in_bounded_time() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(400, 4))
    values = np.sin(4 * x[:, 0]) + x[:, 1] * x[:, 2]
    chosen = gaussian_process.fit(x, list("abcd"), values, np.full(400, 1e-4))
    fresh = rng.uniform(size=(100, 4))

    mean, _ = given(chosen, x, values, np.full(400, 1e-4), at=fresh)

    truth = np.sin(4 * fresh[:, 0]) + fresh[:, 1] * fresh[:, 2]
    assert np.mean((mean - truth) ** 2) < 0.01 * np.var(truth)


def test_values_that_are_all_equal_are_no_trouble() -> None:
    x = np.linspace(0, 1, 12)[:, None]
    found = gaussian_process.fit(x, ["lr"], np.full(12, 0.7), np.full(12, 1e-3))

    mean, _ = given(found, x, np.full(12, 0.7), np.full(12, 1e-3), at=x)

    assert mean == pytest.approx(np.full(12, 0.7))
