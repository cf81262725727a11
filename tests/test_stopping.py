"""The rule that stops trials by the front: what it promises, on random rungs, and each verdict once."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.search.noise import seed_sd
from kdsearch.search.stopping import (
    Contender,
    History,
    Settings,
    _Field,
    floor_at,
    hopeless,
    judge,
    optimistic,
    ranked,
)
from kdsearch.statistics import binomial_error

SETTINGS = Settings(rungs=(1, 3), reduction_factor=3)
RUNG_1 = Settings(rungs=(1,), reduction_factor=3)

# Few distinct values, so that ties and equal points are common.
accuracies = st.integers(0, 12).map(lambda n: n / 12)
sizes = st.integers(0, 8).map(float)


def contender(number, costs, curve, finished=False, band=None):
    return Contender(f"t{number:04d}", costs, curve, int(costs[0] // 3) if band is None else band, finished)


@st.composite
def rungs(draw, min_size=1, num_costs=None):
    """Trials that reached epoch 1, some of them all three epochs and some of those finished."""
    width = num_costs or draw(st.integers(1, 3))
    rows = draw(
        st.lists(
            st.tuples(
                st.tuples(*[sizes] * width),
                st.one_of(st.tuples(accuracies), st.tuples(*[accuracies] * 3)),
                st.booleans(),
            ),
            min_size=min_size,
            max_size=30,
        )
    )
    return [
        contender(n, costs, curve, done and len(curve) == 3) for n, (costs, curve, done) in enumerate(rows)
    ]


@st.composite
def histories(draw, min_size=1):
    found = draw(rungs(min_size))
    curves = st.tuples(accuracies, accuracies, accuracies)
    width = len(found[0].costs)
    floor = [
        Contender(f"c{n:04d}", (size,) * width, draw(curves), finished=True)
        for n, size in enumerate(draw(st.lists(sizes, max_size=4)))
    ]
    noise = {rung: draw(st.sampled_from([0.0, 0.01, 0.1])) for rung in (1, 3)}
    return History(found, floor, noise)


@given(histories(min_size=2))
@settings(deadline=None)
def test_a_trial_that_dominates_its_rung_is_never_stopped(history):
    others = history.contenders
    costs = tuple(min(one.costs[i] for one in others) for i in range(len(others[0].costs)))
    best = contender(999, costs, (max(one.curve[0] for one in others),))

    assert judge(best, history, SETTINGS).goes_on


@given(rungs(), st.integers(2, 4), st.sampled_from([0.0, 0.05]))
@settings(deadline=None)
def test_ranking_alone_keeps_its_share_of_every_size_band(found, factor, sd):
    rules = Settings(rungs=(1,), reduction_factor=factor)
    history = History(found, noise={1: sd})

    kept = [one for one in found if ranked(one, history, rules).goes_on]

    for band in {one.band for one in found}:
        in_band = [one for one in found if one.band == band]
        assert sum(one.band == band for one in kept) >= math.ceil(len(in_band) / factor)


@given(histories(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_history_does_not_matter(history, random):
    shuffled = list(history.contenders)
    random.shuffle(shuffled)
    other = dataclasses.replace(history, contenders=shuffled, floor=list(reversed(history.floor)))

    for one in history.contenders:
        assert judge(one, history, SETTINGS) == judge(one, other, SETTINGS)


@given(histories(), accuracies)
@settings(deadline=None)
def test_equal_results_have_equal_verdicts(history, accuracy):
    size = history.contenders[0].costs
    twins = [contender(900 + n, size, (accuracy,)) for n in range(2)]
    both = dataclasses.replace(history, contenders=[*history.contenders, *twins])

    assert judge(twins[0], both, SETTINGS) == judge(twins[1], both, SETTINGS)


@given(histories(min_size=3), accuracies, accuracies)
@settings(deadline=None)
def test_a_higher_accuracy_never_turns_go_on_into_stop(history, low, high):
    low, high = min(low, high), max(low, high)
    size = history.contenders[0].costs
    worse, better = contender(999, size, (low,)), contender(999, size, (high,))

    assert judge(worse, history, SETTINGS).goes_on <= judge(better, history, SETTINGS).goes_on


@given(histories())
@settings(deadline=None)
def test_what_is_recorded_of_the_trial_itself_is_not_held_against_it(history):
    for one in history.contenders:
        others = [other for other in history.contenders if other.trial_id != one.trial_id]
        without = dataclasses.replace(history, contenders=others)
        assert judge(one, history, SETTINGS) == judge(one, without, SETTINGS)


def on_a_line(*accuracies):
    """One trial for each, all of the same size."""
    return [contender(n, (4.0,), (accuracy,)) for n, accuracy in enumerate(accuracies)]


def test_before_the_first_rung_everything_goes_on():
    assert judge(contender(0, (4.0,), ()), History([]), SETTINGS).rule == "pareto: before its first rung"


def test_the_first_arrivals_have_too_little_to_be_compared_with():
    first, second = on_a_line(0.1, 0.9)
    assert judge(first, History([second]), RUNG_1).rule == "pareto rung 1: too few to compare"


def test_what_is_as_good_as_all_and_as_cheap_dominates_the_rung():
    found = on_a_line(0.5, 0.5, 0.1)
    assert judge(found[0], History(found), RUNG_1).rule == "pareto rung 1: dominates the rung"


def test_within_the_noise_of_the_front_a_trial_goes_on():
    found = on_a_line(0.50, 0.51, 0.52, 0.60)
    noisy, exact = History(found, noise={1: 0.1 / math.sqrt(2)}), History(found, noise={1: 0.0})

    assert ranked(found[0], noisy, RUNG_1).rule == "pareto rung 1: near the front"
    assert ranked(found[0], exact, RUNG_1).rule == "pareto rung 1: behind its size"


def test_a_small_student_is_compared_with_small_ones():
    small = [contender(n, (3 + n / 100,), (0.3 - n / 100,)) for n in range(9)]
    large = [contender(100 + n, (5 + n / 100,), (0.9 - n / 100,)) for n in range(9)]

    kept = [one.trial_id for one in small if ranked(one, History(small + large), RUNG_1).goes_on]

    assert kept == ["t0000", "t0001", "t0002"]


def test_a_trial_behind_the_front_but_among_the_best_of_its_size_goes_on():
    cheaper = contender(100, (3.0,), (0.95,))
    found = [contender(n, (4 + n / 100,), (0.5 + n / 100,), band=1) for n in range(8)]

    assert judge(found[7], History([cheaper, *found]), RUNG_1).rule == "pareto rung 1: top 1/3 of its size"


def test_a_band_that_is_worse_than_its_neighbours_keeps_its_best():
    crowd = [contender(100 + n, (4.0,), (0.9,), band=0) for n in range(9)]
    alone = contender(0, (4.1,), (0.2,), band=1)

    assert judge(alone, History([*crowd, alone]), RUNG_1).rule == "pareto rung 1: top 1/3 of its band"


def test_below_the_floor_of_its_size_even_the_front_is_left():
    floor = [Contender("c0", (3.0,), (0.6,)), Contender("c1", (5.0,), (0.8,))]
    smallest, large = contender(0, (4.0,), (0.6,)), contender(1, (4.5,), (0.9,))
    history = History([smallest, large], floor, {1: 0.04 / math.sqrt(2)})

    verdict = hopeless(smallest, history, RUNG_1)
    assert verdict is not None
    assert verdict.rule == "pareto rung 1: below the floor"
    in_doubt = dataclasses.replace(history, noise={1: 0.06 / math.sqrt(2)})
    assert hopeless(smallest, in_doubt, RUNG_1) is None


def test_the_floor_is_linear_in_log_size_and_does_not_reach_beyond_its_controls():
    floor = [
        Contender("c0", (3.0,), (0.5, 0.6)),
        Contender("c1", (3.0,), (0.7,)),
        Contender("c2", (5.0,), (0.9,)),
    ]

    assert floor_at(3.0, 1, floor) == pytest.approx(0.6)
    assert floor_at(4.0, 1, floor) == pytest.approx(0.75)
    assert floor_at(3.0, 2, floor) == pytest.approx(0.6)
    assert floor_at(5.1, 1, floor) == floor_at(4.0, 2, floor) == floor_at(4.0, 1, []) == -math.inf


def full(number, size, then, end):
    return contender(number, (size,), (then, end, end), finished=True)


def test_what_cannot_reach_a_cheaper_finished_student_is_stopped():
    finished = [full(n, 3.0, 0.80, 0.95) for n in range(5)]
    trial = contender(9, (4.0,), (0.5,))

    assert judge(trial, History(finished), RUNG_1).rule == "pareto rung 1: dominated by t0000 even at 0.875"
    assert "dominated" not in judge(contender(9, (4.0,), (0.81,)), History(finished), RUNG_1).rule


def test_nothing_is_called_impossible_before_five_full_trainings_or_by_dearer_ones():
    few = [full(n, 3.0, 0.80, 0.95) for n in range(4)]
    dearer = [full(n, 4.5, 0.80, 0.95) for n in range(5)]
    trial = contender(9, (4.0,), (0.5,))

    assert "dominated" not in judge(trial, History(few), RUNG_1).rule
    assert "dominated" not in judge(trial, History(dearer), RUNG_1).rule


def test_who_ranks_low_goes_on_while_a_gain_of_one_in_ten_would_bring_it_to_the_front():
    """Of ten full trainings nine gain 0.1 and one gains 0.4; the best of them ends at 0.8."""
    finished = [full(n, 3.0, 0.70, 0.80) for n in range(9)] + [full(9, 3.0, 0.40, 0.80)]
    verdicts = {
        accuracy: judge(contender(20, (4.0,), (accuracy,)), History(finished), RUNG_1).rule
        for accuracy in (0.69, 0.66, 0.50, 0.30)
    }

    # The ninetieth percentile of the gains is 0.13, and of the shares of errors left 0.633.
    assert verdicts == {
        0.69: "pareto rung 1: within reach of the front",
        0.66: "pareto rung 1: behind its size",
        0.50: "pareto rung 1: behind its size",
        0.30: "pareto rung 1: dominated by t0000 even at 0.767",
    }


def test_a_slow_starter_below_the_floor_goes_on_while_it_is_within_reach():
    finished = [full(n, 3.0, 0.30, 0.80) for n in range(5)]
    floor = [Contender("c0", (3.0,), (0.6,)), Contender("c1", (5.0,), (0.6,))]
    reaches, falls_short = contender(20, (4.0,), (0.31,)), contender(21, (4.0,), (0.05,))

    assert judge(reaches, History(finished, floor), RUNG_1).rule == "pareto rung 1: within reach of the front"
    assert judge(falls_short, History(finished, floor), RUNG_1).rule == "pareto rung 1: below the floor"


def test_what_a_late_beginner_gained_says_nothing_of_others():
    late = Contender("t0001", (4.0,), (0.01, 0.5, 0.9), finished=True, first_epoch=2)
    usual = contender(2, (4.0,), (0.5, 0.55, 0.6), finished=True)
    trial = contender(9, (4.0,), (0.5,))
    assert optimistic(trial, 1, History([late, usual])) == pytest.approx(0.6)
    assert optimistic(trial, 1, History([late])) == 1.0


def test_an_optimistic_end_is_the_larger_of_the_largest_gain_and_the_largest_share_of_errors_lost():
    history = History([full(0, 3.0, 0.5, 0.8), full(1, 3.0, 0.9, 0.98)])

    assert optimistic(contender(9, (4.0,), (0.0,)), 1, history) == pytest.approx(0.8)
    assert optimistic(contender(9, (4.0,), (0.9,)), 1, history) == pytest.approx(1.2)


def test_every_cost_counts():
    small_and_slow, trial = contender(0, (3.0, 8.0), (0.9,)), contender(1, (4.0, 7.0), (0.5,))
    others = [contender(n, (5.0, 9.0), (0.95,)) for n in range(2, 9)]

    assert judge(trial, History([small_and_slow, *others]), RUNG_1).rule == "pareto rung 1: near the front"


@pytest.mark.parametrize(
    "history",
    [
        History([contender(1, (4.0,), (math.nan,))]),
        History([contender(1, (math.nan,), (0.5,), band=0)]),
        History([], [Contender("c0", (4.0,), (math.nan,))]),
        History([], noise={1: math.nan}),
    ],
    ids=["accuracy", "cost", "floor", "noise"],
)
def test_nan_is_refused(history):
    with pytest.raises(ValueError, match="NaN"):
        judge(contender(0, (4.0,), (0.5,)), history, RUNG_1)


def test_nan_of_the_trial_itself_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        judge(contender(0, (4.0,), (math.nan,)), History([]), RUNG_1)


def test_the_seed_noise_is_pooled_over_the_repeated_controls():
    repeats = [[(0.5,), (0.6,)], [(0.70,), (0.76,)], [(0.9,)]]

    assert seed_sd(repeats, 1, None) == pytest.approx(math.sqrt((0.005 + 0.0018) / 2))


def test_the_seed_noise_is_pooled_over_neighbouring_epochs():
    pair = [(0.0, 0.1, 0.5, 0.5, 0.5), (0.0, 0.9, 0.6, 0.6, 0.7)]

    assert seed_sd([pair], 4, None) == pytest.approx(math.sqrt((0.005 + 0.005 + 0.02) / 3))


def test_the_seed_noise_is_never_below_the_error_of_the_validation_split():
    equal = [[(0.8,), (0.8,)]]

    assert seed_sd(equal, 1, 400) == binomial_error(0.8, 400) == pytest.approx(0.02)
    assert seed_sd([[(0.8,)]], 1, 400) == pytest.approx(0.02)
    assert seed_sd([], 1, 400) == pytest.approx(0.025)


def test_a_family_that_learns_slowly_is_not_measured_by_one_that_learns_fast():
    fast = [dataclasses.replace(contender(n, (1.0,), (0.6,)), family="mlp") for n in range(9)]
    slow = [dataclasses.replace(contender(9 + n, (1.0,), (0.2,)), family="resnet") for n in range(2)]
    late = dataclasses.replace(contender(20, (1.0,), (0.1,)), family="resnet")
    floor = [fast[0]]

    assert ranked(late, History([*fast, *slow, late], floor), RUNG_1).rule == "pareto rung 1: behind its size"
    assert ranked(slow[0], History([*fast, *slow, late], floor), RUNG_1).goes_on
    assert not ranked(dataclasses.replace(late, family="mlp"), History([*fast, late], floor), RUNG_1).goes_on


def test_a_finished_student_of_any_family_shows_what_is_hopeless():
    known = [
        dataclasses.replace(contender(n, (2.0,), (0.5, 0.5, 0.6), finished=True), family="resnet")
        for n in range(5)
    ]
    best = dataclasses.replace(contender(8, (1.0,), (0.5, 0.8, 0.9), finished=True), family="mlp")
    trial = dataclasses.replace(contender(9, (2.0,), (0.4,)), family="resnet")

    verdict = judge(trial, History([*known, best, trial]), RUNG_1)

    assert verdict.rule == "pareto rung 1: dominated by t0008 even at 0.52"


@given(rungs(num_costs=1), st.integers(1, 12))
@settings(deadline=None)
def test_the_nearest_of_one_cost_are_those_of_all_pairs_of_distances(found, num_nearest):
    sizes = np.array([one.costs[0] for one in found])
    accuracy = np.array([one.curve[0] for one in found])
    distances = np.abs(sizes[:, None] - sizes)
    radius = np.sort(distances, axis=1)[:, min(num_nearest, len(found)) - 1]
    near = distances <= radius[:, None]
    expected = (near & (accuracy > accuracy[:, None])).sum(axis=1) / near.sum(axis=1)

    field = _Field(sizes[:, None], accuracy, np.zeros(len(found), dtype=np.int64))

    assert field.share_better(np.arange(len(found)), num_nearest) == pytest.approx(expected)
