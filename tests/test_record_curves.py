"""The recorder of learning curves: a memoised teacher, what is recorded, how it resumes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import record_curves
from benchmarks.pairs import whole_lines
from benchmarks.record_curves import Memo, first_cells, further_cells, stages_read, train
from benchmarks.table import num_stages, run_key
from kdsearch import data, listing
from kdsearch import spec as specs
from kdsearch.models.build import build
from kdsearch.spec import SweepSpec
from kdsearch.teacher_model import Frozen

SPEC = """
name: tiny_table
data: {dataset: digits, subset: 64, validation: 100, augment: [crop]}
teacher: {resnet: {depth: 8, width: 0.25, train: {epochs: 1}}}
student: {resnet: {depth: 8, width: {type: float, low: 0.125, high: 0.25, step: 0.125}}}
distill:
  alpha: {type: float, low: 0.5, high: 0.9, step: 0.4}
  temperature: 4
  response: kd
  feature: {none: , fitnet: {weight: 10, layer_map: last}, at: {weight: 10, layer_map: uniform}}
train: {epochs: 2, batch_size: 32, lr: {type: categorical, choices: [0.1, 0.01]}}
search: {trials: 6}
"""


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC)
    return specs.load(path)


def test_a_memoised_teacher_gives_the_very_curves_of_a_live_one(spec: SweepSpec) -> None:
    images = data.load(spec.data)
    torch.manual_seed(0)
    live = Frozen(build("resnet", {"depth": 8, "width": 0.25}, 10, 1, 8))
    configs = [config for _, config in listing.configurations(spec, num_stages(spec))][1:6:2]
    memo = Memo(live, stages_read(configs))

    curves = [train(config, spec, images, live)["val_accuracy"] for config in configs]

    assert [train(config, spec, images, memo)["val_accuracy"] for config in configs] == curves
    assert len(memo._known) == 2 * 2  # epochs by batches, whatever the student


def test_every_cell_once_and_every_student_without_distillation_by_seed(spec: SweepSpec) -> None:
    cells = [run for run, _ in first_cells(spec)]

    assert len({run_key(run) for run in cells if run["role"] == "search"}) == 2 * 2 * 3 * 2
    assert sorted(run["seed"] for run in cells if run["role"] == "control") == [0, 0, 1, 1, 2, 2]
    assert all(run["seed"] == 0 for run in cells if run["role"] == "search")


def test_the_best_cells_of_each_student_get_the_further_seeds(spec: SweepSpec) -> None:
    done: list[dict[str, Any]] = [
        {**run, "val_accuracy": [0.1, config.train.lr + config.student.options["width"]]}
        for run, config in first_cells(spec)
    ]

    again = further_cells(spec, done)

    assert len(again) == 2 * 2 * math.ceil(0.15 * 12)  # students by seeds by the best of 12 recipes
    assert {config.train.lr for _, config in again} == {0.1}
    assert sorted(config.seed for _, config in again) == sorted(run["seed"] for run, _ in again)


def test_a_recording_resumes_where_a_crash_cut_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    whole = [{"data": "d", "teacher": "t"}, {"role": "control", "student": {}, "seed": 0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in whole) + '{"role": "sea')

    assert whole_lines(path) == whole
    assert path.read_text().endswith("}\n")


def test_a_recording_of_another_teacher_is_refused(
    spec: SweepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.jsonl"
    path.write_text('{"data": "d", "teacher": "another"}\n')
    monkeypatch.setattr(record_curves, "described", lambda spec: {"data": "d", "teacher": "t"})

    with pytest.raises(ValueError, match="another teacher"):
        record_curves.record(spec, path, processes=1)
