"""What a training step of every method costs, next to kd: CPU time, memory at its peak, memory in between.

`python -m benchmarks.method_cost [spec.yaml] [--set a.b=v] [--rounds 7]` takes the methods that a spec lists
one at a time (default: search_spaces/methods.yaml, on digits) with its student, its teacher's shape and its
recipe; those of METHODS that need transformers on both sides are measured on a pair of small ViTs, next to
kd on the same pair. Everything runs in this process and in one thread. The teacher has random weights: what
it knows costs nothing.

Time: an epoch of each method and one of kd take turns, without evaluation; the ratio of their CPU times in
each round, its median and range. Peak: the bytes that tensors hold at the highest point of a step beyond what
is kept between steps, gradients included, from torch's profiler. Kept: what weights, learned parts, memories
and the optimizer's state hold between steps beyond those of the student without distillation; the teacher,
which trials share, is not in it. `ab` and `fsp` are measured while they train alone, `ft` without the
training of its paraphrasers beforehand.

Prints a table in Markdown and appends a line a method to benchmarks/results/method_cost.jsonl, from which
`python -m kdsearch.guide > docs/methods.md` takes the last.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import pairs
from kdsearch import data, listing, results
from kdsearch import spec as specs
from kdsearch.data import ImageData, Split
from kdsearch.losses import METHODS
from kdsearch.models import family
from kdsearch.models.build import build
from kdsearch.mutual import training_for
from kdsearch.online import ONLINE
from kdsearch.records import Choice, TrialConfig
from kdsearch.spec import SweepSpec
from kdsearch.teacher_model import Frozen
from kdsearch.training import Training

HERE = Path(__file__).parent
METHODS_FILE = HERE.parent / "search_spaces" / "methods.yaml"
RESULTS = HERE / "results" / "method_cost.jsonl"
NUM_STEPS = 16  # in an epoch, all of full batches
KD, NOTHING = "kd", "no distillation"
SMALL_VIT = "patch: 2, dim: 64, heads: 4, mlp_ratio: 2.0"
TRANSFORMERS = [
    f"student={{vit: {{{SMALL_VIT}, depth: 2}}}}",
    f"teacher={{vit: {{{SMALL_VIT}, depth: 4}}}}",
    "distill={response: {none: , deit: {alpha: 0.5}, kd: }, feature: {none: , minilm: , tinybert: }}",
]


@dataclass(frozen=True)
class Pair:
    """A student and a teacher on some images, and every method to measure between them by name."""

    words: str
    spec: SweepSpec
    images: ImageData
    teacher: Frozen
    configs: dict[str, TrialConfig]

    @functools.cached_property
    def kept_bytes(self) -> int:
        """What the student and its optimizer hold without distillation."""
        control = self.training(NOTHING)
        control.run_epoch()
        return held(control.state_dict())

    def training(self, method: str) -> Training:
        return training_for(self.configs[method], self.images, self.spec.data.augment, self.teacher)


@dataclass(frozen=True)
class Cost:
    """`ratios` are of CPU time to kd's in each round, `step_ms` is the median; bytes as in the docstring."""

    ratios: tuple[float, ...]
    step_ms: float
    peak_bytes: int
    kept_bytes: int


def pair_of(spec: SweepSpec, num_epochs: int) -> Pair:
    """Raises ValueError where the teacher is not one family, or where kd is not among the methods."""
    teacher = spec.teacher
    if not isinstance(teacher, specs.TeacherSpec) or teacher.family is None:
        raise ValueError("teacher: give one family")
    images = shortened(data.load(spec.data), NUM_STEPS * spec.train["batch_size"])
    shape = images.num_classes, images.in_channels, images.image_size
    torch.manual_seed(0)
    network = Frozen(build(teacher.family, teacher.options, *shape))
    stages = specs.num_teacher_stages(spec)
    assert stages is not None, "a family knows its stages"
    configs: dict[str, TrialConfig] = {}
    for _, config in listing.configurations(spec, stages):
        configs.setdefault(results.method_label(config), lasting(config, num_epochs))
    if KD not in configs:
        raise ValueError("distill.response: give kd, which everything is compared with")
    student = configs[KD].student
    configs.setdefault(NOTHING, configs[KD].control)
    words = f"{shown(student)} and {shown(Choice(teacher.family, teacher.options))}"
    return Pair(f"{spec.data.dataset}, {words}", spec, images, network, configs)


def lasting(config: TrialConfig, num_epochs: int) -> TrialConfig:
    """The configuration for so many epochs, in all of which a method that trains alone does so."""
    distill = {
        slot: Choice(choice.name, {**choice.options, "alone": 1.0})
        if "alone" in METHODS[choice.name].options
        else choice
        for slot, choice in config.distill.items()
    }
    train = dataclasses.replace(config.train, epochs=num_epochs, warmup_epochs=0)
    return dataclasses.replace(config, distill=distill, train=train)


def shortened(images: ImageData, num_train: int) -> ImageData:
    """The first images to train on, and next to none to evaluate on."""
    if len(images.train) < num_train:
        raise ValueError(f"{num_train} training images are needed, there are {len(images.train)}")

    def first(split: Split, count: int) -> Split:
        return dataclasses.replace(split, images=split.images[:count], labels=split.labels[:count])

    return dataclasses.replace(
        images, train=first(images.train, num_train), validation=first(images.validation, 2)
    )


def measured(pair: Pair, method: str, num_rounds: int) -> Cost:
    """One epoch of both to warm up, then rounds in which each goes first in turn, then one for memory."""
    own, kd = pair.training(method), pair.training(KD)
    own.run_epoch()
    kd.run_epoch()
    ratios: list[float] = []
    seconds: list[float] = []
    for number in range(num_rounds):
        spent = {one: one.run_epoch().cpu_s for one in ((own, kd) if number % 2 else (kd, own))}
        ratios.append(spent[own] / spent[kd])
        seconds.append(spent[own])
    step_ms = 1e3 * statistics.median(seconds) / NUM_STEPS
    return Cost(tuple(ratios), step_ms, peak_bytes(own), held(own.state_dict()) - pair.kept_bytes)


def peak_bytes(training: Training) -> int:
    """The most bytes that an epoch holds at once of those that it allocates.

    The profiler leaves out the release of what was there before it, as the gradients of the last step.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        training.run_epoch()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    current = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        highest = max(highest, current)
    return highest


def held(state: Any) -> int:
    """Bytes of all tensors in nested mappings and sequences."""
    match state:
        case Tensor():
            return state.nbytes
        case dict():
            return sum(map(held, state.values()))
        case list() | tuple():
            return sum(map(held, state))
    return 0


def missing(pair: Pair) -> list[str]:
    """The methods that the pair does not have, alone."""
    return [name for name in (*METHODS, *ONLINE) if name not in pair.configs]


def shown(network: Choice) -> str:
    """The family, its depth and width, and what else is not as it always is."""
    usual = {name: option.default for name, option in family(network.name).options.items()}
    named = [n for n, value in network.options.items() if n in ("depth", "width") or value != usual[n]]
    return " ".join([network.name, *(f"{name} {network.options[name]}" for name in named)])


def row(method: str, cost: Cost, kd: Cost) -> str:
    low, middle, high = min(cost.ratios), statistics.median(cost.ratios), max(cost.ratios)
    cells = [
        method,
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        f"{cost.step_ms:.1f}",
        f"{cost.peak_bytes / kd.peak_bytes:.2f}",
        f"{cost.peak_bytes / 1e6:.2f}",
        f"{cost.kept_bytes / 1e3:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


HEAD = """
| method | time / kd's (range) | ms a step | peak / kd's | peak, MB | kept, kB |
|---|---|---|---|---|---|"""


def table(pair: Pair, methods: Sequence[str], num_rounds: int) -> Iterator[tuple[str, Cost]]:
    """Measure and print row after row."""
    print(
        f"\n{pair.words}: batches of {pair.spec.train['batch_size']}, {num_rounds} rounds{HEAD}", flush=True
    )
    kd = measured(pair, KD, num_rounds)
    for method in methods:
        cost = measured(pair, method, num_rounds)
        print(row(method, cost, kd), flush=True)
        yield method, cost


def machine() -> dict[str, Any]:
    found = pairs.machine()
    return {**found, "torch": found["versions"]["torch"]}  # where the guide looks for it


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", nargs="?", type=Path, default=METHODS_FILE)
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=V", help="replaces a value of the spec"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--only", nargs="+", metavar="METHOD", help="measure these alone, and write no results"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    num_epochs = options.rounds + 2  # one to warm up, one under the profiler
    first = pair_of(specs.load(options.spec, options.set), num_epochs)
    second = pair_of(specs.load(METHODS_FILE, TRANSFORMERS), num_epochs)
    others = [method for method in missing(first) if method in second.configs]
    wanted = [(first, list(first.configs)), (second, [KD, *others])]
    lines = []
    for pair, methods in wanted:
        chosen = [m for m in methods if options.only is None or m in options.only]
        for method, cost in table(pair, chosen, options.rounds):
            about = {"method": method, "pair": pair.words, "batch_size": pair.spec.train["batch_size"]}
            lines.append({**about, **dataclasses.asdict(cost), **machine()})
    if options.only is None:
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
