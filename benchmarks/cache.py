"""What keeping the teacher's outputs saves a sweep: its trainings with a live teacher, and from the cache.

`python -m benchmarks.cache [--pairs 5]`: ResNet-56 teaches ResNet-8 with 16 and with 8 base channels, on
noise of 14x14 pixels, by kd. A sweep is one training after another in this process, in one thread, without
Ray: E epochs in all, of which R differ to the teacher. The cached side starts with an empty folder and so
fills it. The teacher has random weights: what it knows costs nothing.

By E/R it prints the ratio of CPU times, live / cached, and the ceiling (s + t) / (s + t R/E), which nothing
that runs the teacher R times can pass: s is a step whose targets are given, t the teacher on a batch, both
measured just before and after the two sides, on full epochs. Ratio over ceiling, pair by pair, is to be 0.9.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import pairs
from benchmarks.pairs import Line
from kdsearch.data import ImageData, Split
from kdsearch.data.views import Batch
from kdsearch.models.build import Outputs, build
from kdsearch.output_cache import Shelf
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.teacher_model import Frozen
from kdsearch.training import Training

NAME = "cache"
GOAL = 0.9
NUM_CLASSES, SIZE, BATCH_SIZE = 10, 14, 64
WIDTHS = {16: 1.0, 8: 0.5}  # multipliers by base channels
REUSES = (16, 64)  # E / R
EPOCHS = 2  # R: of every trial, and of the teacher
AUGMENT = (("crop", {}), ("flip", {}))
BUDGET_BYTES = 1e9


class Given(Training):
    """A training that is given its targets: what a step takes without any teacher."""

    _targets: Outputs

    def _taught(self, batch: Batch, epoch: int) -> Outputs:
        return Outputs(self._targets.logits[batch.indices], {}, self._targets.embedding[batch.indices])


@dataclass(frozen=True)
class Setting:
    """One student, so many images, and a teacher."""

    images: ImageData
    teacher: Frozen
    base: int

    @property
    def config(self) -> TrialConfig:
        student = Choice("resnet", {"depth": 8, "width": WIDTHS[self.base]})
        recipe = TrainConfig(epochs=EPOCHS, batch_size=BATCH_SIZE, lr=0.05, warmup_epochs=0)
        return TrialConfig(student, recipe, distill={"response": Choice("kd")}, alpha=0.9, temperature=4.0)

    def sweep(self, reuses: int, shelf: Shelf | None) -> None:
        """As many trainings as read each of the teacher's epochs so often."""
        for _ in range(reuses):
            training = Training(self.config, self.images, AUGMENT, self.teacher, shelf=shelf)
            while not training.finished:
                training.run_epoch()

    def parts(self) -> tuple[float, float]:
        """CPU seconds of a step whose targets are given, and of the teacher on a batch."""
        training = Given(self.config, self.images, AUGMENT, self.teacher)
        shape = len(self.images.train), NUM_CLASSES
        training._targets = Outputs(torch.randn(shape), {}, torch.zeros(shape[0], self.teacher.num_features))
        size = self.images.image_size
        batch = torch.randn(BATCH_SIZE, self.images.in_channels, size, size)
        num_steps = len(self.images.train) // BATCH_SIZE

        def steps() -> None:
            while not training.finished:
                training.run_epoch()

        def passes() -> None:
            for _ in range(EPOCHS * num_steps):
                training._teacher_outputs(batch)

        s, t = pairs.spent(steps).cpu_s, pairs.spent(passes).cpu_s
        return s / (EPOCHS * num_steps), t / (EPOCHS * num_steps)


def noise(num_images: int) -> ImageData:
    """Images to train on, and next to none to evaluate on."""
    numbers = np.random.default_rng(0)

    def split(count: int) -> Split:
        images = numbers.integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)
        return Split(images, numbers.integers(0, NUM_CLASSES, count))

    names = tuple(map(str, range(NUM_CLASSES)))
    return ImageData("noise", split(num_images), split(2), names, (0.5,) * 3, (0.25,) * 3, key="noise")


def setting(base: int, num_images: int, depth: int = 56) -> Setting:
    torch.manual_seed(0)
    return Setting(noise(num_images), Frozen(build("resnet", {"depth": depth}, NUM_CLASSES, 3, SIZE)), base)


def measured(one: Setting, reuses: int, num_pairs: int) -> list[Line]:
    """Pairs of sweeps, with s and t of each."""
    about = {
        "base": one.base,
        "reuses": reuses,
        "images": len(one.images.train),
        "depth": one.teacher.network.architecture.options["depth"],
    }

    def cached() -> None:
        with tempfile.TemporaryDirectory() as folder:
            one.sweep(reuses, Shelf(Path(folder), "random weights", BUDGET_BYTES))

    def beside() -> dict[str, float]:
        s, t = one.parts()
        return {"s": s, "t": t}

    one.parts()  # the first pass of a process is slower
    return pairs.measure(
        NAME,
        about,
        a=lambda: pairs.spent(lambda: one.sweep(reuses, None)),
        b=lambda: pairs.spent(cached),
        num_pairs=num_pairs,
        beside=beside,
    )


def ceiling(s: float, t: float, reuses: float) -> float:
    """How many times as fast a sweep is at most, whose teacher runs once for every `reuses` epochs."""
    return (s + t) / (s + t / reuses)


def against_ceiling(line: Line) -> float:
    s, t = (statistics.fmean(one[name] for one in line["beside"]) for name in ("s", "t"))
    return line["a"]["cpu_s"] / line["b"]["cpu_s"] / ceiling(s, t, line["reuses"])


def summary(lines: list[Line]) -> str:
    base, reuses = lines[0]["base"], lines[0]["reuses"]
    found = [one for line in lines for one in line["beside"]]
    s, t = (statistics.median(one[name] for one in found) for name in ("s", "t"))
    share = pairs.ratio([against_ceiling(line) for line in lines])
    return (
        f"base {base}, E/R {reuses}: live / cached {pairs.of_pairs(lines)} in CPU time, "
        f"{pairs.of_pairs(lines, 'wall_s')} on the clock; s {1e3 * s:.1f} ms, t {1e3 * t:.1f} ms, "
        f"ceiling {ceiling(s, t, reuses):.3f}; of the ceiling {share}, goal {GOAL}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--images", type=int, default=256, help="to train on, a multiple of the batch size 64"
    )
    parser.add_argument("--depth", type=int, default=56, help="of the teacher")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for base in WIDTHS:
        for reuses in REUSES:
            one = setting(base, options.images, options.depth)
            found.append(summary(measured(one, reuses, options.pairs)))
            print(found[-1], flush=True)
    print("\n".join(["", *found, str(pairs.machine())]))


if __name__ == "__main__":
    main()
