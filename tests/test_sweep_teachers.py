"""A sweep with several teachers as a user runs it, and what a resumed one refuses."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from kill import Killable, Moment
from rich.console import Console

from kdsearch import teacher_phase
from kdsearch.journal import Journal
from kdsearch.progress import Progress
from kdsearch.teacher import TeacherError
from kdsearch.teacher_model import Teacher

SPEC = """
name: several
data: {dataset: digits, subset: 400}
teacher:
  one_of:
    plain: {resnet: {depth: 8, width: 0.5, train: {epochs: 3, lr: 0.1}}}
    again: {born_again: {resnet: {depth: 8, width: 0.5, train: {epochs: 3, lr: 0.1}}, generations: 2}}
student: {resnet: {depth: 8, width: {type: categorical, choices: [0.125, 0.25]}}}
distill: {response: kd}
train: {epochs: 2, batch_size: 64}
search: {trials: 4, early_stopping: none}
confirm: {seeds: 0}
"""

PARTS = ["again/generation 0", "again/generation 1", "again/generation 2", "plain"]


@pytest.mark.slow
def test_a_sweep_killed_between_its_teachers_trains_each_of_them_once(tmp_path: Path) -> None:
    sweep = Killable(tmp_path, trials=4, epochs=2)
    sweep.spec.write_text(SPEC)
    between = Moment("between the teachers", lambda seen: seen.count("teacher_ready") >= 2, 0.0)

    assert sweep.kill_at(between), sweep.log()
    before = [event["name"] for event in sweep.events() if event["kind"] == "teacher_ready"]
    assert sweep.run("--resume") == 0, sweep.log()

    ready = [event for event in sweep.events() if event["kind"] == "teacher_ready"]
    resumed = {event["name"]: event["source"] for event in ready[len(before) :]}
    assert list(resumed) == [*PARTS, "again/all generations", "again"]
    assert {resumed[name] for name in before} == {"stored"}
    assert resumed["plain"] == "stored"  # the same network as generation 0
    assert sweep.problems() == []
    with (sweep.output / "trials.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["role"] == "search"]
    assert {row["teacher"] for row in rows} <= {"plain", "again"}
    assert "again/generation 2" in (sweep.output / "report.md").read_text()


def ready(journal: Journal, name: str, key: str) -> None:
    report: dict[str, Any] = {"accuracy": 0.9, "ece": 0.1, "nll": 0.5, "entropy": {"1": 0.4}, "params": 1000}
    report |= {"macs": 9000, "size_mb": 0.1, "epochs": 3, "time_s": 1.0, "source": "trained"}
    teacher = Teacher(key, "mlp", {"depth": 1}, 10, 1, 8, {}, {**report, "still_improving": False})
    progress = Progress(Console(quiet=True))
    teacher_phase.accept(teacher, None, journal, progress, name, "teacher.mlp.train")


def test_a_resumed_sweep_refuses_another_network_under_a_teachers_name(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    ready(journal, "big", "key of big")
    ready(journal, "small", "key of small")
    ready(journal, "big", "key of big")
    with pytest.raises(TeacherError, match="the teacher small is not the one that this sweep began"):
        ready(journal, "small", "key of another")


def test_an_only_teacher_is_journalled_without_a_name_or_a_role(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    ready(journal, "", "key")
    assert {"name", "role", "of", "learns_from"} & journal.events[0].keys() == set()
