"""What it costs to tell MLflow of a sweep: Ray Tune's callback against kdsearch's mirror of its journal.

`python -m benchmarks.mlflow_cost [--trials 10] [--epochs 60] [--seconds 30] [--pairs 10]`. Both sides tell
a new SQLite store of the same trials: their parameters, and after every epoch the losses and the accuracy,
with the times, which ours sends as sums when the trial ends. Ray's callback is called as Tune calls it, once
a report, with the result that Tune hands it. Ours hears the journal's events and sends what it has every
fifteen seconds of the trial's own time, as the tracker does.

The ratio is of processor seconds of this process; our share is of the seconds of a trial.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import pairs
from benchmarks.pairs import Spent
from kdsearch.mlflow_mirror import Mirror
from kdsearch.records import Choice, Event, TrainConfig, TrialConfig, trial_id
from kdsearch.tracking import FLUSH_S, MlflowStore

GOAL = 9.0
GOAL_SHARE = 0.01
TERMS = {"label": 1.0, "kd": 0.5, "fitnet": 0.1}
EDGES = [1e3, 1e4, 1e5, 1e6]


def config(number: int, epochs: int) -> TrialConfig:
    return TrialConfig(
        Choice("resnet", {"depth": 8, "width": 0.25, "stem_ratio": 1.0}),
        TrainConfig(epochs=epochs),
        {
            "response": Choice("kd"),
            "feature": Choice("fitnet", {"weight": 10.0, "layer_map": "stage3>stage3"}),
        },
        alpha=0.5,
        temperature=4.0,
        seed=number,
    )


def metrics(epoch: int) -> dict[str, float]:
    return {"train_loss": 1.6 / epoch, "val_accuracy": 1 - 1 / (epoch + 1), "lr": 0.1}


def events(trials: int, epochs: int, seconds: float) -> list[Event]:
    """A sweep's journal: trials one after another, each of `seconds`, with a report every second."""
    now = time.time() - trials * seconds
    found: list[Event] = []

    def add(kind: str, trial: str | None = None, **data: Any) -> None:
        found.append({"v": 1, "seq": len(found), "time": now, "kind": kind, "trial_id": trial, **data})

    header = {"sweep_id": "cost", "name": "cost", "spec": {"search": {}}, "seed": 0, "versions": {}}
    about = {"commit": "", "objectives": ["val_accuracy", "params"], "bands": {"edges": EDGES}}
    add("sweep_started", **header, **about, spec_hash="", resumed=False)
    for number in range(trials):
        chosen, name = config(number, epochs), trial_id("search", number)
        cost = {"params": 5e3, "macs": 7e5, "size_mb": 0.02}
        begin = {"number": number, "role": "search", "seed": number, "attempt": 1, "max_epochs": epochs}
        add(
            "trial_started",
            name,
            **begin,
            config=chosen.to_json(),
            cost=cost,
            band=0,
            params={},
            distributions={},
        )
        for epoch in range(1, epochs + 1):
            now += seconds / epochs
            spent = {"time_s": seconds / epochs, "cpu_s": seconds / epochs}
            add("epoch", name, attempt=1, epoch=epoch, metrics=metrics(epoch), terms=TERMS, **spent)
        add("trial_ended", name, status="completed", reason="", rule="", error="", student="none")
    add("sweep_ended", status="finished", reason="", phases={})
    return found


def mirrored(uri: str, journal: list[Event]) -> None:
    """What kdsearch's tracker does, without its waiting."""
    mirror = Mirror(MlflowStore(uri), lambda trial_id, **ids: None)
    due = journal[0]["time"] + FLUSH_S
    for event in journal:
        while event["time"] > due:
            mirror.flush()
            due += FLUSH_S
        mirror.hear(event)
    mirror.flush()


def called_back(uri: str, trials: int, epochs: int) -> None:
    """What Tune does with the callback that its users are told to add."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="cost")
    callback.setup()
    for number in range(trials):
        trial = Named(config(number, epochs).flat(), trial_id("search", number))
        callback.log_trial_start(trial)
        for epoch in range(1, epochs + 1):
            callback.log_trial_result(epoch, trial, tune_result(epoch, trial))
        callback.log_trial_end(trial)


class Named(SimpleNamespace):
    """As much of Tune's trial as the callback looks at."""

    def __init__(self, config: dict[str, Any], name: str) -> None:
        super().__init__(config=config, trial_id=name, local_path="")

    def __hash__(self) -> int:
        return hash(self.trial_id)

    def __str__(self) -> str:
        return str(self.trial_id)


def tune_result(epoch: int, trial: Named) -> dict[str, Any]:
    """A report of a function trainable, with what Tune 2.60 adds to it."""
    terms = {f"term/{name}": value for name, value in TERMS.items()}
    added = {
        "timestamp": int(time.time()),
        "checkpoint_dir_name": None,
        "done": False,
        "training_iteration": epoch,
        "trial_id": trial.trial_id,
        "date": "2026-01-01_00-00-00",
        "time_this_iter_s": 0.5,
        "time_total_s": 0.5 * epoch,
        "pid": os.getpid(),
        "hostname": "localhost",
        "node_ip": "127.0.0.1",
        "config": trial.config,
        "time_since_restore": 0.5 * epoch,
        "iterations_since_restore": epoch,
    }
    return {**metrics(epoch), "time_s": 0.5, "cpu_s": 0.5, **terms, **added}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=30.0, help="of a trial")
    parser.add_argument("--pairs", type=int, default=10)
    options = parser.parse_args()
    trials, epochs, seconds = options.trials, options.epochs, options.seconds
    about = {"trials": trials, "epochs": epochs, "seconds": seconds}
    journal = events(trials, epochs, seconds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = folder / "template.db"
        # Both pay once: a new store's migrations, and mlflow's import.
        MlflowStore(f"sqlite:///{template}").connect()
        called_back(fresh(folder, template), 1, 1)
        mirrored(fresh(folder, template), events(1, 1, seconds))

        def timed(tell: Callable[[str], None]) -> Spent:
            uri = fresh(folder, template)
            return pairs.spent(lambda: tell(uri))

        lines = pairs.measure(
            "mlflow_cost",
            about,
            lambda: timed(lambda uri: called_back(uri, trials, epochs)),
            lambda: timed(lambda uri: mirrored(uri, journal)),
            options.pairs,
        )
    share = pairs.ratio([line["b"]["cpu_s"] / trials / seconds for line in lines])
    each = pairs.ratio([1000 * line["b"]["cpu_s"] / trials for line in lines])
    print(f"Ray's callback / the mirror {pairs.of_pairs(lines)}, goal {GOAL:.0f} or more, {len(lines)} pairs")
    print(f"the mirror {each} ms a trial, {share} of its {seconds:g} s, goal {GOAL_SHARE} or less")
    print(json.dumps(pairs.machine()))


def fresh(folder: Path, template: Path) -> str:
    """The URI of a new store that is migrated already."""
    path = Path(tempfile.mkdtemp(dir=folder)) / "mlflow.db"
    if template.exists():
        shutil.copy(template, path)
    return f"sqlite:///{path}"


if __name__ == "__main__":
    main()
