"""A second sweep asks nothing of a teacher that a first one asked, counted in every process."""

from __future__ import annotations

import json

import pytest

from benchmarks import again
from kdsearch.teacher_store import remembered

ABOUT = {"what": "a figure", "teacher": "one", "augment": [["crop", {}]]}


def test_the_hooks_lines_are_added_up_and_samples_kept_apart():
    assert again.asked("7 64 forward\n8 4 sample\n7 2 forward\n") == again.Asked(66, 4, 2)
    assert again.asked("") == again.Asked(0, 0, 0)


@pytest.mark.slow
def test_a_second_sweep_asks_its_teacher_for_samples_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("KDSEARCH_HOME", str(tmp_path / "home"))  # put back in the end
    first, second = again.both(tmp_path, num_trials=2)
    assert first.images >= 3 * again.NUM_IMAGES
    assert first.processes >= 2
    assert second.images == 0
    assert second.samples > 0


def test_a_measurement_is_made_once(tmp_path):
    values = iter([0.1, 0.2])
    found = [remembered(ABOUT, lambda: {"a": next(values)}, tmp_path) for _ in range(2)]
    assert found == [{"a": 0.1}, {"a": 0.1}]


def test_another_teacher_is_measured_apart(tmp_path):
    remembered(ABOUT, lambda: {"a": 0.1}, tmp_path)
    assert remembered({**ABOUT, "teacher": "two"}, lambda: {"a": 0.2}, tmp_path) == {"a": 0.2}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", json.dumps({"values": {"a": "x"}}).encode()])
def test_a_damaged_measurement_is_made_again(content, tmp_path, caplog):
    remembered(ABOUT, lambda: {"a": 0.1}, tmp_path)
    file = next((tmp_path / "measured").iterdir())
    whole = file.read_bytes()
    file.write_bytes(content)
    assert remembered(ABOUT, lambda: {"a": 0.1}, tmp_path) == {"a": 0.1}
    assert file.read_bytes() == whole
    assert "measured again" in caplog.text


def test_a_store_that_takes_nothing_costs_the_measurement_alone(tmp_path):
    (tmp_path / "measured").write_text("not a folder")
    assert remembered(ABOUT, lambda: {"a": 0.1}, tmp_path) == {"a": 0.1}
