"""Where a slot's time goes that no training has: by the trainings' own clocks, in a sweep and without one.

`python -m benchmarks.waits [--seconds 3] [--slots 2] [--trials 20] [--pairs 5]`. The sweeps, and the same
trainings in as many plain processes, are those of `benchmarks.overhead`, with the machine for themselves, one
after the other. Counted are slot-seconds as there, without those that the epochs tell of themselves. Without
their seconds on the wall it is what a slot waits: from one trial to the next, and at reports. Without their
seconds of processor it is that, and when an epoch stood still while something else ran on its core.

Both are a side's own, so that a machine that is not equally fast all the while blurs them little. Ray's
threads in a worker, some 5 ms a trial, count as its training. Not in them is how much slower a training
computes while the driver shares its caches: that is the ratio of processor times, which drifts with the
machine. All of it is the last figure, that of `overhead`, measured here without turns: a sweep that stands
still again and again is slower than one that does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import overhead, pairs
from benchmarks.pairs import Line
from kdsearch.records import SweepRecord, TrialRecord
from kdsearch.search.worker import REPORT_EVERY_S

Training = Mapping[str, float]  # `ended`, and its epochs' seconds: `time_s` on the wall, `cpu_s` of processor


def accounted(trainings: Sequence[Training], slots: int) -> Line:
    """Seconds between slots' first ends and their last but one, and those of the epochs in between."""
    in_order = sorted(trainings, key=lambda training: training["ended"])
    counted = in_order[slots:-slots]
    return {
        "slot_s": overhead.between_ends([training["ended"] for training in in_order], slots),
        "time_s": sum(training["time_s"] for training in counted),
        "cpu_s": sum(training["cpu_s"] for training in counted),
    }


def of_trial(trial: TrialRecord) -> Training:
    clocks = {clock: sum(epoch[clock] for epoch in trial.epochs) for clock in ("time_s", "cpu_s")}
    return {"ended": trial.ended, **clocks}


def report(lines: Sequence[Line]) -> str:
    """Medians of the lines; `a` is the sweep and `b` are plain processes."""

    def each(side: str, clock: str) -> list[float]:
        return [(line[side]["slot_s"] - line[side][clock]) / line["counted"] for line in lines]

    beyond = pairs.ratio([a - b for a, b in zip(each("a", "cpu_s"), each("b", "cpu_s"), strict=True)])
    in_all = pairs.ratio([(line["a"]["slot_s"] - line["b"]["slot_s"]) / line["counted"] for line in lines])
    first = lines[0]
    return "\n".join(
        [
            *(
                f"{what}: a slot waits {pairs.ratio(each(side, 'time_s'))} s a trial,"
                f" no training computes {pairs.ratio(each(side, 'cpu_s'))} s"
                for side, what in (("a", "sweep"), ("b", "plain processes"))
            ),
            f"the sweep's less that of plain processes {beyond} s a trial",
            f"processor time of the trainings, sweep / plain processes {pairs.of_pairs(lines)}",
            f"slot-seconds beyond plain processes {in_all} s a trial, goal {overhead.GOAL_S} or less",
            f"{first['counted']} trials, {first['slots']} slots, {len(lines)} pairs",
            json.dumps(pairs.machine()),
        ]
    )


def main() -> None:
    options = overhead.arguments(__doc__)
    seconds, slots = options.seconds, options.slots
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["KDSEARCH_HOME"] = str(folder / "home")  # of every process that is started here
        epochs = overhead.epochs_for(seconds, slots, folder)
        path = overhead.written(folder, epochs, options.trials, slots)

        def sweep(name: str) -> SweepRecord:
            subprocess.run(overhead.sweep(path, folder / name), check=True, stdout=subprocess.DEVNULL)
            return overhead.swept(folder / name)

        configs = overhead.in_order(sweep("first"))  # which records what the teacher says, too

        def in_sweep(number: int) -> Line:
            return accounted([of_trial(trial) for trial in sweep(f"{number}").trials.values()], slots)

        def alone(number: int) -> Line:
            subprocess.run(overhead.alone("pool_alone", path, configs, slots), check=True, cwd=overhead.ROOT)
            return accounted(overhead.found("pool_alone", path), slots)

        def pair(number: int) -> Line:
            """The sides take turns in going first."""
            sides = {"a": in_sweep, "b": alone}
            found = {side: sides[side](number) for side in sorted(sides, reverse=number % 2 == 1)}
            return {"a": found["a"], "b": found["b"]}

        about = {
            "seconds": seconds,
            "slots": slots,
            "counted": options.trials,
            "epochs": epochs,
            "report_every_s": REPORT_EVERY_S,
            "mlflow": "process",  # in a thread of the driver until 8e58612
        }
        lines = pairs.collect("waits", about, pair, options.pairs)
    print(report(lines))


if __name__ == "__main__":
    main()
