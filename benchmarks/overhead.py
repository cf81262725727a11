"""What the driver costs a trial: a sweep against the same trainings in as many plain processes.

`python -m benchmarks.overhead [--seconds 3] [--slots 2] [--trials 20] [--pairs 5]`. One side is a sweep on
digits as anyone starts it: Ray, Optuna, the journal, MLflow, saved students. The other (`pool_alone.py`) is
as many processes that train the same configurations and save the students, with the same recorded outputs of
the teacher. So what two trainings side by side take from one another is on both sides, and what the driver
takes from them on one. Beside them Ray Tune alone (`tune_alone.py`) runs the same trainings: what no search
with it can save. The sides take turns of four seconds (`turns.py`).

Counted are slot-seconds: from the end of each slot's first trial to the end of its last but one. So no start
is in them, and no end, where a slot that trains alone is faster. Printed are packing (pool over sweep) and
the difference a trial, of the sweep and of Tune alone. All trials have one student and one number of epochs,
set on the first run so that a training takes `--seconds`; what the sampler chooses does not change their
work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import pairs, turns
from benchmarks.pairs import Line, Spent
from kdsearch import journal
from kdsearch.records import SweepRecord, TrialConfig, replay
from kdsearch.search.worker import REPORT_EVERY_S

GOAL_S = 0.1  # a trial
GOAL_PACKING = {3: 0.90, 30: 0.97}  # by seconds of a trial
CALIBRATED_OVER = 8  # epochs
CALIBRATED_BY = 8  # trials
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


def sweep(spec: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "kdsearch.sweep", str(spec), "--output", str(output)]


def alone(side: str, spec: Path, configs: Sequence[TrialConfig], slots: int) -> list[str]:
    """The command of `pool_alone` or `tune_alone`; what it finds is in SIDE.json beside the spec."""
    path = spec.with_suffix(".json")
    path.write_text(json.dumps([config.to_json() for config in configs]))
    command = [sys.executable, "-m", f"benchmarks.{side}", str(spec), str(path), str(slots)]
    return [*command, str(spec.parent / f"{side}.json")]


def found(side: str, spec: Path) -> list[dict[str, float]]:
    """What `pool_alone` or `tune_alone` wrote of each training."""
    trainings: list[dict[str, float]] = json.loads((spec.parent / f"{side}.json").read_text())
    return trainings


def between_ends(ends: Sequence[float], slots: int) -> float:
    """From the end of each slot's first trial to that of its last but one, added up.

    Whichever slot a trial ran in: while all slots are busy, as many trials in a row end in different ones.
    """
    first, last = sorted(ends)[:slots], sorted(ends)[-2 * slots : -slots]
    return sum(last) - sum(first)


def in_order(record: SweepRecord) -> list[TrialConfig]:
    """All configurations, in the order in which their trials ended."""
    return [trial.config for trial in sorted(record.trials.values(), key=lambda trial: trial.ended)]


def swept(output: Path) -> SweepRecord:
    return replay(journal.read(output / journal.FILE))


def measured(spec: Path, configs: Sequence[TrialConfig], slots: int) -> Line:
    """The three sides' slot-seconds: a the sweep, b the pool, c Tune alone."""
    output = Path(tempfile.mkdtemp(dir=spec.parent))
    output.rmdir()
    sides = {side: alone(side, spec, configs, slots) for side in ("pool_alone", "tune_alone")}
    ran = turns.run({"sweep": sweep(spec, output), **sides}, ROOT)
    ends = {side: [one["ended"] for one in found(side, spec)] for side in sides}
    ends["sweep"] = [trial.ended for trial in swept(output).trials.values()]

    def spent(side: str) -> Line:
        seconds = between_ends([ran[side].until(end) for end in ends[side]], slots)
        return asdict(Spent(seconds, sum(ran[side].cpu_s.values())))

    return {"a": spent("sweep"), "b": spent("pool_alone"), "c": spent("tune_alone")}


def written(folder: Path, epochs: int, num_counted: int, slots: int) -> Path:
    """The spec of a sweep of so many counted trials, as many before and as many after as there are slots.

    One of those before is the control that every sweep begins with.
    """
    path = folder / f"overhead-{epochs}.yaml"
    path.write_text(SPEC % {"epochs": epochs, "trials": num_counted + 2 * slots - 1, "slots": slots})
    return path


def epochs_for(seconds: float, slots: int, folder: Path) -> int:
    """As in earlier runs of this benchmark, or measured: so many that a training takes about so long."""
    earlier = pairs.recorded("overhead", {"seconds": seconds, "slots": slots, "turn_s": turns.TURN_S})
    if earlier:
        return int(earlier[0]["epochs"])
    short = written(folder, CALIBRATED_OVER, CALIBRATED_BY, slots)
    subprocess.run(sweep(short, folder / "calibration"), check=True, stdout=subprocess.DEVNULL)
    configs = in_order(swept(folder / "calibration"))
    subprocess.run(alone("pool_alone", short, configs, slots), check=True, cwd=ROOT)
    ends = [one["ended"] for one in found("pool_alone", short)]
    took = between_ends(ends, slots) / CALIBRATED_BY
    return max(2, round(CALIBRATED_OVER * seconds / took))


def report(lines: Sequence[Line]) -> str:
    first = lines[0]
    packing = pairs.ratio([line["b"]["wall_s"] / line["a"]["wall_s"] for line in lines])
    each, of_tune = (
        pairs.ratio([(line[side]["wall_s"] - line["b"]["wall_s"]) / line["counted"] for line in lines])
        for side in ("a", "c")
    )
    bare = pairs.ratio([line["b"]["wall_s"] / line["counted"] for line in lines])
    goal = GOAL_PACKING.get(first["seconds"])
    return "\n".join(
        [
            f"packing {packing}" + (f", goal {goal:.2f} or more" if goal else ""),
            f"overhead {each} s a trial, goal {GOAL_S} or less; of Ray Tune alone {of_tune}",
            f"{first['counted']} bare trials of {bare} s, {first['slots']} slots, {len(lines)} pairs",
            json.dumps(pairs.machine()),
        ]
    )


def arguments(about: str | None) -> argparse.Namespace:
    """The command line of the benchmarks on these sweeps."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seconds", type=int, default=3, help="of a training, about")
    parser.add_argument("--slots", type=int, default=os.cpu_count())
    parser.add_argument(
        "--trials", type=int, default=20, help="counted ones; beside them each slot runs two more"
    )
    parser.add_argument("--pairs", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    options = arguments(__doc__)
    seconds, slots = options.seconds, options.slots
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["KDSEARCH_HOME"] = str(folder / "home")  # of every process that is started here
        epochs = epochs_for(seconds, slots, folder)
        about = {
            "seconds": seconds,
            "slots": slots,
            "counted": options.trials,
            "epochs": epochs,
            "turn_s": turns.TURN_S,
            "report_every_s": REPORT_EVERY_S,
            "mlflow": "process",  # in a thread of the driver until 8e58612
        }
        path = written(folder, epochs, options.trials, slots)
        # Records what the teacher says, and finds the configurations.
        subprocess.run(sweep(path, folder / "first"), check=True, stdout=subprocess.DEVNULL)
        configs = in_order(swept(folder / "first"))
        lines = pairs.collect("overhead", about, lambda _: measured(path, configs, slots), options.pairs)
    print(report(lines))


if __name__ == "__main__":
    main()
