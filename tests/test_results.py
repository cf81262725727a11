"""What the replayed journal says: rows, front, hypervolume, times, groups. No files, no figures."""

from __future__ import annotations

import math

import journals
import pytest

from kdsearch import results, summary
from kdsearch.records import Choice, replay


def ids(trials):
    return [trial.trial_id for trial in trials]


def test_front_is_what_no_completed_search_trial_dominates():
    story = journals.Story().teacher()
    story.trial(0, [0.5], params=10_000)
    story.trial(1, [0.6], params=20_000)
    story.trial(2, [0.55], params=30_000)  # dominated by 1
    assert ids(results.front(replay(story.events))) == ["t0000", "t0001"]


def test_equal_students_are_all_on_the_front():
    story = journals.Story()
    story.trial(0, [0.6], params=10_000)
    story.trial(1, [0.6], params=10_000)
    story.trial(2, [0.6], params=10_001)
    assert ids(results.front(replay(story.events))) == ["t0000", "t0001"]


@pytest.mark.parametrize("status", ["stopped", "failed", "running"])
def test_only_completed_trials_are_on_the_front(status):
    story = journals.Story()
    story.trial(0, [0.5], params=10_000)
    story.trial(1, [0.9], params=5_000, status=status)
    assert ids(results.front(replay(story.events))) == ["t0000"]


@pytest.mark.parametrize("role", ["control", "confirm"])
def test_controls_and_confirmations_are_never_on_the_front(role):
    story = journals.Story()
    story.trial(0, [0.5], params=10_000)
    story.trial(0, [0.9], params=5_000, role=role)
    assert ids(results.front(replay(story.events))) == ["t0000"]


def test_front_is_sorted_by_params():
    story = journals.Story()
    story.trial(0, [0.7], params=30_000)
    story.trial(1, [0.5], params=10_000)
    story.trial(2, [0.6], params=20_000)
    assert ids(results.front(replay(story.events))) == ["t0001", "t0002", "t0000"]


def test_front_is_taken_over_the_objectives_of_the_spec():
    story = journals.Story(objectives=["val_accuracy", "macs"])
    story.trial(0, [0.6], params=10_000, macs=9_000_000)
    story.trial(1, [0.6], params=20_000, macs=1_000_000)
    assert ids(results.front(replay(story.events))) == ["t0001"]


def test_three_objectives_keep_students_that_win_in_one():
    story = journals.Story(objectives=["val_accuracy", "params", "macs"])
    story.trial(0, [0.6], params=10_000, macs=9_000_000)
    story.trial(1, [0.6], params=20_000, macs=1_000_000)
    story.trial(2, [0.6], params=20_000, macs=9_000_000)
    assert ids(results.front(replay(story.events))) == ["t0000", "t0001"]


def test_the_last_epoch_counts_and_not_the_best():
    story = journals.Story()
    story.trial(0, [0.9, 0.5], params=10_000)
    story.trial(1, [0.4, 0.6], params=10_000)
    assert ids(results.front(replay(story.events))) == ["t0001"]


def test_a_control_that_dominates_a_front_student_is_named_with_it():
    story = journals.Story()
    story.trial(0, [0.5], params=10_000)
    story.trial(1, [0.8], params=20_000)
    story.trial(0, [0.5], params=9_000, role="control")
    story.trial(1, [0.6], params=10_000, role="control")
    pairs = results.beaten_by_controls(replay(story.events))
    assert [(student.trial_id, control.trial_id) for student, control in pairs] == [("t0000", "c0001")]


def test_a_control_as_good_as_a_front_student_does_not_beat_it():
    story = journals.Story()
    story.trial(0, [0.5], params=10_000)
    story.trial(0, [0.5], params=10_000, role="control")
    assert results.beaten_by_controls(replay(story.events)) == []


def test_a_row_says_what_a_trial_reached_relative_to_the_teacher():
    story = journals.Story().teacher(accuracy=0.8, params=1_000_000)
    chosen = journals.config(
        distill={"feature": Choice("fitnet", {"weight": 10.0, "layer_map": "stage1>stage2"})}
    )
    story.trial(7, [0.3, 0.6], params=25_000, trial_config=chosen)
    (row,) = results.trial_rows(replay(story.events))
    assert row == row | {
        "trial_id": "t0007",
        "student_id": "t0007",
        "role": "search",
        "status": "completed",
        "epochs": 2,
        "max_epochs": 4,
        "val_accuracy": 0.6,
        "params": 25_000,
        "macs": 3_750_000,
        "size_mb": 0.1025,
        "retention": 0.6 / 0.8,
        "compression": 40.0,
        "time_s": 3.0,
        "on_front": True,
        "mlflow_run_id": "run-t0007",
        "error": None,
        "student.family": "resnet",
        "student.width": 0.5,
        "distill.feature": "fitnet",
        "distill.feature.weight": 10.0,
        "distill.feature.layer_map": "stage1>stage2",
        "train.lr": 0.05,
    }


def test_what_did_not_apply_is_not_in_the_row():
    story = journals.Story()
    story.trial(0, [0.5], role="control")
    (row,) = results.trial_rows(replay(story.events))
    assert [name for name in row if name.startswith("distill")] == []


def test_a_failed_trial_has_its_error_on_one_line():
    story = journals.Story()
    story.trial(0, [], status="failed", error="ValueError:\n  no map\tfits")
    (row,) = results.trial_rows(replay(story.events))
    assert (row["error"], row["val_accuracy"], row["on_front"]) == ("ValueError: no map fits", None, False)


def test_without_a_teacher_there_is_no_retention():
    story = journals.Story()
    story.trial(0, [0.5])
    (row,) = results.trial_rows(replay(story.events))
    assert (row["retention"], row["compression"]) == (None, None)


def test_rows_are_controls_then_search_then_confirmation_by_number():
    story = journals.Story()
    for role, number in [("search", 1), ("confirm", 0), ("control", 1), ("search", 0), ("control", 0)]:
        story.trial(number, [0.5], role=role)
    rows = results.trial_rows(replay(story.events))
    assert [row["trial_id"] for row in rows] == ["c0000", "c0001", "t0000", "t0001", "r0000"]


def test_curves_hold_each_epoch_once_after_a_resumed_attempt():
    story = journals.Story()
    name = story.trial(0, [0.1, 0.2], status="running")
    story.epoch(name, 2, 0.9, journals.config(), attempt=2)  # done again after the resume: the first counts
    story.epoch(name, 3, 0.3, journals.config(), attempt=2)
    rows = results.curve_rows(replay(story.events))
    assert [(row["epoch"], row["val_accuracy"]) for row in rows] == [(1, 0.1), (2, 0.2), (3, 0.3)]


@pytest.mark.parametrize(
    ("distill", "label"),
    [
        ({}, "no distillation"),
        ({"response": Choice("kd")}, "kd"),
        ({"relation": Choice("rkd"), "feature": Choice("at"), "response": Choice("kd")}, "kd + at + rkd"),
    ],
)
def test_methods_are_named_in_slot_order(distill, label):
    assert results.method_label(journals.config(distill=distill)) == label


def test_hypervolume_worked_out_by_hand():
    # Edges 5k to 625k span log10(125); the floor is 0.5, so accuracy 0.75 covers half of the height.
    story = journals.Story()
    story.trial(0, [0.5], params=6_000, role="control")
    story.trial(0, [0.75], params=25_000)  # one third of the width from the left: covers two thirds
    volume = summary.hypervolume(replay(story.events))
    assert volume["value"] == pytest.approx(0.5 * 2 / 3)
    assert volume["reference"] == {"val_accuracy": 0.5, "params": 625_000.0}


def test_hypervolume_adds_what_a_second_student_covers():
    story = journals.Story()
    story.trial(0, [0.5], params=6_000, role="control")
    story.trial(0, [0.75], params=25_000)
    story.trial(1, [1.0], params=125_000)  # a third of the width, from half to the full height
    assert summary.hypervolume(replay(story.events))["value"] == pytest.approx(0.5 * 2 / 3 + 0.5 / 3)


def test_a_student_below_the_no_kd_floor_adds_nothing():
    story = journals.Story()
    story.trial(0, [0.5], params=6_000, role="control")
    story.trial(0, [0.49], params=6_000)
    assert summary.hypervolume(replay(story.events))["value"] == 0


def test_the_reference_is_the_first_control_of_the_smallest_band_and_stays():
    story = journals.Story()
    story.trial(0, [0.7], params=600_000, role="control")
    story.trial(1, [0.4], params=6_000, role="control")
    story.trial(2, [0.3], params=6_000, role="control")
    volume = summary.hypervolume(replay(story.events))
    assert (volume["reference"]["val_accuracy"], volume["floor"]) == (0.4, "c0001")


def test_hypervolume_of_three_objectives_scales_each():
    story = journals.Story(objectives=["val_accuracy", "params", "macs"], bounds={"macs": [1e6, 1e8]})
    story.trial(0, [0.5], params=25_000, macs=10_000_000)
    assert summary.hypervolume(replay(story.events))["value"] == pytest.approx(0.5 * (2 / 3) * 0.5)


def test_hypervolume_where_all_candidates_have_one_size_is_the_accuracy_above_the_floor():
    story = journals.Story(bands={"edges": [10_000.0] * 4, "cost": "params"})
    story.trial(0, [0.5], params=10_000, role="control")
    story.trial(0, [0.6], params=10_000)
    assert summary.hypervolume(replay(story.events))["value"] == pytest.approx(0.2)


def test_hypervolume_without_trials_is_zero():
    assert summary.hypervolume(replay(journals.Story().events))["value"] == 0


def test_wall_time_leaves_out_the_pause_before_a_resume():
    story = journals.Story().teacher()  # 3 s after the start
    story.add("sweep_started", after_s=5_000, **story.header | {"resumed": True})
    story.add("sweep_ended", after_s=10, status="finished", reason="", phases={}, slots=1)
    runs = summary.sessions(story.events)
    assert (len(runs), summary.wall_s(runs)) == (2, 13.0)


def test_a_sync_long_after_the_sweep_is_no_work():
    story = journals.Story().teacher()
    before = summary.wall_s(summary.sessions(story.events))
    story.add("mlflow_run", after_s=400_000, run_id="r", experiment_id="1")
    assert summary.wall_s(summary.sessions(story.events)) == before


def test_phases_add_up_over_sessions():
    story = journals.Story().ended("interrupted")
    story.add("sweep_started", **story.header | {"resumed": True}).ended()
    total = summary.phases(summary.sessions(story.events))
    assert total["search"] == {"wall_s": 200.0, "cpu_s": 360.5}


def test_training_time_counts_stopped_and_failed_trials():
    story = journals.Story()
    story.trial(0, [0.1, 0.2])
    story.trial(1, [0.1], status="stopped")
    story.trial(2, [0.1], status="failed")
    spent = summary.training_time(replay(story.events))["search"]
    assert spent == {"epochs": 4, "time_s": 6.0, "cpu_s": 5.0}


def test_counts_by_role_and_status():
    story = journals.Story()
    story.trial(0, [0.5], role="control")
    story.trial(0, [0.5])
    story.trial(1, [0.5], status="stopped")
    story.trial(2, [0.5], status="running")
    counts = summary.counts(replay(story.events))
    assert counts["control"] == {"completed": 1, "stopped": 0, "failed": 0, "running": 0}
    assert counts["search"] == {"completed": 1, "stopped": 1, "failed": 0, "running": 1}
    assert sum(counts["confirm"].values()) == 0


def test_a_sweep_without_an_end_is_unfinished():
    story = journals.Story().teacher()
    assert summary.summary(replay(story.events), story.events)["status"] == "unfinished"


def test_groups_compare_methods_within_a_size_band():
    story = journals.Story()
    story.trial(0, [0.4], params=10_000)
    story.trial(1, [0.6], params=10_000)
    story.trial(2, [0.7], params=200_000)
    story.trial(3, [0.9], params=10_000, status="stopped")
    (kd,) = summary.groups(replay(story.events), lambda config: [results.method_label(config)])
    assert (kd.label, kd.overall.n, kd.bands[1]) == ("kd", 3, None)
    assert kd.bands[0] == summary.Cell(n=2, mean=0.5, best=0.6)
    assert kd.bands[2] == summary.Cell(n=1, mean=0.7, best=0.7)


def test_layer_maps_are_grouped_with_their_method():
    maps = [Choice("at", {"weight": 1.0, "layer_map": text}) for text in ("stage1>stage1", "stage3>stage3")]
    story = journals.Story()
    story.trial(0, [0.4], trial_config=journals.config(distill={"feature": maps[0]}))
    story.trial(1, [0.5], trial_config=journals.config(distill={"feature": maps[1]}))
    story.trial(2, [0.6], trial_config=journals.config(distill={"feature": maps[1]}))
    found = summary.groups(replay(story.events), results.layer_map_labels)
    assert [(group.label, group.overall.n) for group in found] == [
        ("at stage3>stage3", 2),
        ("at stage1>stage1", 1),
    ]


def test_sizes_of_bands_come_from_the_journal():
    assert summary.bands(replay(journals.Story().events)) == [
        (5_000.0, 25_000.0),
        (25_000.0, 125_000.0),
        (125_000.0, 625_000.0),
    ]


def test_a_simulated_sweep_has_students_of_every_fate():
    sweep = replay(journals.realistic(40).events)
    assert all(summary.counts(sweep)["search"][status] for status in ("completed", "stopped", "failed"))
    assert all(math.isfinite(results.accuracy(trial)) for trial in results.front(sweep))


def test_trials_are_by_number_as_they_come_in_whatever_their_order():
    story = journals.Story()
    for number in (2, 0):
        story.trial(number, [0.5])
    sweep = replay(story.events)
    assert [trial.number for trial in sweep.of_role("search")] == [0, 2]
    known = len(story.events)
    story.trial(1, [0.5])
    story.trial(0, [0.5], role="control")
    for event in story.events[known:]:
        sweep.apply(event)
    assert [trial.number for trial in sweep.of_role("search")] == [0, 1, 2]
    assert [trial.trial_id for trial in sweep.of_role("control")] == ["c0000"]
