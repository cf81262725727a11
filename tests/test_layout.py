"""A family's memory layout is measured apart, once on a machine, and kept by the sweep that began with it."""

import json
import os

import pytest

from kdsearch import pipeline
from kdsearch import spec as specs
from kdsearch.journal import Journal
from kdsearch.layout import Shape, choose, fastest
from kdsearch.records import Choice

DIGITS = Shape(num_classes=10, in_channels=1, image_size=8)
WIDE = Choice("resnet", {"depth": 8, "width": 0.5})
NARROW = Choice("resnet", {"depth": 8, "width": 0.25})
# What Python runs when it starts: a layout that crashes, as channels_last did in torch 2.14.1.
CRASHING = """
import os, signal, torch
original = torch.nn.Module.to
def to(self, *arguments, memory_format=None, **keywords):
    if memory_format == torch.channels_last:
        os.kill(os.getpid(), signal.SIGSEGV)
    return original(self, *arguments, **keywords)
torch.nn.Module.to = to
"""
FORBIDDEN = "raise SystemExit('a process was started')"


@pytest.fixture
def start_with(tmp_path, monkeypatch):
    """Every process that is started from here on runs this code first."""

    def install(code):
        (tmp_path / "sitecustomize.py").write_text(code)
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)

    return install


def test_a_layout_that_crashes_is_not_chosen(tmp_path, start_with, caplog):
    start_with(CRASHING)
    (found,) = choose([WIDE], DIGITS, tmp_path / "store")
    assert found.layout == "nchw"
    assert list(found.step_ms) == ["nchw"]
    assert "ended with -11" in caplog.text


def test_both_layouts_are_measured_once_on_a_machine(tmp_path, start_with):
    first = choose([WIDE, NARROW], DIGITS, tmp_path / "store")
    assert [(one.family, one.students) for one in first] == [("resnet", (WIDE.options,))]
    assert set(first[0].step_ms) == {"nchw", "channels_last"}
    start_with(FORBIDDEN)
    assert choose([WIDE, NARROW], DIGITS, tmp_path / "store") == first


def test_a_damaged_measurement_is_made_again(tmp_path, start_with):
    choose([WIDE], DIGITS, tmp_path / "store")
    (file,) = (tmp_path / "store" / "layouts").iterdir()
    file.write_text("{")
    choose([WIDE], DIGITS, tmp_path / "store")
    assert json.loads(file.read_text())["family"] == "resnet"


def test_narrow_students_and_networks_without_convolutions_are_not_measured(tmp_path, start_with):
    start_with(FORBIDDEN)
    assert choose([NARROW, Choice("mlp", {})], DIGITS, tmp_path) == []


@pytest.mark.parametrize(
    ("step_ms", "expected"),
    [
        ({"nchw": 1.3, "channels_last": 1.0}, "channels_last"),
        ({"nchw": 1.04, "channels_last": 1.0}, "nchw"),
        ({"nchw": 1.0, "channels_last": 1.3}, "nchw"),
        ({"nchw": 1.0}, "nchw"),
        ({}, "nchw"),
    ],
)
def test_a_layout_has_to_beat_nchw_clearly(step_ms, expected):
    assert fastest(step_ms) == expected


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("layout_chosen", {"layouts": [{"family": "resnet", "layout": "channels_last"}]}, "channels_last"),
        ("trial_started", {}, None),  # by a version that trained everything in NCHW
    ],
)
def test_a_sweep_goes_on_in_the_layout_it_began_with(tmp_path, kind, fields, expected):
    with Journal(tmp_path) as journal:
        journal.append(kind, **fields)
        layouts = pipeline.choose_layouts(specs.load("search_spaces/digits.yaml"), None, None, journal, None)
    assert layouts.get("resnet") == expected
