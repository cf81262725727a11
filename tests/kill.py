"""Kills a sweep's driver with SIGKILL at seeded moments, resumes it each time, and checks what is left.

`python tests/kill.py OUT --kills 10 --seed 0` prints each moment, and what the journal and MLflow hold at
the end. The tests use the same functions with fewer kills.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsearch import journal
from kdsearch.records import SweepRecord, replay

SPEC = """
name: killed
data: {dataset: digits, augment: [crop]}
teacher: {resnet: {depth: 20, train: {epochs: %(teacher_epochs)d, lr: 0.1}}}
student:
  resnet: {depth: 8, width: {type: float, low: 0.25, high: 1.0, step: 0.25}}
distill:
  alpha: {type: float, low: 0.1, high: 0.9}
  temperature: {type: float, low: 1, high: 16, log: true}
  response: kd
  feature: {none: , fitnet: {weight: {type: float, low: 1, high: 100, log: true}}}
train: {epochs: %(epochs)d, batch_size: 64, lr: {type: float, low: 0.02, high: 0.2, log: true}}
search: {trials: %(trials)d, early_stopping: {scheduler: asha, grace_epochs: 2, reduction_factor: 3}}
confirm: {seeds: 0}
"""

Events = list[dict[str, Any]]


@dataclass(frozen=True)
class Seen:
    """What a watcher sees: the whole journal, this session's part of it, the teachers' store."""

    sweep: Events
    session: Events
    home: Path

    def count(self, kind: str) -> int:
        return sum(event["kind"] == kind for event in self.session)

    def search_epochs(self) -> int:
        return sum(event["kind"] == "epoch" and event["trial_id"][0] == "t" for event in self.sweep)


@dataclass(frozen=True)
class Moment:
    """Kill `delay_s` after `reached` first holds."""

    name: str
    reached: Callable[[Seen], bool]
    delay_s: float


def moments(seed: int, num_epochs: int) -> Iterator[Moment]:
    """Ten moments in the order in which a sweep meets them, with seeded delays."""
    chance = random.Random(seed)
    yield Moment("while Ray starts", lambda seen: bool(seen.session), chance.uniform(0.5, 3))
    yield Moment(
        "in the teacher's training", lambda seen: any(seen.home.glob("**/epoch-*.pt")), chance.uniform(0, 2)
    )
    yield Moment("in the first trial", lambda seen: seen.count("trial_started") > 0, chance.uniform(0, 4))
    for share in (0.1, 0.25, 0.4, 0.55, 0.7, 0.85):
        epochs = int(share * num_epochs)
        yield Moment(
            f"mid-epoch, {share:.0%} of the epochs",
            lambda seen, epochs=epochs: bool(seen.session) and seen.search_epochs() >= epochs,
            chance.uniform(0, 0.5),
        )
    yield Moment("in the report", lambda seen: seen.count("sweep_ended") > 0, chance.uniform(0.2, 1.5))


class Killable:
    """A sweep in `folder` that is started, killed and resumed. Everything it writes stays in that folder."""

    def __init__(self, folder: Path, trials: int = 8, epochs: int = 6, teacher_epochs: int = 3) -> None:
        self.folder, self.home, self.output = folder, folder / "home", folder / "sweep"
        self.spec = folder / "killed.yaml"
        self.spec.write_text(SPEC % {"trials": trials, "epochs": epochs, "teacher_epochs": teacher_epochs})
        self.store = folder / "mlflow.db"

    def events(self) -> Events:
        path = self.output / journal.FILE
        return journal.read(path) if path.exists() else []

    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def session_length(self) -> int:
        """Events since the newest `sweep_started`."""
        kinds = [event["kind"] for event in self.events()]
        return len(kinds) - max(i for i, kind in enumerate(kinds) if kind == "sweep_started")

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "KDSEARCH_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{self.store}"
        command = [
            sys.executable,
            "-m",
            "kdsearch.sweep",
            str(self.spec),
            "--output",
            str(self.output),
            *options,
        ]
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment)

    def run(self, *options: str) -> int:
        return self.start(*options).wait()

    def kill_at(self, moment: Moment, *options: str, timeout_s: float = 300) -> bool:
        """Start, SIGKILL the driver at the moment; False when it ended before."""
        before = len(self.events())
        process = self.start(*options)
        deadline = time.monotonic() + timeout_s
        while process.poll() is None:
            assert time.monotonic() < deadline, f"never reached: {moment.name}"
            events = self.events()
            if moment.reached(Seen(events, events[before:], self.home)):
                time.sleep(moment.delay_s)
                process.send_signal(signal.SIGKILL)
                return process.wait() == -signal.SIGKILL
            time.sleep(0.02)
        return False

    def record(self) -> SweepRecord:
        return replay(self.events())

    def problems(self) -> list[str]:
        """What a correct sweep would not show: wrong counts, a trial run twice, an untidy MLflow."""
        record = self.record()
        wanted = record.header["spec"]["search"]["trials"]
        found = []
        numbers = [trial.number for trial in record.of_role("search")]
        if numbers != list(range(wanted)):
            found.append(f"search trials {numbers}, not 0 to {wanted - 1}")
        unfinished = [t.trial_id for t in record.trials.values() if t.status not in ("completed", "stopped")]
        if unfinished:
            found.append(f"not ended well: {unfinished}")
        ends = Counter(e["trial_id"] for e in self.events() if e["kind"] == "trial_ended")
        found += [f"{name} ended {times} times" for name, times in ends.items() if times != 1]
        ended_at = {e["trial_id"]: e["seq"] for e in self.events() if e["kind"] == "trial_ended"}
        found += [
            f"{e['trial_id']} was run again after its end"
            for e in self.events()
            if e["kind"] in ("trial_started", "epoch") and e["seq"] > ended_at.get(e["trial_id"], e["seq"])
        ]
        return found + self.mlflow_problems(record)

    def mlflow_problems(self, record: SweepRecord) -> list[str]:
        """Read off the store: one ended run per trial and one parent, each epoch once."""
        found = []
        with sqlite3.connect(self.store) as store:
            runs = dict(store.execute("select run_uuid, status from runs where lifecycle_stage = 'active'"))
            names = Counter(
                name for (name,) in store.execute("select value from tags where key = 'kdsearch.trial_id'")
            )
            points = Counter(
                store.execute("select run_uuid, step from metrics where key = 'train_loss'").fetchall()
            )
        if len(runs) != len(record.trials) + 1:
            found.append(f"{len(runs)} runs for {len(record.trials)} trials and a parent")
        found += [f"run {run} is {status}" for run, status in runs.items() if status != "FINISHED"]
        found += [f"{name} has {times} runs" for name, times in names.items() if name and times != 1]
        found += [
            f"step {step} of run {run} logged {times} times"
            for (run, step), times in points.items()
            if times != 1
        ]
        for trial in record.trials.values():
            logged = sum(run == trial.mlflow_run_id for run, _ in points)
            if logged != trial.num_epochs:
                found.append(f"{trial.trial_id}: {logged} of {trial.num_epochs} epochs in MLflow")
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10, help="the first N of the ten moments")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    sweep = Killable(options.folder.absolute(), trials=10, epochs=12, teacher_epochs=90)
    kills = 0
    for moment in list(moments(options.seed, num_epochs=60))[: options.kills]:
        killed = sweep.kill_at(moment, "--resume")
        kills += killed
        record = sweep.record()
        states = Counter(trial.status for trial in record.trials.values())
        print(
            f"{'killed' if killed else 'ended'} {moment.delay_s:.2f} s after: {moment.name}; {dict(states)}",
            flush=True,
        )
    code = sweep.run("--resume")
    problems = sweep.problems()
    wanted = len(sweep.record().of_role("search"))
    print(f"seed {options.seed}: {kills} kills; exit {code}, {wanted} search trials")
    print(
        "\n".join(problems)
        or "nothing wrong: exact trials, none run again, MLflow complete and without repeats"
    )
    return int(bool(problems) or code != 0)


if __name__ == "__main__":
    sys.exit(main())
