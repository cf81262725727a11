"""Where a slot's time goes that no training has: by the trainings' own clocks, in a sweep and without one.

`python -m benchmarks.waits [--seconds 3] [--slots 2] [--trials 20] [--pairs 5]`. The sweeps, the same
trainings in as many plain processes, and by Ray Tune with nothing around it, are those of
`benchmarks.overhead`, with the machine for themselves, one after the other. Counted are slot-seconds as
there, without those that the epochs tell of themselves. Without their seconds on the wall it is what a slot
waits: from one trial to the next, and at reports. Without their seconds of processor it is that, and when an
epoch stood still while something else ran on its core.

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

SIDES = {"a": "sweep", "b": "plain processes", "c": "Ray Tune alone"}

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
    """Medians of the lines."""

    def each(side: str, without: str | None) -> list[float]:
        found = [line[side] for line in lines]
        return [(one["slot_s"] - (one[without] if without else 0.0)) / lines[0]["counted"] for one in found]

    def beyond_plain(side: str, without: str | None) -> pairs.Ratio:
        return pairs.ratio([x - b for x, b in zip(each(side, without), each("b", without), strict=True)])

    return "\n".join(
        [
            *(
                f"{what}: a slot waits {pairs.ratio(each(side, 'time_s'))} s a trial,"
                f" no training computes {pairs.ratio(each(side, 'cpu_s'))} s"
                for side, what in SIDES.items()
            ),
            f"the sweep's less that of plain processes {beyond_plain('a', 'cpu_s')} s a trial;"
            f" of Ray Tune alone {beyond_plain('c', 'cpu_s')}",
            f"processor time of the trainings, sweep / plain processes {pairs.of_pairs(lines)}",
            f"slot-seconds beyond plain processes {beyond_plain('a', None)} s a trial,"
            f" goal {overhead.GOAL_S} or less; of Ray Tune alone {beyond_plain('c', None)}",
            f"{lines[0]['counted']} trials, {lines[0]['slots']} slots, {len(lines)} rounds",
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

        def measured(side: str, number: int) -> Line:
            if side == "a":
                trainings = [of_trial(trial) for trial in sweep(f"{number}").trials.values()]
            else:
                alone = {"b": "pool_alone", "c": "tune_alone"}[side]
                command = overhead.alone(alone, path, configs, slots)
                subprocess.run(command, check=True, cwd=overhead.ROOT, stdout=subprocess.DEVNULL)
                trainings = overhead.found(alone, path)
            return accounted(trainings, slots)

        def in_turn(number: int) -> Line:
            """Each side goes first once in three rounds."""
            first = number % len(SIDES)
            found = {side: measured(side, number) for side in [*SIDES][first:] + [*SIDES][:first]}
            return {side: found[side] for side in SIDES}

        about = {
            "seconds": seconds,
            "slots": slots,
            "counted": options.trials,
            "epochs": epochs,
            "report_every_s": REPORT_EVERY_S,
            "mlflow": "process",  # in a thread of the driver until 8e58612
            "sides": len(SIDES),
        }
        lines = pairs.collect("waits", about, in_turn, options.pairs)
    print(report(lines))


if __name__ == "__main__":
    main()
