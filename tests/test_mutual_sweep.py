"""A sweep of mutual learning as a user runs it: on the command line, on real digits, with Ray and MLflow."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kill import Killable

from kdsearch import data
from kdsearch import spec as specs
from kdsearch.data.views import Views
from kdsearch.models.build import load_student

SPEC = """
name: mutual
data: {dataset: digits, augment: [crop]}
teacher: {mlp: {depth: 2, width: 2.0, train: {epochs: 3, lr: 0.1}}}
student: {mlp: {depth: 2, width: {type: float, low: 0.25, high: 1.0, step: 0.25}}}
distill:
  response: kd
  online: {dml: {peers: 2, peer_width: 0.5}}
train: {epochs: 4, batch_size: 64, lr: 0.1}
search: {trials: 2, early_stopping: none}
confirm: {seeds: 0}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Killable:
    sweep = Killable(tmp_path_factory.mktemp("mutual"))
    sweep.spec.write_text(SPEC)
    assert sweep.run() == 0, sweep.log()
    return sweep


def rows(sweep: Killable, name: str) -> list[dict[str, str]]:
    with (sweep.output / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_peer_is_a_student_in_the_tables(done: Killable) -> None:
    found = [row for row in rows(done, "trials.csv") if row["role"] == "search"]

    assert [(row["trial_id"], row["student_id"]) for row in found] == [
        ("t0000", "t0000.s1"),
        ("t0000", "t0000.s2"),
        ("t0001", "t0001.s1"),
        ("t0001", "t0001.s2"),
    ]
    assert all(float(row["val_accuracy"]) > 0.5 for row in found)
    assert len({row["params"] for row in found[:2]}) == 2
    assert {row["distill.response"] for row in found} == {"kd"}
    assert {"dml", "dml.s2", "kd.s2", "val_accuracy.s2"} <= set(rows(done, "curves.csv")[0])


@pytest.mark.slow
def test_every_peer_is_saved_as_the_tables_say(done: Killable) -> None:
    images = data.load(specs.load(done.spec).data)
    views = Views(images.validation, images.mean, images.std, ())
    batch = views.plain(torch.arange(len(views)))
    students = [student for trial in done.record().of_role("search") for student in trial.students()]

    for student in students:
        model, description = load_student(done.output / student.student)
        with torch.no_grad():
            accuracy = (model(batch.images).argmax(1) == batch.labels).float().mean().item()
        assert description["student_id"] == student.student_id
        assert description["config"]["student.width"] == student.config.student.options["width"]
        assert accuracy == pytest.approx(student.val_accuracy)
        assert sum(parameter.numel() for parameter in model.parameters()) == student.cost["params"]


@pytest.mark.slow
def test_mlflow_has_every_epoch_once(done: Killable) -> None:
    assert done.problems() == []


@pytest.mark.slow
def test_pick_takes_the_smallest_peer(done: Killable, tmp_path: Path) -> None:
    smallest = min(
        (row for row in rows(done, "trials.csv") if row["role"] == "search"),
        key=lambda row: int(row["params"]),
    )
    command = [sys.executable, "-m", "kdsearch.pick", str(done.output), "--out", str(tmp_path / "student")]

    picked = subprocess.run(
        [*command, "--max-params", smallest["params"]], capture_output=True, text=True, check=True
    )

    assert smallest["student_id"].endswith(".s2")
    assert smallest["student_id"] in picked.stdout
    assert load_student(tmp_path / "student")[1]["student_id"] == smallest["student_id"]
