"""Whether the driver keeps up: 64 slots whose trials only sleep, and what ten thousand trials cost it.

`python -m benchmarks.scale cluster [--trials 1024] [--seconds 10] [--nodes 4] [--slots 64]` runs the driver
as a sweep does, conductor, journal, sampler and all, on a local Ray cluster of several nodes whose trials
sleep instead of training. The clock starts when the last slot's actor lives. The ideal starts each further
trial in the moment when a slot is free; printed is its time over what it took.

`python -m benchmarks.scale driver [--trials 10000] [--scheduler pareto] [--sampler ehvi]` plays the workers
itself: no Ray, the journal on disk. It prints the milliseconds that a trial costs the driver in asking for
its configuration and in telling what became of it, thousand by thousand.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pairs
from benchmarks.pairs import Line
from kdsearch import spec as specs
from kdsearch.journal import Journal
from kdsearch.records import Choice, SweepRecord
from kdsearch.search.conductor import Conductor
from kdsearch.search.messages import Report, Task
from kdsearch.session import begin
from kdsearch.spec import SweepSpec

GOAL = 0.95  # of ideal
GOAL_MS = 20.0  # a trial: asking, and telling
GOAL_ASK_MS = 100.0  # at a thousand trials
LIVE = 64  # trials that the played workers have at once
STRETCH = 1000  # trials to a line

SPEC = """
name: scale
data: {dataset: digits}
teacher: {resnet: {depth: 8, train: {epochs: 1}}}
student: {resnet: {depth: 8, width: %(width)s}}
distill: {alpha: %(alpha)s, temperature: %(temperature)s, response: kd}
train: {epochs: 9, lr: %(lr)s}
search: {%(search)s, early_stopping: {scheduler: %(scheduler)s, grace_epochs: 1, reduction_factor: 3}}
confirm: {seeds: 0}
"""
CONTINUOUS = {
    "width": "{type: float, low: 0.25, high: 1.0}",
    "alpha": "{type: float, low: 0.1, high: 0.9}",
    "temperature": "{type: float, low: 1, high: 16, log: true}",
    "lr": "{type: float, low: 0.01, high: 0.3, log: true}",
}
LISTED = {  # 9,900 configurations and 110 controls; more than 10,000 are refused
    "width": "{type: float, low: 0.1, high: 1.0, step: 0.1}",
    "alpha": "{type: float, low: 0.1, high: 0.9, step: 0.1}",
    "temperature": "{type: float, low: 1, high: 10, step: 1}",
    "lr": "{type: float, low: 0.01, high: 0.11, step: 0.01}",
}


def cost_of(student: Choice) -> dict[str, float]:
    params = 75_000 * float(student.options["width"]) ** 2
    return {"params": params, "macs": 150 * params, "size_mb": params / 250_000}


def begun(folder: Path, trials: int, scheduler: str, sampler: str) -> tuple[SweepSpec, Conductor]:
    """A sweep's spec and conductor, with a journal in the folder."""
    values = LISTED if sampler == "grid" else CONTINUOUS
    search = f"sampler: {sampler}" + ("" if sampler == "grid" else f", trials: {trials}")
    path = folder / "scale.yaml"
    path.write_text(SPEC % {**values, "search": search, "scheduler": scheduler})
    spec = specs.load(path)
    journal = Journal(folder)
    begin(spec, journal, cost_of, data={"num_validation": 360})
    return spec, Conductor(spec, journal, 3, cost_of)


# On a cluster ------------------------------------------------------------------------------------------


def slept(folder: Path, trials: int, seconds: float, nodes: int, slots: int, sampler: str) -> SweepRecord:
    """Run the driver over sleeping trials on a local cluster."""
    from kdsearch.search import driver  # sets Ray's environment before ray is imported

    import ray  # isort: skip
    from ray import tune
    from ray.cluster_utils import Cluster

    from benchmarks.sleeping import SleepingWorker

    local = Cluster()
    try:
        for _ in range(nodes):
            local.add_node(num_cpus=slots // nodes, object_store_memory=100 * 2**20)
        here = {"PYTHONPATH": str(Path(__file__).parents[1])}
        ray.init(local.address, log_to_driver=False, runtime_env={"env_vars": here})
        spec, conductor = begun(folder, trials, "none", sampler)
        worker = tune.with_parameters(SleepingWorker, seconds=seconds)
        driver.run_trials(spec, conductor, worker, folder, lambda: None)
    finally:
        ray.shutdown()
        local.shutdown()
    return conductor.sweep


def share_of_ideal(sweep: SweepRecord, slots: int) -> Line:
    """The ideal's time over what it took, from the moment when as many actors live as there are slots.

    A trial that sleeps then goes on sleeping; the others begin, in the ideal, in the moment when a slot is
    free. `born` counts an actor's first task, whatever became of the actor.
    """
    found = [(trial.epochs[0]["node"], trial.epochs[0]["terms"]) for trial in sweep.trials.values()]
    born = sorted({node: clocks["born"] for node, clocks in found}.values())
    if len(born) < slots:
        raise SystemExit(f"only {len(born)} of {slots} slots had an actor before the end: take more trials")
    start = born[slots - 1]
    left = [(clocks["began"], clocks["ended"]) for _, clocks in found if clocks["ended"] > start]
    running = [ended for began, ended in left if began <= start]
    free = [*running, *[start] * (slots - len(running))]
    heapq.heapify(free)
    for began, ended in sorted(left):
        if began > start:
            heapq.heappush(free, heapq.heappop(free) + ended - began)
    took = max(trial.ended for trial in sweep.trials.values()) - start
    work = sum(ended - max(began, start) for began, ended in left)
    ideal = max(free) - start
    return {
        "actors": len(born),
        "ideal_s": ideal,
        "took_s": took,
        "of_ideal": ideal / took,
        "busy": work / slots / took,
    }


# Without Ray -------------------------------------------------------------------------------------------


def epochs(task: Task, first: int, last: int) -> list[dict[str, Any]]:
    """What a worker would report: accuracy grows with size and epoch, and has some noise."""
    found = []
    for epoch in range(first, last + 1):
        luck = 0.02 * math.sin(1e4 * (task.config.train.lr + epoch))
        accuracy = 0.6 + 0.1 * task.config.student.options["width"] + 0.2 * (1 - 1 / epoch) + luck
        seen = {"val_accuracy": accuracy} if task.evaluates(epoch) else {}
        metrics = {"train_loss": 1.0, "lr": 0.1, **seen}
        found.append(
            {"epoch": epoch, "metrics": metrics, "terms": {"label": 1.0}, "time_s": 1.0, "cpu_s": 1.0}
        )
    return found


def played(conductor: Conductor, num_trials: int) -> Iterator[tuple[float, float]]:
    """For each trial, seconds of asking for it and of telling of it, in the order in which they end."""
    live: list[tuple[Task, int]] = []  # with the epochs that it has
    asked: dict[str, float] = {}
    told: dict[str, float] = {}
    for number in itertools.count():
        if number < num_trials:
            started = time.perf_counter()
            task = conductor.next_task()
            seconds = time.perf_counter() - started
            assert task is not None, "the spec has fewer trials"
            asked[task.trial_id], told[task.trial_id] = seconds, 0.0
            live.append((task, 0))
        while len(live) >= LIVE or (live and number >= num_trials):
            task, done = live.pop(0)
            last = min((rung for rung in task.checkpoint_epochs if rung > done), default=9)
            is_over = last == task.config.train.epochs
            text = Report(epochs(task, done + 1, last), finished=is_over, student="none" * is_over).to_json()
            started = time.perf_counter()
            goes_on = conductor.on_report(task.trial_id, task.attempt, Report.from_json(text))
            told[task.trial_id] += time.perf_counter() - started
            if goes_on:
                live.append((task, last))
            else:
                yield asked.pop(task.trial_id), told.pop(task.trial_id)
        if not live:
            return


def stretches(costs: Sequence[tuple[float, float]]) -> list[Line]:
    """Means and 95th percentiles in milliseconds, thousand by thousand."""
    found = []
    for first in range(0, len(costs), STRETCH):
        ask, tell = (1000 * np.array(column) for column in zip(*costs[first : first + STRETCH], strict=True))
        found.append(
            {
                "to": min(first + STRETCH, len(costs)),
                "ask_ms": float(ask.mean()),
                "ask_p95_ms": float(np.quantile(ask, 0.95)),
                "tell_ms": float(tell.mean()),
                "tell_p95_ms": float(np.quantile(tell, 0.95)),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["cluster", "driver"])
    parser.add_argument("--trials", type=int, help="1024 on the cluster, 10000 without")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--scheduler", default="pareto", choices=["asha", "none", "pareto"])
    parser.add_argument("--sampler", choices=["ehvi", "grid", "tpe"], help="tpe on the cluster, ehvi without")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = on_cluster if options.what == "cluster" else without_ray
        run(options, Path(name))
    print(json.dumps(pairs.machine()))


def on_cluster(options: argparse.Namespace, folder: Path) -> None:
    trials = options.trials or 1024
    about = {
        "trials": trials,
        "seconds": options.seconds,
        "nodes": options.nodes,
        "slots": options.slots,
        "sampler": options.sampler or "tpe",  # two cores cannot make ehvi's proposals six times a second
    }
    sweep = slept(folder, **about)
    line = {"what": "cluster", **about, **share_of_ideal(sweep, options.slots)}
    pairs.append("scale", line | pairs.machine())
    lines = pairs.recorded("scale", {"what": "cluster", **about})
    print(f"took {line['took_s']:.1f} s, ideal {line['ideal_s']:.1f} s, {line['actors']} actors")
    print(f"of ideal {pairs.ratio([line['of_ideal'] for line in lines])}, goal {GOAL}, {len(lines)} runs")
    print(f"slots asleep {pairs.ratio([line['busy'] for line in lines])} of the time")


def without_ray(options: argparse.Namespace, folder: Path) -> None:
    trials = options.trials or 10_000
    sampler = options.sampler or "ehvi"
    about = {"what": "driver", "trials": trials, "scheduler": options.scheduler, "sampler": sampler}
    _, conductor = begun(folder, trials, options.scheduler, sampler)
    costs: list[tuple[float, float]] = []
    for cost in played(conductor, trials):
        costs.append(cost)
        if len(costs) % STRETCH == 0 or len(costs) == trials:
            print(json.dumps(stretches(costs)[-1]), flush=True)
    found = stretches(costs)
    pairs.append("scale", {**about, "stretches": found} | pairs.machine())
    print(f"a trial at {trials:,}: ask {found[-1]['ask_ms']:.1f} ms, tell {found[-1]['tell_ms']:.1f} ms")
    print(f"goals: each {GOAL_MS:.0f} ms and flat, ask {GOAL_ASK_MS:.0f} ms at 1,000; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
