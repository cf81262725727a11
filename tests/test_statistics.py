"""Means and intervals, against tables and by hand."""

import math
import statistics as plain

import pytest

from kdsearch.statistics import estimate, t_quantile, verdict


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
