"""Means and intervals, against tables and by hand."""

import math
import statistics as plain

import pytest

from kdsearch.statistics import binomial_error, estimate, pooled_estimate, t_quantile, verdict


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (30, 2.042)])
def test_the_t_quantile_is_the_tables(degrees, quantile):
    assert t_quantile(0.975, degrees) == pytest.approx(quantile, abs=5e-4)


def test_an_interval_by_hand():
    found = estimate([1.0, 2.0, 3.0])
    half = 4.302653 * 1.0 / math.sqrt(3)
    assert (found.n, found.mean, found.std) == (3, 2.0, 1.0)
    assert (found.low, found.high) == (pytest.approx(2 - half), pytest.approx(2 + half))


def test_the_interval_is_wider_where_more_confidence_is_asked_for():
    values = [0.1, 0.4, 0.3, 0.9]
    assert estimate(values, 0.99).high > estimate(values, 0.9).high
    assert estimate(values).std == pytest.approx(plain.stdev(values))


def test_one_value_has_neither_spread_nor_interval():
    found = estimate([0.7])
    assert (found.mean, found.std, found.low, found.high) == (0.7, None, None, None)


def test_equal_values_have_no_interval_whatever_rounding_says():
    found = estimate([0.3 - 0.1, 0.2, 0.5 - 0.3])
    assert found.std == 0.0
    assert (found.low, found.high) == (None, None)


def test_no_values_have_no_mean():
    with pytest.raises(ValueError, match="no values"):
        estimate([])


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([0.010, 0.011, 0.012], "helped"),
        ([-0.010, -0.011, -0.012], "hurt"),
        ([0.010, -0.011, 0.012], "not separated"),
        ([0.010], "not separated"),
        ([0.010, 0.010, 0.010], "not separated"),
    ],
)
def test_the_verdict_is_where_the_whole_interval_lies(differences, said):
    assert verdict(estimate(differences)) == said


def test_a_pooled_interval_by_hand():
    # t(10) at 95 % is 2.228; the values' own spread plays no part in it.
    found = pooled_estimate([1.0, 1.2, 1.4], variance=0.09, degrees=10)
    half = 2.228139 * math.sqrt(0.09 / 3)
    assert (found.n, found.mean, found.std) == (3, pytest.approx(1.2), pytest.approx(0.2))
    assert (found.low, found.high) == (pytest.approx(1.2 - half), pytest.approx(1.2 + half))


def test_a_single_value_has_a_pooled_interval():
    found = pooled_estimate([0.5], variance=0.01, degrees=4)
    assert found.high - found.mean == pytest.approx(2.776445 * 0.1)


@pytest.mark.parametrize(("variance", "degrees"), [(math.nan, 0), (0.0, 5)])
def test_without_a_known_spread_there_is_no_pooled_interval(variance, degrees):
    found = pooled_estimate([0.5, 0.6], variance, degrees)
    assert (found.mean, found.low, found.high) == (pytest.approx(0.55), None, None)


def test_all_right_on_few_images_is_not_certain():
    assert binomial_error(0.9, 100) == pytest.approx(0.03)
    assert binomial_error(1.0, 100) == binomial_error(0.995, 100) > 0
    assert binomial_error(0.9, None) == 0
