"""The benchmark against the usual script: what counts as reached, by which volume, at what cost."""

import json

import pytest
from journals import realistic

from benchmarks import peer
from benchmarks.peer import Box, Student
from benchmarks.process_tree import Course
from kdsearch import volume
from kdsearch.records import replay

BOX = Box(floor=0.5, low=100, high=10_000)


def test_the_volume_is_that_of_a_sweep():
    sweep = replay(realistic().events)
    found = volume.hypervolume(sweep)
    assert found["value"] > 0
    assert peer.box_of(sweep).volume(peer.ours_of(sweep)) == pytest.approx(found["value"], rel=1e-12)


def test_volume_by_hand():
    assert BOX.volume([]) == 0
    assert BOX.volume([Student(0, accuracy=1.0, params=100)]) == 1
    assert BOX.volume([Student(0, accuracy=0.75, params=1_000)]) == pytest.approx(0.25)
    assert BOX.volume([Student(0, accuracy=0.4, params=100)]) == 0


def test_a_volume_is_reached_when_the_student_that_makes_it_has_ended():
    students = [Student(30, 1.0, 100), Student(10, 0.75, 1_000), Student(20, 0.6, 5_000)]
    assert peer.reached(students, BOX, 0.25) == 10
    assert peer.reached(students, BOX, 0.9) == 30
    assert peer.reached(students[1:], BOX, 0.9) is None


def test_only_the_trials_of_tune_that_reached_the_last_epoch_count(tmp_path):
    for name, epochs in (("whole", 3), ("stopped", 2), ("never_reported", 0)):
        lines = [
            {"training_iteration": epoch, "timestamp": 100 + epoch, "val_accuracy": epoch / 10, "params": 7}
            for epoch in range(1, epochs + 1)
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert peer.peer_of(tmp_path, epochs=3) == [Student(103, 0.3, 7)]


def test_the_gain_is_of_what_was_spent_until_then_and_nothing_where_ours_never_got_there():
    course = Course(((0.0, 0.0), (10.0, 20.0)), 0, 20.0)
    students = [Student(5.0, 0.75, 1_000)]
    slow, fast = (peer.side_of(course, some, BOX, 0.25) for some in (students, [Student(1.0, 1.0, 100)]))
    never = peer.side_of(course, students, BOX, 0.9)
    assert peer.gain({"a": slow, "b": fast}) == pytest.approx(5)
    assert peer.gain({"a": slow, "b": never}) == 0
