"""What a search costs until it is as good as the script that one writes with Ray Tune, Optuna and MLflow.

`python -m benchmarks.peer [--pairs 10]`. A pair is two searches on digits with one seed: `peer_script`, a
plain Tune function trainable (live teacher, DataLoader, OptunaSearch, ASHAScheduler, MLflowLoggerCallback, a
report every epoch), and kdsearch. Both have the same teacher, trained beforehand and not counted, the same
space, epochs, images, number of trials and slots, one thread a trial, and an MLflow store whose tables exist.
Ours begins with an empty cache; that it measures layouts and trains controls counts. Neither confirms.

Printed is peer / ours: the processor seconds of all processes, from the start of the command, until the front
of the fully trained students has 95 % of the hypervolume that the peer's has in the end. The hypervolume is
`kdsearch.volume`'s, with the reference point of our sweep for both. A pair in which ours never gets there
counts as 0. A pair takes about six minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient

from benchmarks import pairs, process_tree
from benchmarks.process_tree import Course
from kdsearch import data, front, journal, pareto, teacher, volume
from kdsearch import spec as specs
from kdsearch.models.build import save_student
from kdsearch.records import SweepRecord, replay

NAME = "peer"
SHARE = 0.95
TEACHER = """
name: peer_teacher
data: {dataset: digits, augment: [crop]}
teacher: {resnet: {depth: %d, train: {epochs: 30, lr: 0.1}}}
student: mlp
distill: {alpha: 0.5, temperature: 4, response: kd}
train: {epochs: 1, lr: 0.1}
search: {trials: 1}
"""
SPEC = """
name: peer
data: {dataset: digits, augment: [crop]}
teacher: {checkpoint: %(teacher)s}
student:
  resnet:
    depth: {type: categorical, choices: [8, 14]}
    width: {type: float, low: 0.125, high: 1.0, step: 0.125}
  mlp:
    depth: {type: int, low: 1, high: 2}
    width: {type: float, low: 0.125, high: 1.0, step: 0.125}
distill:
  alpha: {type: float, low: 0.1, high: 0.9}
  temperature: {type: float, low: 1, high: 16, log: true}
  response: kd
train:
  epochs: %(epochs)d
  batch_size: 64
  lr: {type: float, low: 0.02, high: 0.3, log: true}
  weight_decay: 5e-4
  schedule: cosine
search:
  trials: %(trials)d
  seed: %(seed)d
  early_stopping: {scheduler: pareto, grace_epochs: %(grace)d, reduction_factor: 3}
confirm: {seeds: 0}
resources: {cpus_per_trial: 1, max_concurrent: %(concurrent)d}
"""


@dataclass(frozen=True)
class Setting:
    """What both sides are asked for."""

    trials: int = 128  # of 64 three quarters of our time were starting up
    epochs: int = 9
    grace: int = 1
    concurrent: int = 2
    teacher_depth: int = 56


@dataclass(frozen=True)
class Student:
    """A fully trained one: when its trial had ended, in seconds since the epoch."""

    ended: float
    accuracy: float
    params: float


@dataclass(frozen=True)
class Box:
    """What hypervolumes are shares of: accuracy from `floor` to 1, log10 of params from `low` to `high`."""

    floor: float
    low: float
    high: float

    def volume(self, students: Sequence[Student]) -> float:
        """As `kdsearch.volume.hypervolume` of a sweep with these students."""
        span = math.log10(self.high / self.low)
        points = [
            [(1 - one.accuracy) / (1 - self.floor), math.log10(one.params / self.low) / span]
            for one in students
        ]
        return pareto.hypervolume(points, [1.0, 1.0])


def reached(students: Sequence[Student], box: Box, target: float) -> float | None:
    """When the front of those that had ended first had this volume; None: never."""
    in_order = sorted(students, key=lambda one: one.ended)
    for count, one in enumerate(in_order, start=1):
        if box.volume(in_order[:count]) >= target:
            return one.ended
    return None


def ours_of(sweep: SweepRecord) -> list[Student]:
    """The search's completed trials; controls are no candidates."""
    return [
        Student(trial.ended, front.accuracy(trial), trial.cost["params"])
        for trial in front.completed(sweep, "search")
    ]


def peer_of(folder: Path, epochs: int) -> list[Student]:
    """Of Tune's own results, the trials that reached the last epoch."""
    found = []
    for file in sorted(folder.glob("*/result.json")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        if lines and lines[-1]["training_iteration"] == epochs:
            last = lines[-1]
            found.append(Student(last["timestamp"], last["val_accuracy"], last["params"]))
    return found


def box_of(sweep: SweepRecord) -> Box:
    bounds = volume.hypervolume(sweep)["bounds"]
    return Box(bounds["val_accuracy"][0], *bounds["params"])


class Ground:
    """What both sides find when they begin: a trained teacher, the images, an MLflow store."""

    def __init__(self, folder: Path, teacher_depth: int) -> None:
        self.teacher, self.data, self.store = folder / "teacher", folder / "data.npz", folder / "mlflow.db"
        (folder / "teacher.yaml").write_text(TEACHER % teacher_depth)
        spec = specs.load(folder / "teacher.yaml")
        images = data.load(spec.data)
        trained = teacher.prepare(spec, images, store=folder / "home", device="cpu")
        save_student(self.teacher, trained.build().network, {})
        np.savez(
            self.data,
            train_images=images.train.images[:, 0],
            train_labels=images.train.labels,
            validation_images=images.validation.images[:, 0],
            validation_labels=images.validation.labels,
            mean=images.mean,
            std=images.std,
        )
        MlflowClient(tracking_uri=f"sqlite:///{self.store}").search_experiments()  # makes the tables

    def peer(self, setting: Setting, seed: int, folder: Path) -> tuple[Course, list[Student]]:
        output = folder / "out"
        output.mkdir()
        shutil.copy(self.store, output / "mlflow.db")
        script = [sys.executable, "-m", "benchmarks.peer_script", self.teacher, self.data, output]
        names = ("trials", "epochs", "grace", "concurrent")
        options = [f"--seed={seed}", *(f"--{name}={getattr(setting, name)}" for name in names)]
        course = _run([*map(str, script), *options], folder)
        return course, peer_of(output / "peer", setting.epochs)

    def ours(self, setting: Setting, seed: int, folder: Path) -> tuple[Course, SweepRecord]:
        shutil.copy(self.store, folder / "mlflow.db")
        given = {"seed": seed, "teacher": str(self.teacher), **dataclasses.asdict(setting)}
        (folder / "peer.yaml").write_text(SPEC % given)
        sweep = [sys.executable, "-m", "kdsearch.sweep", "peer.yaml", "--output", "out"]
        course = _run(sweep, folder)
        return course, replay(journal.read(folder / "out" / journal.FILE))


def _run(command: Sequence[str], folder: Path) -> Course:
    """The command in a folder and a home of its own. Raises RuntimeError where it fails."""
    root = str(Path(__file__).resolve().parents[1])
    env = {
        **os.environ,
        "KDSEARCH_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    course = process_tree.run(command, folder / "log", env, folder)
    if course.returncode:
        raise RuntimeError(f"{command}:\n{(folder / 'log').read_text()[-3000:]}")
    return course


def measured(ground: Ground, setting: Setting, seed: int) -> dict[str, Any]:
    """A pair: the sides in turn, and what each had spent when it had the peer's volume, but for 5 %."""
    with tempfile.TemporaryDirectory() as name:
        folders = {side: Path(name) / side for side in ("a", "b")}
        for folder in folders.values():
            folder.mkdir()
        if seed % 2:
            course_b, sweep = ground.ours(setting, seed, folders["b"])
            course_a, peers = ground.peer(setting, seed, folders["a"])
        else:
            course_a, peers = ground.peer(setting, seed, folders["a"])
            course_b, sweep = ground.ours(setting, seed, folders["b"])
    box = box_of(sweep)
    final = box.volume(peers)
    sides = {"a": (course_a, peers), "b": (course_b, ours_of(sweep))}
    return {
        "target": SHARE * final,
        "box": dataclasses.asdict(box),
        **{side: side_of(course, students, box, SHARE * final) for side, (course, students) in sides.items()},
    }


def side_of(course: Course, students: Sequence[Student], box: Box, target: float) -> dict[str, Any]:
    moment = reached(students, box, target)
    started = course.samples[0][0]
    return {
        "cpu_s": None if moment is None else course.cpu_at(moment),
        "wall_s": None if moment is None else moment - started,
        "before_first_s": course.cpu_at(min((one.ended for one in students), default=math.inf)),
        "total_cpu_s": course.cpu_s,
        "total_wall_s": course.wall_s,
        "reaped_cpu_s": course.reaped_cpu_s,
        "num_completed": len(students),
        "volume": box.volume(students),
    }


def gain(line: Mapping[str, Any], figure: str = "cpu_s") -> float:
    """Peer over ours; 0 where ours never got there."""
    ours = line["b"][figure]
    return 0.0 if ours is None else float(line["a"][figure] / ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    for field in dataclasses.fields(Setting):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    options = vars(parser.parse_args())
    num_pairs = options.pop("pairs")
    setting = Setting(**options)
    about = dataclasses.asdict(setting)
    done = pairs.recorded(NAME, about)
    with tempfile.TemporaryDirectory() as name:
        ground = Ground(Path(name), setting.teacher_depth) if len(done) < num_pairs else None
        for seed in range(len(done), num_pairs):
            assert ground is not None, "pairs are missing"
            line = {**about, "pair": seed, **measured(ground, setting, seed), **pairs.machine()}
            pairs.append(NAME, line)
            done.append(line)
            print(f"pair {seed + 1}: {gain(line):.2f}, peer {line['a']}, ours {line['b']}", flush=True)
    done = done[:num_pairs]
    never = sum(line["b"]["cpu_s"] is None for line in done)
    for side, who in (("a", "peer"), ("b", "kdsearch")):
        total, wall = (
            statistics.median(line[side][figure] for line in done)
            for figure in ("total_cpu_s", "total_wall_s")
        )
        print(f"{who}: {total:.0f} s of processor time and {wall:.0f} s for all {setting.trials} trials")
    print(
        f"wall time until {SHARE:.0%} of the peer's volume: {pairs.ratio([gain(x, 'wall_s') for x in done])}"
    )
    print(f"peer / ours, processor time: {pairs.ratio([gain(line) for line in done])}, never: {never}")
    print(pairs.machine())


if __name__ == "__main__":
    main()
