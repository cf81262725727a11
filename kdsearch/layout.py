"""Which memory layout a family's students are trained in on the CPU: measured on the machine, once.

Goes in: the students that a spec may ask for, and the shape of the images. Comes out: a `Layout` for each
family of convolutional networks, with the times it was chosen by; other families keep NCHW, torch's default.

Each family is measured in a process of its own: a layout that crashes costs that process and is not chosen.
What was measured is kept for the machine, so that the same sweep trains alike the next time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdsearch.checkpoint import write_atomically
from kdsearch.device import LAYOUTS, NARROWEST_CHANNELS_LAST, NCHW, narrowest_layer
from kdsearch.models.build import build, cost
from kdsearch.records import Choice, Event

logger = logging.getLogger(__name__)

FOLDER = "layouts"
BATCH_SIZE = 64
NUM_STEPS = 3  # of each layout, the fastest counts; one more before them, which allocates
ADVANTAGE = 1.05  # by which a layout must beat NCHW: less is within what two measurements differ by
DEADLINE_S = 300.0


@dataclass(frozen=True)
class Shape:
    """Of the classifiers that are measured."""

    num_classes: int
    in_channels: int
    image_size: int


@dataclass(frozen=True)
class Layout:
    """A family's layout, and by layout the milliseconds that a step took, summed over `students`.

    `step_ms` lacks a layout that crashed; it is empty where nothing was measured.
    """

    family: str
    layout: str
    students: tuple[dict[str, Any], ...]
    step_ms: dict[str, float]

    def __str__(self) -> str:
        times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in self.step_ms.items())
        return f"{self.family} trains in {self.layout} ({times} a step)"


def choose(students: Iterable[Choice], shape: Shape, store: Path) -> list[Layout]:
    """The layout of every family that has students wide enough for a choice, in the order of the families.

    The smallest and the largest of each family's students are measured, by multiply-adds.
    """
    wide: dict[str, list[Choice]] = {}
    for student in students:
        if _narrowest(student, shape) >= NARROWEST_CHANNELS_LAST:
            wide.setdefault(student.name, []).append(student)
    found = []
    for family, some in wide.items():
        by_work = sorted(some, key=lambda student: _macs(student, shape))
        ends = [dict(student.options) for student in (by_work[0], by_work[-1])]
        found.append(_chosen(family, ends if ends[0] != ends[1] else ends[:1], shape, store))
    return found


def fastest(step_ms: Mapping[str, float]) -> str:
    """The layout to train in; NCHW unless another one clearly beats it, and where it was not measured."""
    best = min(step_ms, key=lambda layout: step_ms[layout], default=NCHW)
    return best if NCHW in step_ms and step_ms[NCHW] >= ADVANTAGE * step_ms[best] else NCHW


def journalled(events: Iterable[Event]) -> dict[str, str]:
    """The layouts by family that a sweep's journal says it trains in; other families are trained in NCHW."""
    chosen = [event["layouts"] for event in events if event["kind"] == "layout_chosen"]
    return {one["family"]: one["layout"] for layouts in chosen for one in layouts}


def _narrowest(student: Choice, shape: Shape) -> int:
    with torch.device("meta"):
        return narrowest_layer(build(student.name, student.options, **dataclasses.asdict(shape)))


def _macs(student: Choice, shape: Shape) -> int:
    return int(cost(student.name, student.options, **dataclasses.asdict(shape))["macs"])


def _chosen(family: str, students: Sequence[dict[str, Any]], shape: Shape, store: Path) -> Layout:
    """As this machine found before, else as it finds now."""
    request = {"family": family, "students": students, **dataclasses.asdict(shape)}
    asked = {**request, "torch": torch.__version__, "machine": _machine()}
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
    path = store / FOLDER / f"{name}.json"
    try:
        kept = json.loads(path.read_bytes())
        return Layout(family, kept["layout"], tuple(students), kept["step_ms"])
    except (OSError, ValueError, KeyError):
        pass
    step_ms = _measured_apart(request)
    chosen = Layout(family, fastest(step_ms), tuple(students), step_ms)
    try:
        write_atomically(path, (json.dumps({**asked, **dataclasses.asdict(chosen)}) + "\n").encode())
    except OSError as error:
        logger.warning("the layout of %s is not kept in %s: %s", family, store, error)
    return chosen


def _machine() -> str:
    """What decides which layout is fast: the instruction set, and the processor where Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {' '.join(names[:1])}".strip()


def _measured_apart(request: dict[str, Any]) -> dict[str, float]:
    """The times of all layouts up to the one that the measuring process did not survive."""
    command = [sys.executable, "-m", "kdsearch.layout", json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        text, how = done.stdout, f"ended with {done.returncode}: {done.stderr.strip()[-200:]}"
    except subprocess.TimeoutExpired as error:
        text, how = (error.stdout or b"").decode(), f"took longer than {DEADLINE_S:g} s"
    found: dict[str, float] = dict(json.loads(line) for line in text.splitlines())
    if len(found) < len(LAYOUTS):
        family = request["family"]
        logger.warning("measuring the layouts of %s %s; its students train in %s", family, how, NCHW)
    return found


def measure(family: str, students: Sequence[dict[str, Any]], shape: Shape) -> Iterable[tuple[str, float]]:
    """For each layout the milliseconds of processor time that a step takes, summed over the students."""
    torch.set_num_threads(1)
    for name, memory_format in LAYOUTS.items():
        total = 0.0
        for options in students:
            torch.manual_seed(0)
            student = build(family, options, **dataclasses.asdict(shape)).to(memory_format=memory_format)
            images = torch.randn(BATCH_SIZE, shape.in_channels, shape.image_size, shape.image_size)
            labels = torch.arange(BATCH_SIZE) % shape.num_classes
            images = images.contiguous(memory_format=memory_format)
            total += min([_step_ms(student, images, labels) for _ in range(1 + NUM_STEPS)][1:])
        yield name, total


def _step_ms(student: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    started = time.process_time()
    student.zero_grad()
    loss = nn.functional.cross_entropy(student(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return 1e3 * (time.process_time() - started)


def main() -> None:
    request = json.loads(sys.argv[1])
    family, students = request.pop("family"), request.pop("students")
    for name, step_ms in measure(family, students, Shape(**request)):
        print(json.dumps([name, step_ms]), flush=True)


if __name__ == "__main__":
    main()
