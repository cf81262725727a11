"""Record the learning curves of a full-factorial space, for benchmarks that search without training.

`python -m benchmarks.record_curves digits [--processes 2] [--root DIR]` trains every cell of
`benchmarks/tables/digits.yaml` to the end and appends a line to `digits.jsonl` as each one is done; what is
there already is not trained again. First all cells with one seed, and every student without distillation
with `SEEDS`; then the best of each student's cells (`BEST`) with the further seeds.

Trainings of one seed see the same views in the same order, so the teacher answers each batch once
(`Memo`): the curves are those of a live teacher, to the last digit.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pairs import whole_lines
from benchmarks.table import FOLDER, num_stages, run_key, spec_of, student_of
from kdsearch import data, listing, session, space, teacher
from kdsearch.data import ImageData
from kdsearch.models.build import Outputs, cost
from kdsearch.records import TrialConfig
from kdsearch.spec import SweepSpec
from kdsearch.teacher_model import Frozen
from kdsearch.training import NonFiniteLoss, Training

SEEDS = 3
BEST = 0.15  # the share of each student's cells that is trained with every seed
SHOW_EVERY_S = 20.0

Run = dict[str, Any]  # a line of the table


class Memo(Frozen):
    """A teacher that computes each batch once. It keeps what the table's methods read: logits and stages.

    Only for trainings that ask for neither embeddings nor details: those it does not have.
    """

    def __init__(self, model: Frozen, stages: Iterable[str]) -> None:
        super().__init__(model.model)
        self._kept_stages = frozenset(stages)
        self._known: dict[bytes, Outputs] = {}

    def outputs(self, images: Tensor, detailed: bool = False, until: str | None = None) -> Outputs:
        assert not detailed, "a table's methods read logits and maps"
        key = hashlib.blake2b(images.numpy().tobytes(), digest_size=16).digest()
        if key not in self._known:
            found = super().outputs(images)
            kept = {name: map_ for name, map_ in found.features.items() if name in self._kept_stages}
            self._known[key] = Outputs(found.logits, kept, torch.empty(0))
        return self._known[key]


def stages_read(configs: Iterable[TrialConfig]) -> set[str]:
    """The teacher's stages that any of these trainings compares with the student's."""
    maps = [choice.options.get("layer_map", "") for c in configs for choice in c.distill.values()]
    return {pair.split(">")[1] for text in maps for pair in text.split(",") if ">" in pair}


def first_cells(spec: SweepSpec, done: Sequence[Mapping[str, Any]] = ()) -> list[tuple[Run, TrialConfig]]:
    """What to record at first, well mixed: cells with one seed, controls with all; with their trainings."""
    points = listing.configurations(spec, num_stages(spec))
    cells: list[tuple[Run, TrialConfig]] = [
        ({"role": "search", "params": params, "seed": 0}, config) for params, config in points
    ]
    students = {str(config.student): config.student for _, config in points}
    for student, seed in [(s, seed) for s in students.values() for seed in range(SEEDS)]:
        control = space.control(spec, student, seed)
        cells.append(({"role": "control", "student": student_of(control), "seed": seed}, control))
    random.Random(0).shuffle(cells)
    return cells


def further_cells(spec: SweepSpec, done: Sequence[Mapping[str, Any]]) -> list[tuple[Run, TrialConfig]]:
    """The best of each student's cells with the further seeds, by what the first seed reached."""
    finals = {
        run_key(run): -math.inf if "error" in run else run["val_accuracy"][-1]
        for run in done
        if run["role"] == "search" and run["seed"] == 0
    }
    by_student: dict[str, list[tuple[float, Run, TrialConfig]]] = {}
    for params, config in listing.configurations(spec, num_stages(spec)):
        run = {"role": "search", "params": params}
        by_student.setdefault(str(config.student), []).append((finals[run_key(run)], run, config))
    cells: list[tuple[Run, TrialConfig]] = []
    for seed in range(1, SEEDS):
        for found in by_student.values():
            found.sort(key=lambda one: -one[0])
            for _, run, config in found[: math.ceil(BEST * len(found))]:
                cells.append(({**run, "seed": seed}, replace(config, seed=seed)))
    return cells


def train(config: TrialConfig, spec: SweepSpec, images: ImageData, network: Frozen | None) -> Run:
    """One training to its end, or as far as it stays finite."""
    training = Training(config, images, spec.data.augment, network)
    accuracies: list[float] = []
    seconds: list[float] = []
    failed: Run = {}
    try:
        while not training.finished:
            result = training.run_epoch()
            accuracies.append(round(result.metrics["val_accuracy"], 4))
            seconds.append(result.cpu_s)
    except NonFiniteLoss:
        failed = {"error": "diverged"}
    sizes = images.num_classes, images.in_channels, images.image_size
    return {
        "cost": dict(cost(config.student.name, config.student.options, *sizes)),
        "val_accuracy": accuracies,
        "cpu_s": round(statistics.median(seconds), 4) if seconds else 0.0,
        **failed,
    }


class _Recorder:
    """One process's data and teacher, and the seed that its memo is of."""

    def __init__(self, spec: SweepSpec) -> None:
        torch.set_num_threads(1)
        self.spec, self.images = spec, data.load(spec.data)
        self._teacher = teacher.prepare(spec, self.images)
        self._stages = stages_read(config for _, config in listing.configurations(spec, num_stages(spec)))
        self._memos: dict[int, Memo] = {}

    def record(self, cell: tuple[Run, TrialConfig]) -> Run:
        run, config = cell
        if config.is_distilled and config.seed not in self._memos:
            self._memos = {config.seed: Memo(self._teacher.build(), self._stages)}  # the other seed's is done
        network = self._memos[config.seed] if config.is_distilled else None
        return {**run, **train(config, self.spec, self.images, network)}


_recorder: _Recorder | None = None


def _begin(spec: SweepSpec) -> None:
    global _recorder
    _recorder = _Recorder(spec)


def _record(cell: tuple[Run, TrialConfig]) -> Run:
    assert _recorder is not None, "the pool's initialiser ran"
    return _recorder.record(cell)


def described(spec: SweepSpec) -> Run:
    """What the table is of; trains the teacher where it is not in the store."""
    images = data.load(spec.data)
    network = teacher.prepare(spec, images)
    return {
        "data": images.key,
        "teacher": network.key,
        "teacher_accuracy": round(network.report["accuracy"], 4),
        "commit": session.commit(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy")},
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def record(spec: SweepSpec, path: Path, processes: int, limit: int | None = None) -> None:
    """Train what is missing and append it. Raises ValueError for a file of other data or another teacher."""
    lines = whole_lines(path)
    done = lines[1:]
    about = described(spec)
    with path.open("a") as file:

        def write(line: Run) -> None:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
            file.flush()

        if not lines:
            write(about)
        elif any(lines[0][name] != about[name] for name in ("data", "teacher")):
            raise ValueError(f"{path} is of other data or another teacher: move it away to begin anew")
        context = multiprocessing.get_context("spawn")
        with context.Pool(processes, _begin, (spec,)) as pool:
            for cells_of in (first_cells, further_cells):
                known = {(run_key(run), run["seed"]) for run in done}
                left = [
                    cell for cell in cells_of(spec, done) if (run_key(cell[0]), cell[0]["seed"]) not in known
                ][:limit]
                for run in shown(pool.imap_unordered(_record, left), len(left)):
                    done.append(run)
                    write(run)
                if limit is not None:
                    return


def shown(runs: Iterator[Run], total: int) -> Iterator[Run]:
    """The runs as they come, with a line about them now and then."""
    started = last = time.monotonic()
    for count, run in enumerate(runs, start=1):
        yield run
        now = time.monotonic()
        if now - last > SHOW_EVERY_S or count == total:
            last = now
            left = (now - started) / count * (total - count)
            print(f"{count} of {total}, {now - started:.0f} s, about {left:.0f} s left", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help="a name in benchmarks/tables, without .yaml")
    parser.add_argument("--processes", type=int, default=2, help="one thread each")
    parser.add_argument("--root", help="the data's folder, where it is not data/")
    parser.add_argument("--limit", type=int, help="cells to train, for a first look")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes: torch reads it when it is imported
    spec = spec_of(options.table, [f"data.root={options.root}"] if options.root else [])
    record(spec, FOLDER / f"{options.table}.jsonl", options.processes, options.limit)


if __name__ == "__main__":
    main()
