"""What a sweep cost: every second is somewhere, and each front student carries its share."""

from __future__ import annotations

import copy
import math

import confirmed_journals
import journals
import pytest

from kdsearch import chapters_cost, costs, pairing, summary
from kdsearch.records import replay

CPU_S = 1.25  # of a synthetic epoch, which takes 1.5 s
TIME_S = 1.5


def searched():
    """A small front student, a dominated one and a stopped one in its band; a large front student."""
    story = journals.Story()
    story.trial(0, [0.1, 0.4], 10_000, "control")
    story.trial(0, [0.1, 0.5], 10_000)
    story.trial(1, [0.1, 0.4], 12_000)
    story.trial(2, [0.1], 12_000, status="stopped")
    story.trial(3, [0.1, 0.7], 400_000)
    return story


def with_gpus(story, gpus):
    spec = copy.deepcopy(story.header["spec"])
    spec["resources"]["gpus_per_trial"] = gpus
    story.events[0]["spec"] = spec
    return story


def test_accounts_say_what_each_kind_of_work_took():
    story = searched().teacher()
    found = costs.accounts(replay(story.events), story.events)
    assert {key: (account.num_trials, account.epochs) for key, account in found.items()} == {
        "teacher": (1, 200),
        "search_completed": (3, 6),
        "search_stopped": (1, 1),
        "control_floor": (1, 2),
    }
    stopped = found["search_stopped"]
    assert (stopped.time_s, stopped.cpu_s, stopped.gpu_s) == (TIME_S, CPU_S, 0.0)


def test_a_stored_teacher_cost_this_sweep_nothing():
    story = searched().teacher(source="stored")
    assert "teacher" not in costs.accounts(replay(story.events), story.events)


def test_a_teacher_is_counted_once_though_a_resume_finds_it_stored():
    story = searched().teacher().teacher(source="stored")
    assert costs.accounts(replay(story.events), story.events)["teacher"].cpu_s == 7150.0


def test_the_mean_of_several_teachers_costs_nothing_beyond_them():
    story = searched().teacher(name="a/one").teacher(name="a", of=["a/one", "a/two"])
    assert costs.accounts(replay(story.events), story.events)["teacher"].time_s == 7200.0


def test_gpu_seconds_are_the_trials_share_of_a_gpu():
    story = with_gpus(searched().teacher(), 0.25)
    sweep = replay(story.events)
    found = costs.accounts(sweep, story.events)
    assert (found["search_stopped"].gpu_s, found["teacher"].gpu_s) == (0.25 * TIME_S, 7200.0)
    assert costs.unit(sweep) == "GPU-seconds"
    assert costs.device_s(sweep.trials["t0002"].epochs) == 0.25 * TIME_S


def on_gpus(story, gpus, trials=None):
    """The story, whose epochs say what share of a GPU they had: all, or those of some trials."""
    for event in story.events:
        if event["kind"] == "epoch" and (trials is None or event["trial_id"] in trials):
            event["gpus"] = gpus
    return story


def test_a_share_of_a_gpu_that_was_asked_for_and_is_not_there_makes_no_gpu_seconds():
    story = on_gpus(with_gpus(searched().teacher(), 0.25), 0.0)
    sweep = replay(story.events)
    found = costs.accounts(sweep, story.events)
    assert {account.gpu_s for account in found.values()} == {0.0}
    assert {name: account.device_s for name, account in found.items()} == {
        name: account.cpu_s for name, account in found.items()
    }
    assert costs.unit(sweep) == summary.summary(sweep, story.events)["costs"]["unit"] == "CPU-seconds"
    assert next(iter(costs.of_front(sweep).values())).own == 2 * CPU_S
    assert "GPU" not in str(chapters_cost.chapter(sweep, story.events, ""))


def test_a_sweep_that_went_on_on_another_machine_counts_what_each_epoch_had():
    story = on_gpus(on_gpus(searched().teacher(), 0.0), 0.25, {"t0002", "t0003"})
    sweep = replay(story.events)
    found = costs.accounts(sweep, story.events)
    assert costs.unit(sweep) == "GPU- and CPU-seconds"
    assert (found["teacher"].gpu_s, found["teacher"].device_s) == (0.0, 7150.0)
    assert found["search_completed"].device_s == 4 * CPU_S + 2 * 0.25 * TIME_S
    assert found["search_stopped"].device_s == found["search_stopped"].gpu_s == 0.25 * TIME_S


def test_a_front_student_carries_what_was_thrown_away_in_its_band():
    small, large = costs.of_front(replay(searched().events)).values()
    assert (small.own, small.confirming, small.share) == (2 * CPU_S, 0.0, 5 * CPU_S)
    assert (large.own, large.share) == (2 * CPU_S, 0.0)


def test_a_band_without_a_front_student_is_shared_by_all():
    story = searched()
    story.trial(4, [0.1, 0.2], 60_000)
    small, large = costs.of_front(replay(story.events)).values()
    assert (small.share, large.share) == (6 * CPU_S, CPU_S)


def test_a_trial_with_two_front_students_is_split_between_them():
    story = journals.Story()
    story.trial(0, [0.1, 0.7], 40_000, peers={10_000: [0.1, 0.6]})
    assert [cost.own for cost in costs.of_front(replay(story.events)).values()] == [CPU_S, CPU_S]


@pytest.mark.parametrize("gpus", [0.0, 0.25])
def test_the_front_carries_all_that_was_trained(gpus):
    story = with_gpus(confirmed_journals.confirmed(journals.realistic(40)), gpus)
    sweep = replay(story.events)
    carried = math.fsum(cost.total for cost in costs.of_front(sweep).values())
    spent = math.fsum(costs.device_s(trial.epochs) for trial in sweep.trials.values())
    assert carried == pytest.approx(spent)
    assert all(cost.confirming > 0 for cost in costs.of_front(sweep).values())


def test_a_control_that_two_students_share_is_split_between_them():
    story = journals.Story()
    for number, temperature in enumerate([2.0, 3.0]):  # same architecture and recipe: same control
        story.trial(number, [0.1, 0.5], 10_000, trial_config=journals.config(temperature=temperature))
    sequel, sweep = confirmed_journals.Sequel(story), replay(story.events)
    again = pairing.repeat(sweep, sweep.trials["t0000"], 1)
    for trial in sweep.of_role("search"):
        sequel.add("confirm", pairing.repeat(sweep, trial, 1), trial, 0.5)
    sequel.add("control", again.control, sweep.trials["t0000"], 0.4, "no_kd")
    first, second = costs.of_front(replay(story.events)).values()
    assert first.confirming == second.confirming == (4 + 4 / 2) * CPU_S
