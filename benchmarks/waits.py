"""What a slot waits from one training to the next, in a sweep as anyone starts it.

`python -m benchmarks.waits [--seconds 3] [--slots 2] [--trials 20] [--sweeps 5]`. The sweeps are those of
`benchmarks.overhead`, with the machine for themselves. Counted are slot-seconds as there, without the seconds
of the epochs, which the trainings tell of themselves: so in them is all between two trainings (the report,
the proposal, the next network, the student's file) and at reports, and not that a training is slower where
Ray and the driver work beside it. `overhead` counts both.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import overhead, pairs
from benchmarks.pairs import Line
from kdsearch.records import TrialRecord


def waited(trials: Sequence[TrialRecord], slots: int) -> Line:
    """Seconds between slots' first ends and their last but one, and those of the epochs in between."""
    in_order = sorted(trials, key=lambda trial: trial.ended)
    counted = in_order[slots:-slots]
    trained_s = sum(epoch["time_s"] for trial in counted for epoch in trial.epochs)
    return {
        "slot_s": overhead.between_ends([trial.ended for trial in in_order], slots),
        "trained_s": trained_s,
    }


def report(lines: Sequence[Line]) -> str:
    each = pairs.ratio([(line["slot_s"] - line["trained_s"]) / line["counted"] for line in lines])
    trained = pairs.ratio([line["trained_s"] / line["counted"] for line in lines])
    first = lines[0]
    return "\n".join(
        [
            f"a slot waits {each} s a trial",
            f"{first['counted']} trials of {trained} s, {first['slots']} slots, {len(lines)} sweeps",
            json.dumps(pairs.machine()),
        ]
    )


def main() -> None:
    options = overhead.arguments(__doc__, "sweeps")
    seconds, slots = options.seconds, options.slots
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["KDSEARCH_HOME"] = str(folder / "home")  # of every process that is started here
        epochs = overhead.epochs_for(seconds, slots, folder)
        path = overhead.written(folder, epochs, options.trials, slots)

        def one(number: int) -> Line:
            output = folder / f"sweep-{number}"
            subprocess.run(overhead.sweep(path, output), check=True, stdout=subprocess.DEVNULL)
            return waited(list(overhead.swept(output).trials.values()), slots)

        one(-1)  # records what the teacher says
        about = {"seconds": seconds, "slots": slots, "counted": options.trials, "epochs": epochs}
        lines = pairs.collect("waits", about, one, options.sweeps)
    print(report(lines))


if __name__ == "__main__":
    main()
