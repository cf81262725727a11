"""What a second sweep asks of a teacher that a first one asked already: nothing.

`python -m benchmarks.again [--trials 8]` runs a sweep on digits, and then another one with the same teacher
and views that trains other students at another temperature, each from the command line, with Ray, MLflow
and confirmation. A forward hook counts the images that teachers are asked about in every process of either,
the driver and the workers (`benchmarks/forwards`). It prints both counts, in passes over the training images;
the few images by which each process makes sure that files are its teacher's are counted apart. Exits 1 where
the second sweep asks for more than those.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import pairs

NAME = "again"
HOOK = Path(__file__).parent / "forwards"
NUM_IMAGES = 320
SPEC = """
name: again
data: {dataset: digits, subset: 320, augment: [crop, flip]}
teacher: {resnet: {depth: 8, width: 0.5, train: {epochs: 3, lr: 0.1}}}
student: {resnet: {depth: 8, width: {type: float, low: 0.125, high: 0.5, step: 0.125}}}
distill:
  alpha: {type: float, low: 0.1, high: 0.9}
  temperature: 4
  response: kd
  relation: {none: , rkd: }
train: {epochs: 3, batch_size: 64, lr: {type: float, low: 0.02, high: 0.2, log: true}}
search: {trials: 8}
confirm: {seeds: 1}
"""


@dataclass(frozen=True)
class Asked:
    """How many images a sweep's processes asked teachers about."""

    images: int
    samples: int
    processes: int

    def __str__(self) -> str:
        passes = self.images / NUM_IMAGES
        return (
            f"{self.images} images, {passes:.2f} passes; {self.samples} more as samples; in {self.processes} "
            "processes"
        )


def sweep(spec: Path, output: Path, settings: Sequence[str]) -> Asked:
    """A sweep from the command line, its teachers watched."""
    counts = output.with_suffix(".forwards")
    counts.touch()
    paths = [str(HOOK), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "FORWARDS_FILE": str(counts),
    }
    command = [sys.executable, "-m", "kdsearch.sweep", str(spec), "--output", str(output)]
    command += [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(command, cwd=spec.parent, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the sweep failed: {done.stderr}")
    return asked(counts.read_text())


def asked(text: str) -> Asked:
    """The sum of the hook's lines."""
    rows = [line.split() for line in text.splitlines()]
    images = {kind: sum(int(n) for _, n, what in rows if what == kind) for kind in ("forward", "sample")}
    return Asked(images["forward"], images["sample"], len({pid for pid, _, _ in rows}))


def both(folder: Path, num_trials: int) -> tuple[Asked, Asked]:
    """The first sweep, into an empty store, and the second."""
    spec = folder / "again.yaml"
    spec.write_text(SPEC)
    os.environ["KDSEARCH_HOME"] = str(folder / "home")
    trials = f"search.trials={num_trials}"
    return (
        sweep(spec, folder / "first", [trials]),
        sweep(spec, folder / "second", [trials, "distill.temperature=2"]),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, second = both(Path(folder), options.trials)
    machine = pairs.machine()
    pairs.append(
        NAME, {"trials": options.trials, "first": asdict(first), "second": asdict(second), **machine}
    )
    print(f"the first sweep asked the teacher about {first}")
    print(f"the second asked it about {second}")
    print(machine)
    return 1 if second.images else 0


if __name__ == "__main__":
    sys.exit(main())
