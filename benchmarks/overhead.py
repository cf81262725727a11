"""What the driver costs a trial: a sweep against the same trainings in as many plain processes.

`python -m benchmarks.overhead [--seconds 3] [--slots 2] [--trials 40] [--pairs 5]`. One side is a sweep on
digits as anyone starts it: Ray, Optuna, the journal, MLflow, saved students. The other is a pool of as many
processes that train the same configurations and save the students, with the same recorded outputs of the
teacher. So what two trainings side by side take from one another is on both sides, and what the driver takes
from them on one. Beside them Ray Tune alone (`tune_alone.py`) runs the same trainings: what no search with it
can save.

Counted are slot-seconds: from the end of each slot's first trial to the end of its last one, so that no start
is in them; in the pool the seconds of the trainings. Printed are packing, pool over sweep, and the difference
for each trial, of the sweep and of Tune alone. All trials have one student and one number of epochs, set on
the first run so that a training takes `--seconds`; what the sampler chooses does not change their work.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import pairs
from benchmarks.pairs import Line, Spent
from kdsearch import data, journal, teacher
from kdsearch import spec as specs
from kdsearch.models.build import save_student
from kdsearch.mutual import training_for
from kdsearch.records import Choice, SweepRecord, TrialConfig, replay
from kdsearch.teachers import Classroom, Faculty

GOAL_S = 0.1  # a trial
GOAL_PACKING = {3: 0.90, 30: 0.97}  # by seconds of a trial
CALIBRATED_OVER = 8  # epochs
ROOT = Path(__file__).parents[1]

SPEC = """
name: overhead
data: {dataset: digits, augment: [crop]}
teacher: {resnet: {depth: 8, train: {epochs: 5, lr: 0.1}}}
student: {resnet: {depth: 8, width: 0.25}}
distill: {alpha: {type: float, low: 0.1, high: 0.9}, temperature: 4, response: kd}
train: {epochs: %(epochs)d, batch_size: 64, lr: {type: float, low: 0.02, high: 0.2, log: true}}
search: {trials: %(trials)d, early_stopping: {scheduler: none}}
confirm: {seeds: 0}
resources: {max_concurrent: %(slots)d}
"""


def sweep(spec: Path, output: Path) -> SweepRecord:
    command = [sys.executable, "-m", "kdsearch.sweep", str(spec), "--output", str(output)]
    subprocess.run(command, check=True, cwd=spec.parent, stdout=subprocess.DEVNULL)
    return replay(journal.read(output / journal.FILE))


def slot_seconds(record: SweepRecord, slots: int) -> float:
    """From the end of each slot's first trial to that of its last one, added up.

    Whichever slot a trial ran in: the first trials to end were in different slots, the last ones, too.
    """
    return between_ends([trial.ended for trial in record.trials.values()], slots)


def between_ends(ends: Sequence[float], slots: int) -> float:
    return sum(sorted(ends)[-slots:]) - sum(sorted(ends)[:slots])


def counted(record: SweepRecord, slots: int) -> list[TrialConfig]:
    """The configurations behind those seconds, in the order in which they ended."""
    ended = sorted(record.trials.values(), key=lambda trial: trial.ended)
    return [trial.config for trial in ended[slots:]]


def pool_seconds(spec: Path, configs: Sequence[TrialConfig], slots: int) -> float:
    """What the trainings take in plain processes, each with its data and its teacher loaded beforehand."""
    jobs = [(spec, config) for config in configs]
    with multiprocessing.get_context("spawn").Pool(slots, begin, (jobs[0],)) as pool:
        return sum(pool.imap_unordered(train, jobs))


def begin(job: tuple[Path, TrialConfig]) -> None:
    """A process's first training, which is not counted, as the first one of a sweep's slot is not."""
    torch.set_num_threads(1)
    train(job)


def train(job: tuple[Path, TrialConfig]) -> float:
    """Train and save one student; the seconds that it took."""
    path, config = job
    spec, images, classroom = loaded(path)
    network = classroom.teacher(Choice("")) if config.distill else None
    shelf = classroom.shelf(Choice(""), spec.resources.cache_gb * 1e9) if config.distill else None
    started = time.perf_counter()
    training = training_for(config, images, spec.data.augment, network, "cpu", shelf)
    while not training.finished:
        training.run_epoch(evaluate=training.epoch + 1 == config.train.epochs)
    save_student(path.parent / f"student-{os.getpid()}", training.student, {})
    return time.perf_counter() - started


@functools.cache
def loaded(path: Path) -> tuple[specs.SweepSpec, data.ImageData, Classroom]:
    spec = specs.load(path)
    images = data.load(spec.data)
    return spec, images, Classroom(Faculty(spec.teacher, {"": teacher.prepare(spec, images)}), "cpu")


def written(folder: Path, epochs: int, trials: int, slots: int) -> Path:
    path = folder / f"overhead-{epochs}.yaml"
    path.write_text(SPEC % {"epochs": epochs, "trials": trials, "slots": slots})
    return path


def epochs_for(seconds: float, slots: int, folder: Path) -> int:
    """As in earlier runs of this benchmark, or measured: so many that a training takes about so long."""
    earlier = pairs.recorded("overhead", {"seconds": seconds, "slots": slots})
    if earlier:
        return int(earlier[0]["epochs"])
    short = written(folder, CALIBRATED_OVER, 2 * slots, slots)
    configs = counted(sweep(short, folder / "calibration"), slots)
    return max(2, round(CALIBRATED_OVER * seconds * len(configs) / pool_seconds(short, configs, slots)))


def tune_alone_seconds(spec: Path, configs: Sequence[TrialConfig], slots: int) -> float:
    """Slot-seconds of the same trainings by Ray Tune; as many more as there are slots run before them."""
    path = spec.with_suffix(".json")
    path.write_text(json.dumps([config.to_json() for config in (*configs[:slots], *configs)]))
    command = [sys.executable, "-m", "benchmarks.tune_alone", str(spec), str(path), str(slots)]
    found = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return float(found.stdout.splitlines()[-1])


def report(lines: Sequence[Line]) -> str:
    first = lines[0]
    packing = pairs.ratio([line["b"]["wall_s"] / line["a"]["wall_s"] for line in lines])
    each, alone = (
        pairs.ratio([(line[side]["wall_s"] - line["b"]["wall_s"]) / line["counted"] for line in lines])
        for side in ("a", "c")
    )
    bare = pairs.ratio([line["b"]["wall_s"] / line["counted"] for line in lines])
    goal = GOAL_PACKING.get(first["seconds"])
    return "\n".join(
        [
            f"packing {packing}" + (f", goal {goal:.2f} or more" if goal else ""),
            f"overhead {each} s a trial, goal {GOAL_S} or less; of Ray Tune alone {alone}",
            f"{first['counted']} bare trials of {bare} s, {first['slots']} slots, {len(lines)} pairs",
            json.dumps(pairs.machine()),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of a training, about")
    parser.add_argument("--slots", type=int, default=os.cpu_count())
    parser.add_argument(
        "--trials", type=int, default=40, help="counted ones; as many more as slots run before"
    )
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    seconds, slots = options.seconds, options.slots
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["KDSEARCH_HOME"] = str(folder / "home")  # of every process that is started here
        epochs = epochs_for(seconds, slots, folder)
        about = {"seconds": seconds, "slots": slots, "counted": options.trials, "epochs": epochs, "sides": 3}
        # With the control that every sweep begins with, this many are counted.
        path = written(folder, epochs, options.trials + slots - 1, slots)
        configs = counted(sweep(path, folder / "first"), slots)  # also records what the teacher says

        def ours() -> Spent:
            output = Path(tempfile.mkdtemp(dir=folder))
            output.rmdir()
            before = pairs.spent(lambda: records.append(sweep(path, output)))
            return Spent(slot_seconds(records.pop(), slots), before.cpu_s)

        def bare() -> Spent:
            found: list[float] = []
            before = pairs.spent(lambda: found.append(pool_seconds(path, configs, slots)))
            return Spent(found[0], before.cpu_s)

        def tune_alone() -> Spent:
            found: list[float] = []
            before = pairs.spent(lambda: found.append(tune_alone_seconds(path, configs, slots)))
            return Spent(found[0], before.cpu_s)

        records: list[SweepRecord] = []
        lines = pairs.measure("overhead", about, ours, bare, options.pairs, c=tune_alone)
    print(report(lines))


if __name__ == "__main__":
    main()
