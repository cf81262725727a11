"""Membership of the true front: calibration by simulation with known truth, and the limiting cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from kdsearch import pareto
from kdsearch.membership import p_on_front, pooled_variance

SEEDS = 3
SD = 0.0025  # between seeds, a fraction: 0.25 points, as measured on CIFAR-100


def worlds(num_worlds, num_students, gap):
    """p and truth of every student; `gap` is the mean distance below a concave front, a fraction."""
    rng = np.random.default_rng(7)
    shares, truths = [], []
    for _ in range(num_worlds):
        costs = np.sort(rng.uniform(0, 1, num_students))
        truth = 0.6 + 0.1 * np.sqrt(costs) - rng.exponential(gap, num_students)
        values = truth[:, None] + rng.normal(0, SD, (num_students, SEEDS))
        variance, degrees = pooled_variance(values)
        shares += list(
            p_on_front(values.mean(1), [SEEDS] * num_students, costs[:, None], variance, degrees, 500)
        )
        truths += list(pareto.non_dominated(np.column_stack([-truth, costs])))
    return np.array(shares), np.array(truths)


def on_the_front(shares, truths, low, high):
    """Mean p of the students with p between low and high, and how many of them truly are on the front."""
    chosen = (shares >= low) & (shares < high)
    return shares[chosen].mean(), truths[chosen].mean()


@pytest.fixture(scope="module")
def spread():
    return worlds(400, 12, gap=0.02)


@pytest.fixture(scope="module")
def crowded():
    return worlds(400, 12, gap=0.004)


@pytest.mark.parametrize(("low", "high"), [(0.85, 0.95), (0.5, 0.85), (0.15, 0.5), (0.02, 0.15)])
def test_p_is_the_share_of_true_front_members_within_a_tenth(spread, low, high):
    claimed, true = on_the_front(*spread, low, high)
    assert true == pytest.approx(claimed, abs=0.1)


def test_nine_tenths_means_nine_tenths_within_six_points(spread):
    claimed, true = on_the_front(*spread, 0.85, 0.95)
    assert true == pytest.approx(claimed, abs=0.06)


@pytest.mark.parametrize(
    ("low", "high"), [(0.98, 1.01), (0.85, 0.98), (0.5, 0.85), (0.15, 0.5), (0.02, 0.15)]
)
def test_among_many_near_equals_it_claims_too_little_and_never_too_much(crowded, low, high):
    claimed, true = on_the_front(*crowded, low, high)
    assert claimed - 0.03 < true < claimed + 0.25


def test_two_students_of_one_size_share_the_front_by_how_far_they_are_apart():
    # The difference of two means of 2 seeds has variance 2 * 0.01 / 2: 0.1 is one standard deviation.
    shares = p_on_front([0.6, 0.5], [2, 2], [[1.0], [1.0]], 0.01, math.inf, draws=100_000)
    assert shares == pytest.approx([0.8413, 0.1587], abs=0.005)


def test_few_degrees_of_freedom_make_it_less_sure():
    arguments = ([0.6, 0.5], [2, 2], [[1.0], [1.0]], 0.0025)
    known, guessed = (p_on_front(*arguments, degrees)[0] for degrees in (math.inf, 2))
    # Student's t with 2 degrees of freedom exceeds -2 with probability 0.908, the normal with 0.977.
    assert (known, guessed) == (pytest.approx(0.977, abs=0.01), pytest.approx(0.908, abs=0.02))


def test_more_seeds_make_it_surer():
    few, many = (p_on_front([0.6, 0.59], [n, n], [[1.0], [1.0]], 1e-4, 20)[0] for n in (2, 20))
    assert many > few + 0.1


def test_a_cheaper_student_competes_and_a_dearer_one_does_not():
    shares = p_on_front([0.5, 0.5, 0.5], [3, 3, 3], [[1.0], [2.0], [3.0]], 1e-4, 6, draws=20_000)
    assert shares == pytest.approx([1, 1 / 2, 1 / 3], abs=0.015)


def test_without_variance_it_is_the_front_itself():
    rng = np.random.default_rng(3)
    means, costs = rng.integers(0, 5, 40) / 5, rng.integers(0, 5, (40, 2))
    expected = pareto.non_dominated(np.column_stack([-means, costs]))
    assert p_on_front(means, [1] * 40, costs, 0.0, 5).tolist() == expected.astype(float).tolist()


def test_equal_points_without_variance_are_all_on_it():
    assert p_on_front([0.5, 0.5], [1, 1], [[1.0], [1.0]], 0.0, 3).tolist() == [1, 1]


def test_one_student_is_its_own_front():
    assert p_on_front([0.5], [1], [[1.0]], 0.1, 2).tolist() == [1]


def test_no_student_has_no_share():
    assert p_on_front([], [], [], 0.1, 2).tolist() == []


def test_without_costs_it_is_the_chance_to_be_the_best():
    assert p_on_front([0.5] * 4, [3] * 4, np.empty((4, 0)), 0.01, 8).sum() == pytest.approx(1)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_order_of_students_does_not_matter(order):
    means, counts, costs = (
        np.array([0.5, 0.6, 0.55, 0.6]),
        np.array([3, 2, 5, 3]),
        np.array([[1], [2], [2], [2]]),
    )
    index = list(order)
    shares = p_on_front(means, counts, costs, 0.002, 6)
    assert p_on_front(means[index], counts[index], costs[index], 0.002, 6).tolist() == shares[index].tolist()


@pytest.mark.parametrize(
    ("means", "counts", "costs", "variance", "degrees"),
    [
        ([0.5], [1], [[1.0]], math.nan, 0),
        ([0.5], [1], [[1.0]], 0.1, 0),
        ([0.5], [0], [[1.0]], 0.1, 3),
        ([math.nan], [1], [[1.0]], 0.1, 3),
        ([0.5, 0.6], [1, 1], [[1.0]], 0.1, 3),
    ],
)
def test_what_cannot_be_judged_is_refused(means, counts, costs, variance, degrees):
    with pytest.raises(ValueError, match=r"known|finite|fit"):
        p_on_front(means, counts, costs, variance, degrees)


def test_pooled_variance_worked_out_by_hand():
    # Squares around the means 2 and 6: (1 + 0 + 1) + (1 + 1); degrees 2 + 1; the single value adds nothing.
    assert pooled_variance([[1, 2, 3], [5, 7], [100]]) == (pytest.approx(4 / 3), 3)


def test_single_values_have_no_pooled_variance():
    variance, degrees = pooled_variance([[0.5], [0.6], []])
    assert (math.isnan(variance), degrees) == (True, 0)
