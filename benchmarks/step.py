"""What a training step costs: the loop that one writes for torch and torchvision, and ours.

`python -m benchmarks.step [--pairs 10] [--steps 20]` trains a resnet8 student on random images, of 14x14 grey
and of 32x32 colour pixels, with width 0.5 and 1.0, on both sides by the same mathematics: random crop, flip,
normalisation, cross-entropy and KL divergence at a temperature, SGD with momentum and a cosine schedule. The
teacher's logits are given to both, ours read them from its cache. A pair is an epoch of each side; ours is
evaluated in it, too, on a batch of images. One thread each, no worker processes: processor time is compared.

It prints naive / ours for every case, then the geometric mean over the cases. `--profile` instead says where
our step's time goes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it is imported

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import pairs
from kdsearch import layout
from kdsearch.data import ImageData, Split
from kdsearch.data.views import Views
from kdsearch.models.build import build
from kdsearch.output_cache import Shelf
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.teacher_model import Frozen
from kdsearch.training import Training

BATCH_SIZE = 128
NUM_CLASSES = 10
TEMPERATURE, ALPHA, LR, MOMENTUM, WEIGHT_DECAY = 4.0, 0.9, 0.05, 0.9, 5e-4
AUGMENT: tuple[tuple[str, dict[str, Any]], ...] = (("crop", {}), ("flip", {}))
TEACHER = Choice("resnet", {"depth": 8, "width": 0.25})  # its size does not matter: it is asked beforehand


@dataclass(frozen=True)
class Case:
    image_size: int
    in_channels: int
    width: float

    def __str__(self) -> str:
        return f"resnet8 x {self.width}, {self.in_channels}x{self.image_size}x{self.image_size}"

    @property
    def student(self) -> Choice:
        return Choice("resnet", {"depth": 8, "width": self.width})

    @property
    def shape(self) -> tuple[int, int, int]:
        return NUM_CLASSES, self.in_channels, self.image_size


CASES = tuple(Case(*images, width) for images in ((14, 1), (32, 3)) for width in (0.5, 1.0))


# The naive side.


class Images(Dataset[tuple[Tensor, int, int]]):
    """As torchvision's data sets: an image from an array, through transforms; and its number."""

    def __init__(self, split: Split, transform: Any) -> None:
        self._images = split.images.transpose(0, 2, 3, 1)
        self._labels = split.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image = Image.fromarray(self._images[index].squeeze())
        return self._transform(image), self._labels[index], index


def loader_of(data: ImageData) -> DataLoader[tuple[Tensor, int, int]]:
    transform = transforms.Compose(
        [
            transforms.RandomCrop(data.image_size, padding=max(1, data.image_size // 8)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    return DataLoader(Images(data.train, transform), batch_size=BATCH_SIZE, shuffle=True)


def naive_optimizer(
    student: nn.Module, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.SGD(student.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)


def naive_epoch(
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    loader: Iterable[tuple[Tensor, Tensor, Tensor]],
    teacher_logits: Tensor,
) -> float:
    """One epoch of distillation; the mean loss."""
    student.train()
    running_loss, num_batches = 0.0, 0
    for images, labels, indices in loader:
        logits = student(images)
        label_loss = F.cross_entropy(logits, labels)
        distillation_loss = TEMPERATURE**2 * F.kl_div(
            F.log_softmax(logits / TEMPERATURE, dim=1),
            F.softmax(teacher_logits[indices] / TEMPERATURE, dim=1),
            reduction="batchmean",
        )
        loss = (1 - ALPHA) * label_loss + ALPHA * distillation_loss
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        scheduler.step()
        running_loss += loss.item()
        num_batches += 1
    return running_loss / num_batches


def naive(case: Case, data: ImageData, num_epochs: int) -> Any:
    """What trains the next epoch."""
    student = build(case.student.name, case.student.options, *case.shape)
    loader = loader_of(data)
    optimizer, scheduler = naive_optimizer(student, num_epochs * len(loader))
    targets = torch.randn(len(data.train), NUM_CLASSES)
    return lambda: naive_epoch(student, optimizer, scheduler, loader, targets)


# Ours.


def config_of(student: Choice, num_epochs: int) -> TrialConfig:
    return TrialConfig(
        student,
        TrainConfig(
            epochs=num_epochs,
            batch_size=BATCH_SIZE,
            optimizer="sgd",
            lr=LR,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            schedule="cosine",
            warmup_epochs=0,
        ),
        distill={"response": Choice("kd")},
        alpha=ALPHA,
        temperature=TEMPERATURE,
    )


def ours(case: Case, data: ImageData, num_epochs: int, store: Path) -> tuple[Any, str]:
    """What trains the next epoch, and the student's layout."""
    teacher = Frozen(build(TEACHER.name, TEACHER.options, *case.shape))
    shelf = Shelf(store, str(case), budget_bytes=1e9)
    # Another student asks for all that the teacher has to say; then the layout is measured, as in a sweep.
    asking = Training(config_of(Choice("mlp", {}), num_epochs), data, AUGMENT, teacher, shelf=shelf)
    while not asking.finished:
        asking.run_epoch()
    (chosen,) = layout.choose([case.student], layout.Shape(*case.shape), store)
    config = config_of(case.student, num_epochs)
    training = Training(config, data, AUGMENT, teacher, shelf=shelf, layout=chosen.layout)
    return training.run_epoch, chosen.layout


def random_images(case: Case, num_images: int) -> ImageData:
    draw = np.random.default_rng(0)

    def split(count: int) -> Split:
        size = (count, case.in_channels, case.image_size, case.image_size)
        labels = np.arange(count) % NUM_CLASSES
        return Split(draw.integers(0, 256, size, dtype=np.uint8), labels)

    names = tuple(map(str, range(NUM_CLASSES)))
    mean, std = (0.5,) * case.in_channels, (0.25,) * case.in_channels
    return ImageData("random", split(num_images), split(BATCH_SIZE), names, mean, std, f"random {num_images}")


def measured(case: Case, num_steps: int, num_pairs: int, store: Path) -> list[pairs.Line]:
    """The pairs of a case, those of earlier runs first."""
    about = {**asdict(case), "num_steps": num_steps, "batch_size": BATCH_SIZE}
    num_left = num_pairs - len(pairs.recorded("step", about))
    if num_left > 0:
        data = random_images(case, num_steps * BATCH_SIZE)
        torch.manual_seed(0)
        train_naively = naive(case, data, num_left + 1)
        train, chosen = ours(case, data, num_left + 1, store)
        for epoch in (train_naively, train):
            epoch()  # allocates, and compiles nothing
        print(f"{case}, ours in {chosen}", flush=True)
        pairs.measure(
            "step", about, lambda: pairs.spent(train_naively), lambda: pairs.spent(train), num_pairs
        )
    return pairs.recorded("step", about)[:num_pairs]


# Operators as torch's profiler names them.
PARTS = {
    "convolutions": ("aten::convolution_backward", "aten::mkldnn_convolution"),
    "batch norm": ("aten::native_batch_norm_backward", "aten::native_batch_norm"),
    "activations": ("aten::threshold_backward", "aten::clamp_min_"),
}


def shares(case: Case, num_steps: int, store: Path) -> dict[str, float]:
    """Shares of an epoch's processor time by part; the optimizer's with all that it calls."""
    data = random_images(case, num_steps * BATCH_SIZE)
    epoch, _ = ours(case, data, 2, store)
    epoch()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        epoch()
    events = found.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    parts = {
        part: sum(event.self_cpu_time_total for event in events if event.key in names) / total
        for part, names in PARTS.items()
    }
    steps = [event.cpu_time_total for event in events if event.key.startswith("Optimizer.step")]
    views = Views(data.train, data.mean, data.std, AUGMENT)
    batches = torch.split(torch.arange(len(data.train)), BATCH_SIZE)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for batch in batches:
            views.batch(batch, 2, 0)
    viewing = sum(event.self_cpu_time_total for event in found.key_averages())
    parts |= {"optimizer": sum(steps) / total, "augmented views": viewing / total}
    return parts | {"the rest": 1 - sum(parts.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    by_case = {}
    with tempfile.TemporaryDirectory() as store:
        if options.profile:
            for case in CASES:
                found = shares(case, options.steps, Path(store))
                print(f"{case}: " + ", ".join(f"{part} {share:.1%}" for part, share in found.items()))
            return
        for case in CASES:
            by_case[case] = measured(case, options.steps, options.pairs, Path(store))
    for case, lines in by_case.items():
        step_ms = {side: 1e3 * statistics.median(line[side]["cpu_s"] for line in lines) for side in "ab"}
        a, b = (step_ms[side] / options.steps for side in "ab")
        print(f"{case}: {a:.1f} / {b:.1f} ms a step, {pairs.of_pairs(lines)}")
    ratios = [[line["a"]["cpu_s"] / line["b"]["cpu_s"] for line in lines] for lines in by_case.values()]
    over_cases = [statistics.geometric_mean(found) for found in zip(*ratios, strict=True)]
    print(f"naive / ours, processor time: {pairs.ratio(over_cases)}; {pairs.machine()}")


if __name__ == "__main__":
    main()
