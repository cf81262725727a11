"""What MLflow should hold about a sweep, worked out from the journal alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import STARTED, Story, config

from kdsearch.mlflow_runs import MAX_NAME, MAX_PARAM, Run, legal_name, run_name, sweep_run, trial_run
from kdsearch.records import Choice, replay


def child(story: Story, trial_id: str = "t0000") -> Run:
    sweep = replay(story.events)
    return trial_run(sweep, sweep.trials[trial_id])


def parent(story: Story) -> Run:
    sweep = replay(story.events)
    return sweep_run(sweep, sweep.teacher)


def values(run: Run, name: str) -> list[float]:
    return [point.value for point in run.points if point.name == name]


def test_a_trials_params_are_its_flat_configuration() -> None:
    story = Story().teacher()
    story.trial(0, [0.5], trial_config=config(lr=0.1))
    params = child(story).params
    assert params["student.family"] == "resnet"
    assert params["student.width"] == "0.5"
    assert params["distill.response"] == "kd"
    assert params["train.lr"] == "0.1"
    assert params["train.nesterov"] == "false"
    assert params["seed"] == "0"


def test_every_epoch_is_a_step_with_the_journals_time() -> None:
    story = Story().teacher(accuracy=0.8)
    story.trial(0, [0.2, 0.4])
    times = [round(event["time"] * 1000) for event in story.events if event["kind"] == "epoch"]
    points = [point for point in child(story).points if point.name == "val_accuracy"]
    assert [(p.step, p.value, p.time_ms) for p in points] == [(1, 0.2, times[0]), (2, 0.4, times[1])]
    assert values(child(story), "term/kd") == pytest.approx([2.4, 1.8])
    assert values(child(story), "retention") == pytest.approx([0.25, 0.5])


def test_size_and_compression_are_there_from_the_start() -> None:
    story = Story().teacher(params=1_000_000)
    story.trial(0, [], params=20_000, status="running")
    run = child(story)
    assert values(run, "params") == [20_000]
    assert values(run, "compression") == [50]
    assert {point.step for point in run.points} == {0}


@pytest.mark.parametrize(
    ("status", "expected"),
    [("completed", "FINISHED"), ("stopped", "FINISHED"), ("failed", "FAILED"), ("running", "RUNNING")],
)
def test_statuses(status: str, expected: str) -> None:
    story = Story().teacher()
    story.trial(0, [0.5], status=status)
    run = child(story)
    assert run.status == expected
    assert run.tags["kdsearch.status"] == status


def test_a_repeat_says_what_it_repeats_and_how_it_did_on_the_test_split() -> None:
    story = Story().teacher()
    story.trial(0, [0.5])
    story.trial(0, [0.4, 0.6], role="confirm", partner="t0000", test_accuracy=0.55)
    story.trial(0, [0.4, 0.5], role="control", purpose="no_kd", partner="r0000", test_accuracy=0.45)
    sweep = replay(story.events)
    repeat, control = (trial_run(sweep, sweep.trials[name]) for name in ("r0000", "c0000"))

    assert (repeat.tags["kdsearch.role"], repeat.tags["kdsearch.partner"]) == ("confirm", "t0000")
    assert (control.tags["kdsearch.purpose"], control.tags["kdsearch.partner"]) == ("no_kd", "r0000")
    *_, epoch, time_s, cpu_s, accuracy = repeat.points
    assert (accuracy.name, accuracy.value) == ("test_accuracy", 0.55)
    assert epoch.step < time_s.step == cpu_s.step == accuracy.step
    assert (time_s.value, cpu_s.value) == (2 * 1.5, 2 * 1.25)
    assert "test_accuracy" not in {point.name for point in child(story).points}


def test_a_trial_cut_off_by_the_end_of_its_sweep_is_killed_then() -> None:
    story = Story().teacher()
    story.trial(0, [0.5], status="running")
    story.ended("interrupted")
    run = child(story)
    assert (run.status, run.tags["kdsearch.status"]) == ("KILLED", "interrupted")
    assert run.ended_ms == parent(story).ended_ms == round(story.now * 1000)
    assert parent(story).status == "KILLED"


def test_the_parent_carries_the_spec_and_the_teacher() -> None:
    run = parent(Story().teacher(accuracy=0.75))
    assert run.params["data.dataset"] == "cifar100"
    assert run.params["student.resnet.width"] == '{"type": "float", "low": 0.25, "high": 1.0}'
    assert run.params["data.augment"] == '[["crop", {}], ["flip", {}]]'
    assert values(run, "teacher/accuracy") == [0.75]
    assert values(run, "teacher/entropy/4") == [2.9]
    assert run.tags["kdsearch.teacher.source"] == "trained"
    assert run.started_ms == round((STARTED + 1) * 1000)


def test_nothing_unset_becomes_a_param() -> None:
    run = parent(Story(spec={"data": {"subset": None, "root": "data"}}))
    assert run.params == {"data.root": "data"}


def test_long_values_are_cut_to_the_limit() -> None:
    run = parent(Story(spec={"name": "x" * 7000}))
    assert run.params == {"name": "x" * MAX_PARAM}


def test_values_that_are_not_finite_become_nan() -> None:
    story = Story().teacher()
    story.trial(0, [math.inf])
    assert math.isnan(values(child(story), "val_accuracy")[0])


def test_run_names_tell_trials_apart() -> None:
    distill = {"feature": Choice("at", {"weight": 5.0}), "response": Choice("kd")}
    assert run_name("t0007", config(options={"width": 0.5}, distill=distill)) == "t0007 resnet w0.5 kd+at"
    assert run_name("c0001", config("vgg", {"depth": 8}, distill={})) == "c0001 vgg d8 no-kd"
    assert run_name("t0001", config("wrn", {"bias": True, "norm": "batch"})) == "t0001 wrn kd"


@pytest.mark.parametrize("name", ["val_accuracy", "term/kd", "distill.feature.at.layer_map", "a b-c", "..a"])
def test_legal_names_stay_as_they_are(name: str) -> None:
    assert legal_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "/a", "a//b", "a/../b", "a/", "a:b", "α", "a\nb", "x" * 251]
)
def test_illegal_names_change(name: str) -> None:
    assert legal_name(name) != name


@given(st.text(alphabet="ab./:é ", max_size=300), st.text(alphabet="ab./:é ", max_size=300))
def test_two_names_never_become_one(left: str, right: str) -> None:
    assert (legal_name(left) == legal_name(right)) == (left == right)


@given(st.text(max_size=400))
def test_names_keep_to_the_limit(name: str) -> None:
    assert len(legal_name(name)) <= MAX_NAME
