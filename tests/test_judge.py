"""What the stopping rules are told of a sweep: whose results count, as what, and with which noise."""

from __future__ import annotations

from typing import Any

import pytest
from journals import Story, config

from kdsearch import spec as specs
from kdsearch.records import Choice, SweepRecord, replay
from kdsearch.search.judge import Judge, rungs

SPEC: dict[str, Any] = {
    "name": "small",
    "data": {"dataset": "digits"},
    "teacher": {"resnet": {"train": {"epochs": 1}}},
    "student": {"resnet": {}},
    "distill": {"response": "kd"},
    "train": {"epochs": 4},
}


def judge_of(story: Story, scheduler: str = "pareto") -> tuple[Judge, SweepRecord]:
    early = {"scheduler": scheduler, "grace_epochs": 1, "reduction_factor": 3}
    spec = specs.from_dict({**SPEC, "search": {"trials": 20, "early_stopping": early}})
    sweep = replay(story.events)
    return Judge(spec, sweep), sweep


def rule(story: Story, name: str, known_epochs: int = 0, scheduler: str = "pareto") -> str:
    judge, sweep = judge_of(story, scheduler)
    return judge.decide(sweep.trials[name], known_epochs).rule


def settled(story: Story) -> Story:
    """Eleven large controls of which one gained something: nothing is out of reach before there are gains."""
    for number in range(50, 61):
        end = 0.96 if number == 60 else 0.1
        student = config(options={"width": number}, distill={})
        story.trial(number, [0.1, 0.1, 0.1, end], 400_000, role="control", trial_config=student)
    return story


def better_ones(story: Story, accuracy: float = 0.9, params: int = 20_000) -> Story:
    """A finished trial and eight stopped ones of that accuracy and size at the first rung."""
    story.trial(10, [accuracy] * 4, params=params)
    for number in range(11, 19):
        story.trial(number, [accuracy], params=params, status="stopped")
    return settled(story)


def test_without_a_scheduler_there_are_no_rungs() -> None:
    early = {"scheduler": "none", "grace_epochs": 1, "reduction_factor": 2}
    spec = specs.from_dict({**SPEC, "search": {"trials": 4, "early_stopping": early}})
    assert rungs(spec) == ()


def test_one_promising_student_of_several_keeps_the_whole_trial() -> None:
    alone, with_peer = better_ones(Story()), better_ones(Story())
    alone.trial(0, [0.1], status="running")
    with_peer.trial(0, [0.1], status="running", peers={6_000: [0.5]})

    assert rule(alone, "t0000") == "pareto rung 1: behind its size"
    assert rule(with_peer, "t0000") == "pareto rung 1: near the front"


def test_stopped_and_failed_trials_count_at_the_rungs_that_they_reached() -> None:
    story = settled(Story())
    for number, status in enumerate(["stopped", "failed", "running", "completed"], start=1):
        story.trial(number, [0.9] * (4 if status == "completed" else 1), status=status)
    story.trial(0, [0.1], status="running")

    assert rule(story, "t0000") == "pareto rung 1: behind its size"


def test_controls_are_the_floor_and_enter_no_rung() -> None:
    story = settled(Story(data={"num_validation": 10_000}))
    story.trial(2, [0.84] * 4, params=20_000)
    story.trial(0, [0.8] * 4, role="control", params=6_000)
    story.trial(1, [0.9] * 4, role="control", params=60_000)
    story.trial(0, [0.84], params=20_000, status="running")
    story.trial(1, [0.5], params=20_000, status="running")

    assert rule(story, "t0000") == "pareto rung 1: dominates the rung"
    assert rule(story, "t0001") == "pareto rung 1: below the floor"


@pytest.mark.parametrize(
    ("num_validation", "verdict"), [(100, "near the front"), (10_000, "behind its size")]
)
def test_a_small_validation_split_forgives_more(num_validation: int, verdict: str) -> None:
    story = better_ones(Story(data={"num_validation": num_validation}), accuracy=0.53)
    story.trial(0, [0.5], status="running")

    assert rule(story, "t0000") == f"pareto rung 1: {verdict}"


@pytest.mark.parametrize(("second_seed", "verdict"), [(0.5, "near the front"), (0.6, "behind its size")])
def test_controls_that_differ_by_seed_say_what_noise_is(second_seed: float, verdict: str) -> None:
    story = better_ones(Story(), accuracy=0.75, params=200_000)
    story.trial(0, [0.6] * 4, role="control", params=6_000)
    story.trial(1, [second_seed] * 4, role="control", params=6_000)
    story.trial(0, [0.68], params=200_000, status="running")

    assert rule(story, "t0000") == f"pareto rung 1: {verdict}"


AFTER_AN_EPOCH_ALONE = config(distill={"feature": Choice("ab", {"alone": 0.25})})


@pytest.mark.parametrize("scheduler", ["pareto", "asha"])
def test_a_trial_is_not_judged_before_its_classifier_had_its_grace(scheduler: str) -> None:
    story = better_ones(Story())
    story.trial(0, [0.1], status="running", trial_config=AFTER_AN_EPOCH_ALONE)
    judge, sweep = judge_of(story, scheduler)

    assert judge.decide(sweep.trials["t0000"], 0).rule == "before its first rung"
    assert rule(better_ones(Story()), "t0010", scheduler=scheduler) != "before its first rung"


@pytest.mark.parametrize(("scheduler", "finished"), [("pareto", [10]), ("asha", [])])
def test_nobody_is_compared_with_a_trial_that_has_not_seen_a_label(
    scheduler: str, finished: list[int]
) -> None:
    story = settled(Story())
    for number in finished:  # out of reach, but one alone is too few to compare with
        story.trial(number, [0.9] * 4)
    for number in range(11, 19):
        story.trial(number, [0.9], status="stopped", trial_config=AFTER_AN_EPOCH_ALONE)
    story.trial(0, [0.1], status="running")
    judge, sweep = judge_of(story, scheduler)

    assert judge.decide(sweep.trials["t0000"], 0).goes_on


def test_asha_judges_on_arrival_and_never_again() -> None:
    story = better_ones(Story())
    story.trial(0, [0.1, 0.1], status="running")

    judge, sweep = judge_of(story, "asha")

    assert not judge.decide(sweep.trials["t0000"], known_epochs=0).goes_on
    assert judge.decide(sweep.trials["t0000"], known_epochs=1).goes_on


def test_a_judge_that_watched_the_sweep_says_what_a_new_one_says() -> None:
    story = Story()
    story.trial(0, [0.1], status="running")
    watching, sweep = judge_of(story)
    before = watching.decide(sweep.trials["t0000"], 0)
    known = len(story.events)
    for event in better_ones(story).events[known:]:
        sweep.apply(event)

    after = watching.decide(sweep.trials["t0000"], 1)

    assert before.goes_on
    assert after.rule == rule(story, "t0000") == "pareto rung 1: behind its size"
