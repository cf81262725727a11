"""Front, ranks and hypervolume against brute force on random points, ties included."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch import pareto

# Few distinct values, so that ties in one objective, in all, and with the reference are common.
GRID = st.integers(0, 4)
points_2d = st.lists(st.tuples(GRID, GRID), max_size=12)
points_3d = st.lists(st.tuples(GRID, GRID, GRID), max_size=8)
points_4d = st.lists(st.tuples(GRID, GRID, GRID, GRID), max_size=6)
any_points = points_2d | points_3d | points_4d


def brute_dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def brute_front(points):
    return [not any(brute_dominates(other, point) for other in points) for point in points]


def brute_ranks(points):
    """Peel front after front."""
    left, result, rank = set(range(len(points))), [0] * len(points), 0
    while left:
        front = {i for i in left if not any(brute_dominates(points[j], points[i]) for j in left)}
        for index in front:
            result[index] = rank
        left, rank = left - front, rank + 1
    return result


def brute_volume(points, reference):
    """Count the unit cells below the reference that some point dominates; exact for integers."""
    cells = itertools.product(*(range(int(edge)) for edge in reference))
    return sum(any(all(x <= c for x, c in zip(p, cell, strict=True)) for p in points) for cell in cells)


@given(any_points)
def test_front_equals_brute_force(points):
    assert pareto.non_dominated(points).tolist() == brute_front(points)


@given(any_points)
def test_ranks_equal_peeling(points):
    assert pareto.ranks(points).tolist() == brute_ranks(points)


@given(any_points)
def test_rank_zero_is_the_front(points):
    assert (pareto.ranks(points) == 0).tolist() == pareto.non_dominated(points).tolist()


@given(st.tuples(GRID, GRID, GRID), st.tuples(GRID, GRID, GRID))
def test_dominance_equals_its_definition(a, b):
    assert pareto.dominates(a, b) == brute_dominates(a, b)


@given(points_2d)
def test_hypervolume_of_two_objectives_counts_cells(points):
    assert pareto.hypervolume(points, (4, 3)) == brute_volume(points, (4, 3))


@given(points_3d)
def test_hypervolume_of_three_objectives_counts_cells(points):
    assert pareto.hypervolume(points, (4, 3, 4)) == brute_volume(points, (4, 3, 4))


@settings(max_examples=40)
@given(points_4d)
def test_hypervolume_of_four_objectives_counts_cells(points):
    assert pareto.hypervolume(points, (3, 4, 3, 4)) == brute_volume(points, (3, 4, 3, 4))


@given(points_3d, st.randoms(use_true_random=False))
def test_hypervolume_ignores_order_and_duplicates(points, random):
    shuffled = [*points, *points]
    random.shuffle(shuffled)
    assert pareto.hypervolume(shuffled, (5, 5, 5)) == pareto.hypervolume(points, (5, 5, 5))


@given(points_3d.filter(bool), st.tuples(GRID, GRID, GRID))
def test_a_further_point_never_shrinks_the_hypervolume(points, further):
    assert pareto.hypervolume([*points, further], (5, 5, 5)) >= pareto.hypervolume(points, (5, 5, 5))


def test_hypervolume_worked_out_by_hand():
    # (1, 3) gives 3 x 1, (2, 1) adds 2 x 2 below it, (3, 2) is dominated.
    assert pareto.hypervolume([(1, 3), (2, 1), (3, 2)], (4, 4)) == 7


def test_hypervolume_of_one_objective_is_the_distance_to_the_reference():
    assert pareto.hypervolume([[3.0], [2.5]], [4.0]) == 1.5


def test_hypervolume_of_real_values_agrees_with_sampling():
    rng = np.random.default_rng(0)
    points = rng.random((30, 3))
    samples = rng.random((200_000, 3))
    covered = np.any([np.all(point <= samples, axis=1) for point in points], axis=0).mean()
    assert pareto.hypervolume(points, (1, 1, 1)) == pytest.approx(covered, abs=0.005)


def test_a_point_level_with_the_reference_adds_nothing():
    assert pareto.hypervolume([(0, 4), (4, 0)], (4, 4)) == 0


def test_equal_points_are_all_on_the_front():
    assert pareto.non_dominated([(1, 2), (1, 2), (0, 3), (1, 3)]).tolist() == [True, True, True, False]


def test_an_infinite_cost_is_dominated_by_any_finite_one():
    assert pareto.non_dominated([(0.1, np.inf), (0.1, 5)]).tolist() == [False, True]


@pytest.mark.parametrize("function", [pareto.non_dominated, pareto.ranks])
def test_no_points_give_no_answer(function):
    assert function([]).tolist() == []


def test_hypervolume_of_no_points_is_zero():
    assert pareto.hypervolume([], (1, 1)) == 0


@pytest.mark.parametrize("function", [pareto.non_dominated, pareto.ranks])
def test_nan_is_refused(function):
    with pytest.raises(ValueError, match="NaN"):
        function([(float("nan"), 1)])


def test_a_reference_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match="2 objectives, the reference has 3"):
        pareto.hypervolume([(1, 2)], (1, 2, 3))


def test_a_front_of_ten_thousand_points_is_found_in_no_time():
    """Once for every trial that ends: comparing each point with all others took a second."""
    accuracies = np.random.default_rng(0).random(10_000)
    points = np.column_stack([-accuracies, np.random.default_rng(1).random(10_000)])
    started = time.process_time()
    mask = pareto.non_dominated(points)
    assert time.process_time() - started < 0.2
    ordered = points[np.argsort(points[:, 1])]  # on the front is what is better than all before it
    best = np.minimum.accumulate(np.r_[np.inf, ordered[:-1, 0]])
    assert mask.sum() == (ordered[:, 0] < best).sum()
