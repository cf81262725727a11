"""The gate of all figures about the cache: a student trained from it is the one that a live teacher makes.

`python -m benchmarks.parity [--steps 100] [--seeds 30]`, on digits, in one thread, exits 1 where it does not
hold. A small teacher is trained first, the same one each time.

Losses: every method whose teacher can be kept trains a student from files, on cropped, flipped, cut out and
mixed images, and once more with a live teacher and the same seed. Live outputs are rounded to float16 as
those in a file are, so that both agree is what the code promises, but says nothing about the rounding: each
loss from the files is therefore also compared with what it would be at the same weights if the teacher's
answer were taken as it is. The first must agree within 1e-3 of the loss in every step, the second in the mean
over all steps. Its worst step is printed too: where mixup blends two images half and half, rkd asks for the
angles between two that nearly coincide, and those the rounding turns.
Accuracies: a small ResNet learns from the files and, in a training of its own, from the teacher's answers as
they are, with the same seed, many times over: training makes the smallest difference grow, so single pairs
part; the interval of their mean difference, by Student's t, must lie within a point.

Lines of one commit are taken up again by a later run of the same commit, and of no other.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import pairs
from benchmarks.method_cost import shortened
from benchmarks.pairs import Line
from kdsearch import data
from kdsearch.data import ImageData
from kdsearch.data.views import Batch
from kdsearch.losses import METHODS
from kdsearch.losses.reading import reads_maps
from kdsearch.losses.terms import total_loss
from kdsearch.models.build import Outputs
from kdsearch.output_cache import Shelf
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import DataSpec
from kdsearch.statistics import Estimate, estimate
from kdsearch.teacher_model import Frozen
from kdsearch.training import Training

NAME = "parity"
LARGEST_DEVIATION = 1e-3  # of the loss
LARGEST_DIFFERENCE = 0.01  # of the accuracy, the ends of the interval
BATCH_SIZE, STEPS_AN_EPOCH = 32, 10
EPOCHS = 8  # of the trainings whose accuracies are compared
BUDGET_BYTES = 1e9
MIXED = (("crop", {}), ("flip", {}), ("cutout", {}), ("mixup", {}))
CROPPED = (("crop", {}),)
TEACHER = Choice("resnet", {"depth": 8, "width": 0.5})
STUDENT = Choice("resnet", {"depth": 8, "width": 0.25})


class Watched(Training):
    """A training that keeps the loss of every step."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.losses: list[float] = []

    def _loss(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = super()._loss(batch, epoch)
        self.losses.append(loss.item())
        return loss, terms


class Unrounded(Training):
    """The naive side: the teacher answers in every step, and its answer is taken as it is."""

    def _taught(self, batch: Batch, epoch: int) -> Outputs:
        return self._teacher_outputs(batch.images)


class Beside(Watched):
    """Also keeps what each loss would be, at the same weights, by the teacher's answer as it is."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.exact: list[float] = []

    def _loss(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        remembered = copy.deepcopy(self._learned.state_dict())
        with torch.random.fork_rng(devices=[]), torch.no_grad():  # the same negatives for both
            student, teacher = self._student_outputs(batch.images), self._teacher_outputs(batch.images)
            loss, _ = total_loss(self.config, self._terms, student, teacher, batch, epoch)
        self.exact.append(loss.item())
        self._learned.load_state_dict(remembered)
        return super()._loss(batch, epoch)


def cacheable() -> list[str]:
    """The methods whose trials read their teacher from files."""
    return [name for name, method in METHODS.items() if method.teacher and not reads_maps(Choice(name))]


def config_of(name: str, epochs: int, seed: int = 0) -> TrialConfig:
    """A trial of one method as published, with alpha 0.9 and temperature 4 where it answers the teacher."""
    method = METHODS[name]
    options = {key: option.default for key, option in method.options.items()}
    is_response = method.slot == "response"
    return TrialConfig(
        STUDENT,
        TrainConfig(epochs=epochs, batch_size=BATCH_SIZE, lr=0.05, warmup_epochs=0),
        distill={method.slot: Choice(name, options)},
        alpha=0.9 if is_response else None,
        temperature=4.0 if is_response else None,
        seed=seed,
    )


def trained_teacher(images: ImageData, epochs: int = 5) -> Frozen:
    recipe = TrainConfig(epochs=epochs, batch_size=BATCH_SIZE, lr=0.1, warmup_epochs=0)
    training = Training(TrialConfig(TEACHER, recipe), images, CROPPED)
    while not training.finished:
        training.run_epoch()
    return Frozen(training.student)


def _trained(training: Training) -> Training:
    while not training.finished:
        training.run_epoch()
    return training


def deviations(config: TrialConfig, images: ImageData, teacher: Frozen, shelf: Shelf) -> Line:
    """How far the losses from the files are from those of a live teacher, as shares of these.

    `live` is the worst step, `exact` and `exact_worst` are the mean and the worst of the steps against the
    teacher's answer as it is. The files that are not there yet are written.
    """
    kept = Beside(config, images, MIXED, teacher, shelf=shelf)
    live = Watched(config, images, MIXED, teacher)
    for training in (kept, live):
        _trained(training)
    from_exact = apart(kept.losses, kept.exact)
    return {
        "live": max(apart(kept.losses, live.losses)),
        "exact": statistics.fmean(from_exact),
        "exact_worst": max(from_exact),
    }


def apart(values: Sequence[float], references: Sequence[float]) -> list[float]:
    """How far each value is from its reference, as a share of the reference."""
    both = zip(values, references, strict=True)
    return [abs(value - reference) / max(abs(reference), 1e-12) for value, reference in both]


def accuracies(seed: int, images: ImageData, teacher: Frozen, shelf: Shelf) -> Line:
    """What a student of plain distillation comes to, from the files and with the teacher as it is."""
    config = config_of("kd", EPOCHS, seed)
    kept = _trained(Training(config, images, CROPPED, teacher, shelf=shelf))
    exact = _trained(Unrounded(config, images, CROPPED, teacher))
    return {"kept": kept.evaluate(), "exact": exact.evaluate()}


def difference(lines: Sequence[Line]) -> Estimate:
    """From the files less with the teacher as it is."""
    return estimate([line["kept"] - line["exact"] for line in lines])


def complaints(of_losses: Sequence[Line], of_accuracies: Sequence[Line]) -> list[str]:
    """What breaks the gate, a line each."""
    found = [
        f"{line['method']}: a loss from the files is {line[which]:.1e} off the live one{words}"
        for line in of_losses
        for which, words in (("live", ""), ("exact", " in full precision"))
        if not line[which] <= LARGEST_DEVIATION
    ]
    gap = difference(of_accuracies)
    ends = [gap.mean if end is None else end for end in (gap.low, gap.high)]
    if not max(map(abs, ends)) <= LARGEST_DIFFERENCE:
        found.append(f"accuracies from the files differ by {ends[0]:+.4f} to {ends[1]:+.4f}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="of every training whose losses are compared")
    parser.add_argument("--seeds", type=int, default=30, help="of the pairs whose accuracies are compared")
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = data.load(DataSpec(dataset="digits"))
    few = shortened(whole, STEPS_AN_EPOCH * BATCH_SIZE)
    teacher, commit = trained_teacher(whole), pairs.machine()["commit"]
    with tempfile.TemporaryDirectory() as folder:
        on_few, on_whole = (Shelf(Path(folder) / name, "teacher", BUDGET_BYTES) for name in ("few", "whole"))
        of_losses = []
        print("deviation of the losses from the files: worst step against live;")
        print("against live in full precision, mean and worst step")
        for name in cacheable():
            about = {"part": "losses", "commit": commit, "method": name, "steps": options.steps}
            config = config_of(name, math.ceil(options.steps / STEPS_AN_EPOCH))
            line = kept_or(about, lambda config=config: deviations(config, few, teacher, on_few))
            of_losses.append(line)
            print(f"{name:16} {line['live']:.1e}  {line['exact']:.1e} {line['exact_worst']:.1e}", flush=True)
        of_accuracies = []
        for seed in range(options.seeds):
            about = {"part": "accuracies", "commit": commit, "seed": seed, "epochs": EPOCHS}
            line = kept_or(about, lambda seed=seed: accuracies(seed, whole, teacher, on_whole))
            of_accuracies.append(line)
            print(f"seed {seed}: from files {line['kept']:.4f}, live {line['exact']:.4f}", flush=True)
    gap = difference(of_accuracies)
    interval = "all alike" if gap.low is None or gap.high is None else f"{gap.low:+.4f} to {gap.high:+.4f}"
    print(f"accuracy from files less live, {gap.n} pairs: {gap.mean:+.4f} ({interval})")
    print(pairs.machine())
    found = complaints(of_losses, of_accuracies)
    print("\n".join(found) or "the gate holds")
    return 1 if found else 0


def kept_or(about: Line, measure: Callable[[], Line]) -> Line:
    """The line that an earlier run of this commit recorded, or a new one."""
    done = pairs.recorded(NAME, about)
    if not done:
        done = [{**about, **measure(), **pairs.machine()}]
        pairs.append(NAME, done[0])
    return done[0]


if __name__ == "__main__":
    sys.exit(main())
