"""What the driver costs a trial: a sweep against the same trainings in a plain loop.

`python benchmarks/overhead.py [--trials 30]` runs a sweep on digits with one slot, then trains the very same
configurations one after another in this process, then runs the sweep again, so that a machine that drifts
favours neither. It prints the ratio of the two, and per trial the wall time of a sweep in which no student
trains. All times run from the end of the second trial to the end of the last, so that no start is in them;
the loop builds each training as the worker does and saves its student.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from kdsearch import data, journal, teacher
from kdsearch import spec as specs
from kdsearch.models.build import save_student
from kdsearch.records import SweepRecord, replay
from kdsearch.training import Training

SPEC = """
name: overhead
data: {dataset: digits, augment: [crop]}
teacher: {resnet: {depth: 8, train: {epochs: 5, lr: 0.1}}}
student: {resnet: {depth: 8, width: {type: float, low: 0.25, high: 0.5, step: 0.125}}}
distill: {alpha: {type: float, low: 0.1, high: 0.9}, temperature: 4, response: kd}
train: {epochs: 10, batch_size: 64, lr: {type: float, low: 0.02, high: 0.2, log: true}}
search: {trials: %d}
confirm: {seeds: 0}
resources: {max_concurrent: 1}
"""


def sweep_seconds(record: SweepRecord) -> float:
    ends = [trial.ended for trial in record.trials.values()]
    return ends[-1] - ends[1]


def idle_seconds(record: SweepRecord) -> float:
    """Wall seconds of the sweep in which no student trained or was evaluated."""
    trials = list(record.trials.values())[2:]
    return sweep_seconds(record) - sum(epoch["time_s"] for trial in trials for epoch in trial.epochs)


def bare_seconds(record: SweepRecord, spec: specs.SweepSpec, folder: Path) -> float:
    """The same trainings without Ray, the journal, Optuna or MLflow."""
    torch.set_num_threads(1)
    images = data.load(spec.data)
    network = teacher.prepare(spec, images).build()
    ends = []
    for trial in record.trials.values():
        training = Training(trial.config, images, spec.data.augment, network)
        while not training.finished:
            training.run_epoch()
        save_student(folder / trial.trial_id, training.student, {})
        ends.append(time.monotonic())
    return ends[-1] - ends[1]


def run_sweep(spec: Path, output: Path) -> SweepRecord:
    command = [sys.executable, "-m", "kdsearch.sweep", str(spec), "--output", str(output)]
    subprocess.run(command, check=True, cwd=spec.parent, stdout=subprocess.DEVNULL)
    return replay(journal.read(output / journal.FILE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "overhead.yaml"
        path.write_text(SPEC % options.trials)
        os.environ["KDSEARCH_HOME"] = str(folder / "home")
        first = run_sweep(path, folder / "first")
        bare = bare_seconds(first, specs.load(path), folder / "bare")
        second = run_sweep(path, folder / "second")
    sweeps = [sweep_seconds(record) for record in (first, second)]
    idle = statistics.mean(idle_seconds(record) for record in (first, second))
    num_trials = len(first.trials) - 2
    packages = ("torch", "ray", "optuna", "mlflow")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"sweeps {sweeps[0]:.1f} and {sweeps[1]:.1f} s, the loop {bare:.1f} s, {num_trials} trials")
    print(f"ratio {statistics.mean(sweeps) / bare:.3f}; {idle / num_trials:.3f} s a trial without training")
    print(f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, load {os.getloadavg()[0]:.2f}")
    print(versions)


if __name__ == "__main__":
    main()
