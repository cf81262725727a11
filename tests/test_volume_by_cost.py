"""How the hypervolume grew with what was spent."""

from __future__ import annotations

import confirmed_journals
import journals
import pytest

from kdsearch import costs, summary
from kdsearch.confirmation import confirmation
from kdsearch.records import replay
from kdsearch.volume_by_cost import growth

CPU_S = 1.25  # of a synthetic epoch


def test_each_trial_that_moves_the_front_is_a_step_at_what_had_been_spent():
    story = journals.Story()
    story.trial(0, [0.1, 0.5], 6_000, "control")
    story.trial(0, [0.1, 0.75], 25_000)
    story.trial(1, [0.1, 0.7], 25_000)  # dominated
    story.trial(2, [0.1, 1.0], 125_000)
    found = growth(replay(story.events), None)
    assert [spent for spent, _ in found.steps] == [4 * CPU_S, 8 * CPU_S]
    assert [volume for _, volume in found.steps] == pytest.approx([1 / 3, 1 / 2])
    assert (found.total, found.confirming_from, found.confirmed) == (8 * CPU_S, None, None)


def test_it_ends_with_the_hypervolume_of_the_summary():
    sweep = replay(journals.realistic(60).events)
    found = growth(sweep, None)
    volumes = [volume for _, volume in found.steps]
    assert volumes == sorted(volumes)
    assert volumes[-1] == pytest.approx(summary.hypervolume(sweep)["value"])


def test_the_confirmed_volume_is_less_where_the_search_was_lucky():
    story = confirmed_journals.confirmed(journals.realistic(40))
    sweep = replay(story.events)
    found = growth(sweep, confirmation(sweep))
    assert found.confirmed < found.steps[-1][1]
    searching = sum(
        costs.device_s(trial.epochs)
        for trial in sweep.trials.values()
        if trial.role == "search" or trial.purpose == "floor"
    )
    assert found.confirming_from == pytest.approx(searching)


def test_without_a_completed_trial_nothing_grew():
    story = journals.Story()
    story.trial(0, [0.1], status="stopped")
    assert growth(replay(story.events), None).steps == ()
