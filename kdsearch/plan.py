"""`--dry-run`: builds what a sweep would build, trains nothing, and says what it would cost.

Goes in: a spec. Comes out: the plan in lines: trials, epochs, slots, estimated time and disk.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from kdsearch import cli, guards, listing, spec_teacher, teacher, warm_start
from kdsearch.data import ImageData
from kdsearch.data.views import Views
from kdsearch.device import GPUS_UNUSED, device_policy, num_threads
from kdsearch.lineup import Lineup
from kdsearch.losses.reading import reads_maps
from kdsearch.models import family as network_family
from kdsearch.models.build import build, measure
from kdsearch.pipeline import cost_function, load_data
from kdsearch.progress import count, duration
from kdsearch.records import Choice
from kdsearch.search import tuning
from kdsearch.search.afterwards import most_trainings
from kdsearch.search.bands import NUM_BANDS, band_edges, check_students, extreme_students, floor_controls
from kdsearch.search.judge import rungs
from kdsearch.search.slots import num_cores, slots_on
from kdsearch.spec import (
    Assistants,
    Categorical,
    Ensemble,
    Float,
    Int,
    Stages,
    SweepSpec,
    TeacherSource,
)
from kdsearch.spec_dimensions import reachable
from kdsearch.teacher_phase import lay_out
from kdsearch.weights import WeightsError

TIMED_STEPS = 3
FRONT_FOR_EXAMPLE = 5  # students; how many there will be nobody knows
TO_TRAIN = "to be trained"
JOURNAL_BYTES_PER_EPOCH = 500  # an `epoch` line with three terms; curves.csv comes on top
STATES_PER_CHECKPOINT = 2  # weights and momentum


@dataclass(frozen=True)
class Built:
    """A network that was built and ran one batch. Seconds are of one step and of its forward pass alone."""

    family: str
    options: Mapping[str, Any]
    cost: Mapping[str, float]
    step_s: float
    forward_s: float

    def __str__(self) -> str:
        settings = " ".join(f"{name}={value:g}" for name, value in self.options.items())
        return (
            f"{self.family} {settings}: {count(self.cost['params'])} params, {count(self.cost['macs'])} MACs"
        )


def plan(spec: SweepSpec, output: Path) -> Iterator[str]:
    """The plan, line by line. Raises UsageError for what the sweep would stumble over."""
    images = load_data(spec)
    shape = f"{images.in_channels}x{images.image_size}x{images.image_size}"
    yield f"{spec.name}: a dry run, nothing is trained"
    yield (
        f"  data      {spec.data.dataset}: {len(images.train):,} training and {len(images.validation):,} "
        f"validation images of {shape}, {images.num_classes} classes"
    )
    more = images.unlabelled
    if more is not None:
        yield f"  unlabelled {more.words}, {more.ratio:g} beside each labelled one"
    lineup = lay_out(spec, cost_function(images))
    found = find_teachers(spec, images, lineup)
    torch.set_num_threads(num_threads(spec.resources.cpus_per_trial))
    batch_size = largest_batch(spec)
    built = [try_out(family, options, images, batch_size, spec) for family, options, _ in found]
    try:
        check_students(spec, cost_function(images))
        extremes = extreme_students(spec, cost_function(images))
    except ValueError as error:
        raise cli.UsageError(f"student: {error}") from None
    students = [try_out(one.name, one.options, images, batch_size, spec) for one in extremes]
    for part, network, (_, _, origin) in zip(lineup.parts, built, found, strict=True):
        above = "" if part.learns_from is None else f" by {part.learns_from or 'the teacher'}"
        named = f"{part.name}: " if part.name else ""
        yield f"  teacher   {named}{network}; {origin}{above if origin == TO_TRAIN else ''}"
    forward_s = slowest_teacher_s(spec.teacher, lineup, built)
    for name, student in zip(("smallest", "largest"), students, strict=False):
        step_ms = 1000 * (student.step_s + forward_s)
        yield f"  {name:9} {student}; {step_ms:.3g} ms a step of {batch_size} images"
    found_out = guards.of_spec(spec, images.num_classes)
    if not any(part.role == "assistant" for part in lineup.parts):
        largest = max(network.cost["params"] for network in built)
        found_out += guards.of_sizes(students[0].family, students[0].cost["params"], largest)
    warnings = [caution.text for caution in found_out]
    if torch.cuda.is_available() and not spec.resources.gpus_per_trial:
        warnings.append(GPUS_UNUSED)
    for text in warnings:
        yield f"  warning   {text}"
    edges = [count(edge) for edge in band_edges(spec, cost_function(images))]
    bands = ", ".join(f"{low} to {high}" for low, high in itertools.pairwise(edges))
    yield f"  bands     {bands} params"
    yield f"  searched  {', '.join(searched(spec)) or 'nothing: every value is fixed'}"

    num_peers = most_peers(spec)
    steps = -(-len(images.train) // batch_size)
    step_s = num_peers * statistics.mean(student.step_s for student in students)
    trial_s = spec.epochs * steps * (step_s + forward_s)
    trial_s *= 1 + (more.ratio if more else 0)  # each image costs what a labelled one does
    teacher_s = sum(
        part.network.train["epochs"] * steps * network.step_s
        for part, network, (_, _, origin) in zip(lineup.parts, built, found, strict=True)
        if origin == TO_TRAIN
    )
    whom = "the teacher" if len(lineup.parts) == 1 else f"{len(lineup.parts)} teachers"
    stages = {
        part.name: len(network_family(family).stages(options))
        for part, (family, options, _) in zip(lineup.parts, found, strict=True)
    }
    num_floor = len(floor_controls(spec, cost_function(images)))
    num_search, num_controls = count_trials(spec, lineup.stages(stages), num_floor)
    begin_with, left_out = warm_start.points(spec, lineup.stages(stages), lineup.settled)
    num_trials, slots = num_search + num_controls, local_slots(spec)
    seeds = f", {spec.search.seeds} seeds of each configuration" if spec.search.seeds > 1 else ""
    yield (
        f"  trials    {num_search} of up to {spec.epochs} epochs and {num_controls} controls "
        f"without distillation{seeds}; {slots} at once on this machine"
    )
    if spec.search.warm_start:
        yield f"  first     {len(begin_with)} students of earlier sweeps"
        yield from (f"            {line}" for line in left_out)
    yield f"  stopping  {stopping(spec)}"
    yield f"  outputs   {kept_outputs(spec)}"
    early_ends = budgets(spec)
    if early_ends:
        yield f"  budgets   the search ends before that {' or '.join(early_ends)}"
    if spec.confirm.seeds:
        yield f"  confirm   {confirmation(spec, trial_s / slots)}"
    yield (
        f"  time      about {duration(teacher_s)} for {whom} and {duration(trial_s)} for a full trial; "
        f"at most {duration(teacher_s + num_trials * trial_s / slots)} "
        f"{'before confirmation' if spec.confirm.seeds else 'in all'}, evaluation apart"
    )
    largest_mb = max(student.cost["size_mb"] for student in students)
    disk = num_trials * (num_peers * largest_mb + spec.epochs * JOURNAL_BYTES_PER_EPOCH / 1e6)
    disk += slots * STATES_PER_CHECKPOINT * num_peers * largest_mb
    disk += sum(network.cost["size_mb"] for network in built)
    yield f"  disk      at most {disk:,.0f} MB, most of it under {output}"


def confirmation(spec: SweepSpec, training_s: float) -> str:
    """What follows the search at most, and its time where one training takes so long: the front decides."""
    place, band = most_trainings(spec.confirm.seeds, tuning.most_points(spec))
    tune = NUM_BANDS * band
    words = (
        f"at most {place} further trainings for each student on the front, controls and contender included"
    )
    more = f", and {tune} to tune the controls" if tune else ""
    total_s = (FRONT_FOR_EXAMPLE * place + tune) * training_s
    return f"{words}{more}; with {FRONT_FOR_EXAMPLE} on the front at most {duration(total_s)}"


def count_trials(spec: SweepSpec, num_teacher_stages: Stages, num_floor: int) -> tuple[int, int]:
    """Search trials and controls. Raises UsageError where the sampler lists too many."""
    if not listing.is_listed(spec):
        return listing.num_search_trials(spec, num_teacher_stages), num_floor
    try:
        trials = listing.listed(spec, num_teacher_stages)
    except ValueError as error:
        raise cli.UsageError(f"search.sampler: {spec.search.sampler} lists {error}") from None
    num_search = sum(trial.role == "search" for trial in trials)
    return num_search, len(trials) - num_search


def find_teachers(
    spec: SweepSpec, images: ImageData, lineup: Lineup
) -> list[tuple[str, Mapping[str, Any], str]]:
    """What `find_teacher` says of every network; one that equals an earlier one is not trained again."""
    found: list[tuple[str, Mapping[str, Any], str]] = []
    names: dict[str, str] = {}  # by content
    for part in lineup.parts:
        own = teacher.with_network(spec, part.network)
        family, options, origin = find_teacher(own, images)
        first = names.setdefault(teacher.content_key(own, images), part.name)
        found.append((family, options, origin if first == part.name else f"the same as {first}"))
    return found


def find_teacher(spec: SweepSpec, images: ImageData) -> tuple[str, Mapping[str, Any], str]:
    """Family, options and where one network comes from. Raises UsageError for an unusable checkpoint."""
    network = teacher.network(spec)
    try:
        if network.checkpoint is not None:
            loaded = teacher.load_checkpoint_teacher(spec, images)
            return loaded.family, loaded.options, f"loaded, accuracy {loaded.report['accuracy']:.4f}"
        stored = teacher.find(teacher.content_key(spec, images), teacher.default_store())
    except (teacher.TeacherError, WeightsError) as error:
        raise cli.UsageError(str(error)) from None
    assert network.family is not None  # the spec has either
    origin = f"stored, accuracy {stored.report['accuracy']:.4f}" if stored else TO_TRAIN
    return network.family, network.options, origin


def slowest_teacher_s(source: TeacherSource, lineup: Lineup, built: Sequence[Built]) -> float:
    """Seconds of a forward pass of the slowest teacher that a trial can have."""
    seconds = {part.name: network.forward_s for part, network in zip(lineup.parts, built, strict=True)}
    totals = []
    for name, choice in spec_teacher.choices(source).items():
        own = [seconds[part.name] for part in lineup.parts if not name or part.name.split("/")[0] == name]
        is_average = isinstance(choice, Ensemble) or getattr(choice, "use", "") == "ensemble"
        totals.append(sum(own) if is_average else max(own))
    return max(totals)


def try_out(
    family: str, options: Mapping[str, Any], images: ImageData, batch_size: int, spec: SweepSpec
) -> Built:
    """Build a network and time training steps. Raises UsageError where the images do not suit it."""
    weightless = {**options, "pretrained": False} if "pretrained" in options else options
    try:
        model = build(family, weightless, images.num_classes, images.in_channels, images.image_size)
    except ValueError as error:
        raise cli.UsageError(str(error)) from None
    cost = measure(model, images.in_channels, images.image_size)
    device = device_policy("auto" if spec.resources.gpus_per_trial else "cpu").device  # where trials run
    views = Views(images.train, images.mean, images.std, spec.data.augment, device)
    batch = views.batch(torch.arange(batch_size, device=device) % len(images.train), 1, 0)
    model.to(device)
    steps, forwards = [], []
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        loss = F.cross_entropy(model(batch.images), batch.labels)
        loss.item()  # waits for the device
        forwards.append(time.perf_counter() - started)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        loss.item()
        steps.append(time.perf_counter() - started)
    return Built(family, options, cost, statistics.median(steps), statistics.median(forwards))


def largest_batch(spec: SweepSpec) -> int:
    size = spec.train["batch_size"]
    match size:
        case Categorical(choices):
            return max(int(choice) for choice in choices)
        case Int(_, high):
            return high
    return int(size)


def searched(spec: SweepSpec) -> list[str]:
    """Dotted names of everything that the sampler varies."""

    def within(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
        for name, value in values.items():
            if isinstance(value, Float | Int | Categorical):
                yield f"{prefix}.{name}"

    def slot(prefix: str, choices: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        if len(choices) > 1:
            yield prefix
        for name, options in choices.items():
            yield from within(f"{prefix}.{name}", options)

    names = [
        *searched_of_teacher(spec.teacher),
        *slot("student", spec.student),
        *within("distill", vars(spec.distill)),
    ]
    for name, choices in [*spec.distill.slots.items(), ("online", spec.distill.online)]:
        names += slot(f"distill.{name}", choices)
    names += slot("distill.schedule", spec.distill.schedule)
    names += slot("distill.curriculum", spec.distill.curriculum)
    return [*names, *within("train", spec.train)]


def most_peers(spec: SweepSpec) -> int:
    """How many students a trial trains at most."""
    searched = [options["peers"] for name, options in spec.distill.online.items() if name != "none"]
    return max((max(reachable(peers)) for peers in searched), default=1)


def searched_of_teacher(source: TeacherSource) -> Iterator[str]:
    named = spec_teacher.choices(source)
    if len(named) > 1:
        yield "teacher"
    for name, choice in named.items():
        prefix = f"teacher.{name}" if name else "teacher"
        if isinstance(choice, Assistants) and isinstance(choice.steps, Int | Categorical):
            yield f"{prefix}.steps"
        if isinstance(choice, Ensemble) and choice.weights == "searched":
            yield from (f"{prefix}.weights.{member}" for member in choice.of)


def kept_outputs(spec: SweepSpec) -> str:
    """For which methods the teacher's outputs are computed once and kept, and for which it runs live."""
    if not spec.resources.cache_gb or spec.data.unlabelled is not None:
        return "the teacher runs live in every trial"
    choices = [Choice(n, options) for slot in spec.distill.slots.values() for n, options in slot.items()]
    live = sorted(choice.name for choice in choices if choice.name != "none" and reads_maps(choice))
    apart = f"; trials with {', '.join(live)} read its maps and run it live" if live else ""
    return f"of the teacher, computed once and kept for all trials{apart}"


def stopping(spec: SweepSpec) -> str:
    early = spec.search.early_stopping
    if early.scheduler == "none":
        return "none: every trial runs its full budget"
    epochs, share = ", ".join(map(str, rungs(spec))), f"1/{early.reduction_factor}"
    if early.scheduler == "asha":
        return f"asha: at epochs {epochs} the best {share} so far go on"
    return (
        f"pareto: from epochs {epochs} on goes on what is near the front or in the best {share} of its size, "
        "unless it is below the same size without distillation or can no longer reach a smaller student"
    )


def budgets(spec: SweepSpec) -> list[str]:
    """What ends the search before its last trial."""
    search = spec.search
    limits = ((search.time_s, "searching"), (search.device_s, "epochs"))
    found = [f"after {duration(limit)} of {what}" for limit, what in limits if limit is not None]
    if search.hypervolume is not None:
        found.append(f"at a hypervolume of {search.hypervolume:g}")
    if search.patience is not None:
        found.append(f"after {search.patience:,} trials without a larger hypervolume")
    return found


def local_slots(spec: SweepSpec) -> int:
    """How many trials run at once here. Raises UsageError when not even one fits."""
    asked = spec.resources
    num_cpus, num_gpus = num_cores(), torch.cuda.device_count()
    gpus = asked.gpus_per_trial if num_gpus else 0.0
    slots = slots_on(num_cpus, num_gpus, asked.cpus_per_trial or float(not gpus), gpus)
    if slots < 1:
        raise cli.UsageError(
            f"resources: a trial asks for {asked.cpus_per_trial:g} CPU and {gpus:g} GPU; "
            f"this machine has {num_cpus} and {num_gpus}"
        )
    return min(slots, asked.max_concurrent or slots)
