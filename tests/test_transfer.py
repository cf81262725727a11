"""Whether recipes hold at another size: known answers, ties, too few trials."""

from __future__ import annotations

import journals
import numpy as np
import pytest

from kdsearch import against_floor, summary
from kdsearch.records import replay
from kdsearch.transfer import MIN_TRIALS, _recipes, transfer

SMALL, LARGE = 10_000, 400_000


def swept(small, large, n=20):
    """Each band's accuracy by learning rate rank (0 to 1); sizes differ a little within a band."""
    story = journals.Story()
    for number in range(n):
        rank = number / (n - 1)
        for index, (params, accuracy) in enumerate(((SMALL, small(rank)), (LARGE, large(rank)))):
            story.trial(
                2 * number + index,
                [0.1, accuracy],
                params + number % 3,
                trial_config=journals.config(lr=0.01 + 0.1 * rank),
            )
    return transfer(replay(story.events))


def test_a_recipe_that_is_best_everywhere_holds_everywhere():
    found = swept(lambda rank: 0.5 + 0.1 * rank, lambda rank: 0.7 + 0.1 * rank)
    assert all(value > 85 for value in found.across + found.within)


def test_a_recipe_that_is_best_at_one_size_and_worst_at_the_other_does_not_hold():
    found = swept(lambda rank: 0.5 + 0.1 * rank, lambda rank: 0.8 - 0.1 * rank)
    assert all(value < 15 for value in found.across)
    assert all(value > 75 for value in found.within)


def test_what_size_explains_is_no_merit_of_a_recipe():
    story = journals.Story()
    for number in range(2 * MIN_TRIALS):
        params = (SMALL, LARGE)[number % 2] * (1 + number / 100)
        story.trial(number, [0.1, 0.1 * params**0.1], int(params))  # all the same recipe
    found = transfer(replay(story.events))
    assert found.percentiles[0][2] is not None
    assert all(0 <= value <= 100 for value in found.across)


def test_recipes_are_apart_by_ranks_words_and_what_only_one_of_them_has():
    plain = {"lr": 0.1, "optimizer": "sgd", "epochs": 9}  # the same epochs in all: no setting to differ in
    recipes = _recipes(
        [plain, plain, {**plain, "lr": 0.4}, {**plain, "optimizer": "adamw"}, {**plain, "alpha": 0.5}]
    )
    # Of lr's five places four share the first four, 0.4 has the last: the middles are 0.4 and 0.9.
    expected = [0.0, 0.0, (0.9 - 0.4) / 2, 1 / 2, 1 / 3]
    assert recipes.distances(0, np.arange(5)) == pytest.approx(expected)


def test_a_band_with_few_trials_has_no_answer():
    story = journals.Story()
    for number in range(MIN_TRIALS):
        story.trial(number, [0.1, 0.5], SMALL)
    found = transfer(replay(story.events))
    assert (found.num_trials, found.across) == ((MIN_TRIALS, 0, 0), [])


def test_a_stopped_trial_is_worse_than_a_completed_one_of_the_same_recipe():
    story = journals.Story()
    for number in range(MIN_TRIALS):
        lr = 0.01 * (1 + number)
        story.trial(number, [0.1, 0.5 + number / 1000], SMALL, trial_config=journals.config(lr=lr))
        status = "completed" if number < MIN_TRIALS // 2 else "stopped"  # stopped what is best when small
        large = number + MIN_TRIALS
        story.trial(large, [0.9], LARGE, status=status, trial_config=journals.config(lr=lr))
    found = transfer(replay(story.events))
    assert found.percentiles[0][2] < 50


def test_beyond_size_is_what_a_line_in_log_size_leaves():
    story = journals.Story()
    for number, (params, accuracy) in enumerate([(1_000, 0.4), (10_000, 0.56), (100_000, 0.6)]):
        story.trial(number, [accuracy], params)
    left = summary.beyond_size(replay(story.events).of_role("search"))
    assert left == pytest.approx([-0.02, 0.04, -0.02])


def test_the_floor_is_interpolated_in_log_size_and_flat_beyond():
    story = journals.Story()
    story.trial(0, [0.4], 1_000, "control")
    story.trial(1, [0.6], 100_000, "control")
    floors = replay(story.events).of_role("control")
    levels = [against_floor.floor_at(params, floors) for params in (500, 1_000, 10_000, 1_000_000)]
    assert levels == pytest.approx([0.4, 0.4, 0.5, 0.6])


def test_methods_are_measured_against_the_floor_of_their_students_sizes():
    story = journals.Story()
    story.trial(0, [0.4], 1_000, "control")
    story.trial(1, [0.6], 100_000, "control")
    story.trial(2, [0.9], 10_000, "control", purpose="tune_no_kd")  # no floor
    for number, value in enumerate([0.45, 0.46, 0.44]):
        story.trial(number, [value], 10_000)
    story.trial(3, [0.2], 10_000, status="stopped")
    (kd,) = against_floor.methods(replay(story.events))
    assert (kd.label, kd.num_completed, kd.num_stopped) == ("kd", 3, 1)
    assert (kd.difference.mean, kd.verdict) == (pytest.approx(-0.05), "hurt")
