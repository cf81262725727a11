"""One teacher: trained once and kept, or loaded from a checkpoint, measured in either case.

Goes in: a `SweepSpec` whose teacher is one network, its `ImageData` and, where it learns from another, that
teacher. Comes out: a `Teacher`, weights and a report of what it can do. The key covers everything that
decides the weights, so a change of data, recipe, seed or of its own teacher trains anew. Every read of the
store is verified; a damaged teacher is trained again, never used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdsearch.calibration import quality
from kdsearch.checkpoint import State
from kdsearch.data import AUGMENT_VERSION, ImageData
from kdsearch.data.views import Views
from kdsearch.device import device_policy
from kdsearch.home import default_store
from kdsearch.models.build import Architecture, Classifier, cost, weightless
from kdsearch.records import Choice, EpochResult, TrainConfig, TrialConfig
from kdsearch.spec import SweepSpec, TeacherSpec
from kdsearch.teacher_model import Frozen, Teacher
from kdsearch.teacher_store import find, find_partial, remembered, save, save_partial
from kdsearch.training import TRAINING_VERSION, CheckpointError, NonFiniteLoss, Training, predict
from kdsearch.weights import (
    Weights,
    check_sizes,
    fitted,
    read_description,
    read_file,
    read_weights,
    to_arrays,
    weights_file,
    words,
)

__all__ = [
    "Epoch",
    "Frozen",
    "Teacher",
    "TeacherError",
    "Trainer",
    "check_converged",
    "content_key",
    "default_store",
    "describe",
    "find",
    "find_partial",
    "finish",
    "load_checkpoint_teacher",
    "network",
    "prepare",
    "remembered",
    "save",
    "save_partial",
    "still_improving",
    "summarised",
    "train",
    "trial_config",
    "validated",
    "with_network",
]

logger = logging.getLogger(__name__)

Epoch = tuple[EpochResult, State | None]  # with a state to go on from, now and then
Trainer = Callable[[SweepSpec, ImageData, State | None, Teacher | None], Iterator[Epoch]]

STATE_EVERY_S = 30.0  # what a crash may cost
LESSON = ("temperature", "alpha", "label_weight")


class TeacherError(ValueError):
    """The teacher cannot be loaded, did not train or is not good enough; the message says what to do."""


def network(spec: SweepSpec) -> TeacherSpec:
    """The one network that is the spec's teacher."""
    assert isinstance(spec.teacher, TeacherSpec), "several teachers are prepared one by one"
    return spec.teacher


def with_network(spec: SweepSpec, teacher: TeacherSpec) -> SweepSpec:
    """The spec with this network as its teacher."""
    return dataclasses.replace(spec, teacher=teacher)


def content_key(spec: SweepSpec, data: ImageData) -> str:
    """sha256 over everything that decides the teacher: its data, augmentation, network, recipe and seed.

    For a checkpoint: over the data and the file's content; for one that learns from another: over that one's
    key, too. Raises WeightsError where a file cannot be read.
    """
    teacher = network(spec)
    parts: dict[str, Any] = {"data": data.key, "family": teacher.family, "options": dict(teacher.options)}
    if teacher.checkpoint is not None:
        content = read_file(weights_file(Path(teacher.checkpoint).expanduser()))
        parts["checkpoint"] = hashlib.sha256(content).hexdigest()
    else:
        parts["augment"] = [AUGMENT_VERSION, spec.data.augment]
        parts["train"] = dataclasses.asdict(trial_config(spec).train)
        parts["seed"] = teacher.seed
        parts["training_version"] = TRAINING_VERSION
    if teacher.learns_from is not None:
        lesson = {name: getattr(teacher.learns_from, name) for name in LESSON}
        parts["lesson"] = lesson | {"key": content_key(with_network(spec, teacher.learns_from.teacher), data)}
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def trial_config(spec: SweepSpec) -> TrialConfig:
    """The teacher's own training, like any student's: with kd where it learns from another, else without."""
    teacher = network(spec)
    assert teacher.family is not None, "a checkpoint that brings its family is not trained"
    train = TrainConfig(**{**teacher.train, "milestones": tuple(teacher.train.get("milestones", ()))})
    config = TrialConfig(student=Choice(teacher.family, teacher.options), train=train, seed=teacher.seed)
    if teacher.learns_from is None:
        return config
    lesson = {name: getattr(teacher.learns_from, name) for name in LESSON}
    return dataclasses.replace(config, distill={"response": Choice("kd")}, **lesson)


def prepare(
    spec: SweepSpec,
    data: ImageData,
    store: Path | None = None,
    progress: Callable[[EpochResult, int], None] | None = None,
    trainer: Trainer | None = None,
    device: str = "auto",
    above: Teacher | None = None,
) -> Teacher:
    """The spec's teacher: loaded where it names a checkpoint, else found in the store, else trained and kept.

    `progress` is called with each epoch's result and the number of epochs; `trainer` does what `train`
    does, somewhere else; `above` is whom it learns from. An interrupted training goes on from its last kept
    state. Raises TeacherError.
    """
    if network(spec).checkpoint is not None:
        return load_checkpoint_teacher(spec, data, device)
    store = default_store() if store is None else store
    key = content_key(spec, data)
    stored = find(key, store)
    if stored is not None:
        return stored
    state = find_partial(key, store)
    num_kept = 0 if state is None else len(state["curve"])
    epochs = train(spec, data, device, state, above) if trainer is None else trainer(spec, data, state, above)
    for result, new_state in epochs:
        if num_kept and result.epoch == 1:
            logger.warning("the teacher's training begins again, its kept state is of another version")
        if new_state is not None:
            state = new_state
            with _keeping("the state of the teacher's training"):
                save_partial(key, state, store)
        if progress is not None:
            progress(result, trial_config(spec).train.epochs)
    assert state is not None, "training ends with a state"
    teacher = finish(spec, data, state, device)
    with _keeping("the teacher"):
        save(teacher, store)
    return teacher


def train(
    spec: SweepSpec,
    data: ImageData,
    device: str = "auto",
    state: State | None = None,
    above: Teacher | None = None,
    state_every_s: float = STATE_EVERY_S,
) -> Iterator[Epoch]:
    """Train the teacher epoch by epoch, by `above` if it learns from one; with a state, go on bit for bit.

    Yields each epoch's result, with a state to go on from about every `state_every_s` seconds and always
    with the last one: `finish` makes the teacher of that. Raises TeacherError where the training diverges.
    """
    config = trial_config(spec)
    try:
        teacher = None if above is None else above.build(str(device_policy(device).device))
        training = Training(config, data, spec.data.augment, teacher, device)
    except ValueError as error:
        raise TeacherError(f"the teacher cannot be trained: {error}") from error
    curve: list[float] = []
    time_s = cpu_s = 0.0
    if state is not None:
        try:
            training.load_state_dict(state["training"])
        except CheckpointError:  # `prepare` says so: this may be another process
            del training  # part of the state may be in it
            yield from train(spec, data, device, None, above, state_every_s)
            return
        curve, time_s, cpu_s = list(state["curve"]), state["time_s"], state["cpu_s"]
    kept = time.monotonic()
    while not training.finished:
        try:
            result = training.run_epoch()
        except NonFiniteLoss as error:
            raise TeacherError(
                f"the teacher's training diverged ({error}); lower the lr ({config.train.lr:g}) or raise "
                f"the warmup_epochs ({config.train.warmup_epochs}) of its recipe, in the spec below its "
                f"family: {config.student.name}: {{train: ...}}"
            ) from error
        curve.append(result.metrics["val_accuracy"])
        time_s, cpu_s = time_s + result.time_s, cpu_s + result.cpu_s
        new_state: State | None = None
        if training.finished or time.monotonic() - kept >= state_every_s:
            new_state = {
                "training": training.state_dict(),
                "curve": list(curve),
                "time_s": time_s,
                "cpu_s": cpu_s,
            }
            kept = time.monotonic()
        yield result, new_state


def finish(spec: SweepSpec, data: ImageData, state: State, device: str = "auto") -> Teacher:
    """The teacher of a finished training's last state, measured on the validation split."""
    config = trial_config(spec)
    model = weightless(_architecture(config.student.name, config.student.options, data))
    history = {
        "source": "trained",
        "epochs": config.train.epochs,
        "time_s": state["time_s"],
        "cpu_s": state["cpu_s"],
        "curve": state["curve"],
        "still_improving": still_improving(state["curve"], len(data.validation)),
    }
    weights = to_arrays(state["training"]["student"])
    return _measured(content_key(spec, data), model, weights, history, data, device)


def load_checkpoint_teacher(spec: SweepSpec, data: ImageData, device: str = "auto") -> Teacher:
    """The teacher from `spec.teacher.checkpoint`, measured on these data.

    A folder that kdsearch wrote, or its .safetensors, brings family and options along; any other file needs
    them in the spec. Images come in with the data's mean and std, whatever the checkpoint was trained with.
    Raises TeacherError where it cannot be read or does not fit the data or the family.
    """
    teacher = network(spec)
    assert teacher.checkpoint is not None, "the spec names a checkpoint"
    description: Mapping[str, Any] = {}
    try:
        file = weights_file(Path(teacher.checkpoint).expanduser())
        if teacher.family is not None:
            model = weightless(_architecture(teacher.family, teacher.options, data))
        else:
            description = read_description(file)
            model = weightless(_architecture(description["family"], description["options"], data))
            check_sizes(description["num_classes"], description["in_channels"], model, file)
            if description["image_size"] != data.image_size:
                logger.warning(
                    "%s was trained on images %d pixels wide, the data's have %d",
                    *(file, description["image_size"], data.image_size),
                )
        weights = fitted(read_weights(file), model, file)
    except ValueError as error:  # WeightsError, or a network that cannot be built for such images
        advice = "" if teacher.family else "; for weights made elsewhere name their family and options too"
        raise TeacherError(f"teacher.checkpoint: {error}{advice}") from error
    history = {
        "source": "loaded",
        "epochs": 0,
        "time_s": 0.0,
        "cpu_s": 0.0,
        "curve": [],
        "still_improving": False,
        **{name: _normalisation(description, name) for name in ("mean", "std")},
    }
    return _measured(content_key(spec, data), model, weights, history, data, device)


def _normalisation(description: Mapping[str, Any], name: str) -> list[float] | None:
    """What a checkpoint says of its images: a student under `description`, a teacher in its report."""
    told = description.get("description") or description.get("report") or {}
    found = told.get(name)
    return None if found is None else [float(value) for value in found]


def check_converged(teacher: Teacher, asked: float | None, recipe: str = "") -> None:
    """Raise TeacherError where the teacher misses `teacher.min_accuracy`, with what to do about it.

    `recipe` says where the spec has what it was trained by.
    """
    reached = teacher.report["accuracy"]
    if asked is None or reached >= asked:
        return
    if teacher.report["source"] == "loaded":
        advice = "check that its classes are in the data's order and that it was trained on such images"
    elif teacher.report["source"] == "combined":
        advice = "train its networks for longer or choose larger ones"
    elif teacher.report["still_improving"]:
        advice = f"it was still improving: raise {recipe}.epochs ({teacher.report['epochs']})"
    else:
        advice = f"it had stopped improving: change {recipe}.lr or choose a larger teacher"
    raise TeacherError(
        f"the teacher reached {reached:.4f} validation accuracy, teacher.min_accuracy asks for {asked:g}; "
        f"{advice}, or lower teacher.min_accuracy and --resume"
    )


def describe(teacher: Teacher) -> list[str]:
    """The teacher in a few lines for the terminal."""
    report, params = teacher.report, teacher.report["params"]
    softened = ", ".join(f"T={temperature} {nats:.2f}" for temperature, nats in report["entropy"].items())
    most = math.log(teacher.num_classes)
    lines = [
        f"{teacher.family} ({words(teacher.options)})",
        f"{params:,} parameters, {report['macs']:,} MACs, {report['size_mb']:.2f} MB",
        f"validation accuracy {report['accuracy']:.4f} ({_origin(report)})",
        f"calibration error {report['ece']:.4f} (15 bins), negative log-likelihood {report['nll']:.4f}",
        f"entropy of the softened output, of at most {most:.2f} nats: {softened}",
        f"compression 10 means {params // 10:,} parameters, compression 100 means {params // 100:,}",
    ]
    if report["still_improving"]:
        lines.append("it was still improving when its training ended: more epochs would help")
    if report["accuracy"] < 2 / teacher.num_classes:
        lines.append("that is close to chance: a wrong checkpoint, order of classes or preprocessing?")
    return lines


def summarised(teacher: Teacher) -> str:
    """The teacher in one line."""
    report = teacher.report
    network = f"{teacher.family} ({words(teacher.options)}), {report['params']:,} parameters"
    return f"{network}, validation accuracy {report['accuracy']:.4f} ({_origin(report)})"


def still_improving(curve: Sequence[float], num_validation: int) -> bool:
    """Whether the last tenth of the epochs beat everything before by more than a standard error.

    The standard error is that of an accuracy on so many images; a smaller gain is no sign of anything.
    """
    last = max(1, len(curve) // 10)
    before, after = curve[:-last], curve[-last:]
    if not before:
        return True
    best = max(after)
    return best - max(before) > math.sqrt(best * (1 - best) / num_validation)


def _origin(report: Mapping[str, Any]) -> str:
    if report["source"] == "loaded":
        return "loaded from a checkpoint"
    return f"{report['source']}, {report['epochs']} epochs in {report['time_s']:.0f} s"


@contextlib.contextmanager
def _keeping(what: str) -> Iterator[None]:
    """A store that cannot be written costs the next sweep some training, not this one its teacher."""
    try:
        yield
    except OSError as error:
        logger.warning("%s could not be kept: %s", what, error)


def _architecture(family: str, options: Mapping[str, Any], data: ImageData) -> Architecture:
    return Architecture(family, options, data.num_classes, data.in_channels, data.image_size)


def _measured(
    key: str,
    model: Classifier,
    weights: Weights,
    history: Mapping[str, Any],
    data: ImageData,
    device: str,
) -> Teacher:
    """The teacher with its report. Raises TeacherError where its outputs are not finite."""
    teacher = Teacher(key, *model.architecture, weights, report={})
    model = teacher.build(str(device_policy(device).device))
    known = {"mean": list(data.mean), "std": list(data.std)}
    report = {**validated(model, data, device), **cost(*model.architecture), **known, **history}
    return dataclasses.replace(teacher, report=report)


def validated(model: Classifier, data: ImageData, device: str = "auto") -> dict[str, Any]:
    """Accuracy and calibration of a teacher on the validation split, at temperature 1.

    Raises TeacherError where its outputs are not finite.
    """
    policy = device_policy(device)
    views = Views(data.validation, data.mean, data.std, (), policy.device)
    logits = predict(model.to(policy.device), views, policy).cpu()
    if not bool(torch.isfinite(logits).all()):
        family = model.architecture.family
        raise TeacherError(f"the teacher ({family}) puts out infinite or NaN on validation images")
    return quality(logits, views.labels.cpu())
