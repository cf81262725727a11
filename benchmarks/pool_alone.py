"""The bare side of benchmarks.overhead: trainings in plain processes.

    python -m benchmarks.pool_alone SPEC.yaml CONFIGS.json SLOTS OUT.json

Goes in: a spec, the configurations and the number of processes. Comes out: in OUT.json, of each training when
it ended and what its epochs took.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import time
from pathlib import Path

import torch

from kdsearch import data, teacher
from kdsearch import spec as specs
from kdsearch.models.build import save_student
from kdsearch.mutual import training_for
from kdsearch.records import Choice, TrialConfig
from kdsearch.teachers import Classroom, Faculty

Job = tuple[Path, TrialConfig]
FOUND = ("ended", "time_s", "cpu_s")  # of a training: when it ended, and its epochs' seconds


def train(job: Job) -> dict[str, float]:
    """Train and save one student: when that ended, and the epochs' seconds, on the wall and of processor."""
    path, config = job
    spec, images, classroom = loaded(path)
    network = classroom.teacher(Choice("")) if config.distill else None
    shelf = classroom.shelf(Choice(""), spec.resources.cache_gb * 1e9) if config.distill else None
    training = training_for(config, images, spec.data.augment, network, "cpu", shelf)
    epochs = []
    while not training.finished:
        epochs.append(training.run_epoch(evaluate=training.epoch + 1 == config.train.epochs))
    save_student(path.parent / f"student-{os.getpid()}", training.student, {})
    spent = sum(epoch.time_s for epoch in epochs), sum(epoch.cpu_s for epoch in epochs)
    return dict(zip(FOUND, (time.time(), *spent), strict=True))


@functools.cache
def loaded(path: Path) -> tuple[specs.SweepSpec, data.ImageData, Classroom]:
    spec = specs.load(path)
    images = data.load(spec.data)
    return spec, images, Classroom(Faculty(spec.teacher, {"": teacher.prepare(spec, images)}), "cpu")


def arguments(about: str | None) -> argparse.Namespace:
    """The command line of the trainings' two sides; `configs` are configurations then."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("configs", type=Path)
    parser.add_argument("slots", type=int)
    parser.add_argument("out", type=Path)
    found = parser.parse_args()
    found.configs = [TrialConfig.from_json(one) for one in json.loads(found.configs.read_text())]
    return found


def main() -> None:
    options = arguments(__doc__)
    jobs = [(options.spec, config) for config in options.configs]
    with multiprocessing.get_context("spawn").Pool(options.slots, torch.set_num_threads, (1,)) as pool:
        options.out.write_text(json.dumps(list(pool.imap_unordered(train, jobs))))


if __name__ == "__main__":
    main()
