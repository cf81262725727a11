"""The teacher: trained once and kept, or loaded from a checkpoint, measured in either case.

Goes in: a `SweepSpec` and its `ImageData`. Comes out: a `Teacher`, weights and a report of what it can
do, which builds a network that never learns. Stored teachers live under `<store>/teachers/<key>/` as
teacher.safetensors and teacher.json; the key covers everything that decides the weights, so a change of
data, recipe or seed trains anew. Every read is verified; a damaged teacher is trained again, never used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors.numpy
import torch
from torch import Tensor

from kdsearch.calibration import quality
from kdsearch.checkpoint import (
    CheckpointError,
    State,
    load_checkpoint,
    sync_folder,
    write_atomically,
    write_state,
)
from kdsearch.data import AUGMENT_VERSION, ImageData
from kdsearch.data.views import Views
from kdsearch.device import device_policy
from kdsearch.models.build import Architecture, Classifier, Outputs, cost, load_weights, weightless
from kdsearch.records import Choice, EpochResult, TrainConfig, TrialConfig
from kdsearch.spec import SweepSpec
from kdsearch.training import TRAINING_VERSION, NonFiniteLoss, Training, predict
from kdsearch.weights import (
    Weights,
    WeightsError,
    check_sizes,
    fitted,
    read_description,
    read_file,
    read_weights,
    to_arrays,
    weights_file,
    words,
)

logger = logging.getLogger(__name__)

Epoch = tuple[EpochResult, State | None]  # with a state to go on from, now and then
Trainer = Callable[[SweepSpec, ImageData, State | None], Iterator[Epoch]]

STATE_EVERY_S = 30.0  # what a crash may cost


class TeacherError(ValueError):
    """The teacher cannot be loaded, did not train or is not good enough; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network's weights and what was measured of it. The weights are numpy: Ray shares them uncopied.

    `report`: accuracy, ece, nll, entropy {temperature: nats} on the validation split; params, macs,
    size_mb; epochs, time_s, cpu_s, curve (validation accuracy by epoch), still_improving; source
    (trained, stored or loaded).
    """

    key: str
    family: str
    options: Mapping[str, Any]
    num_classes: int
    in_channels: int
    image_size: int
    weights: Weights
    report: Mapping[str, Any]

    def build(self, device: str = "cpu") -> Classifier:
        """The network, in eval mode for ever and without gradients."""
        sizes = (self.num_classes, self.in_channels, self.image_size)
        model = weightless(Architecture(self.family, self.options, *sizes))
        weights = {name: torch.tensor(array) for name, array in self.weights.items()}
        load_weights(model, weights, source="the teacher")
        return Frozen(model).to(torch.device(device))


class Frozen(Classifier):
    """A classifier that never learns: `train()` and `requires_grad_()` leave it as it is."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model.architecture, model.stages, model.num_features)
        self.model = model.eval().requires_grad_(False)
        self.training = False

    def outputs(self, images: Tensor, detailed: bool = False) -> Outputs:
        return self.model.outputs(images, detailed)

    def train(self, mode: bool = True) -> Self:
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        return self


def default_store() -> Path:
    """`$KDSEARCH_HOME`, else ~/.cache/kdsearch."""
    home = os.environ.get("KDSEARCH_HOME")
    return Path(home) if home else Path.home() / ".cache" / "kdsearch"


def content_key(spec: SweepSpec, data: ImageData) -> str:
    """sha256 over everything that decides the teacher: its data, augmentation, network, recipe and seed.

    For a checkpoint: over the data and the file's content. Raises WeightsError where it cannot be read.
    """
    teacher = spec.teacher
    parts: dict[str, Any] = {"data": data.key, "family": teacher.family, "options": dict(teacher.options)}
    if teacher.checkpoint is not None:
        content = read_file(weights_file(Path(teacher.checkpoint).expanduser()))
        parts["checkpoint"] = hashlib.sha256(content).hexdigest()
    else:
        parts["augment"] = [AUGMENT_VERSION, spec.data.augment]
        parts["train"] = dataclasses.asdict(trial_config(spec).train)
        parts["seed"] = teacher.seed
        parts["training_version"] = TRAINING_VERSION
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def trial_config(spec: SweepSpec) -> TrialConfig:
    """The teacher's own training, a training like any student's, without distillation."""
    teacher = spec.teacher
    assert teacher.family is not None, "a checkpoint that brings its family is not trained"
    train = TrainConfig(**{**teacher.train, "milestones": tuple(teacher.train.get("milestones", ()))})
    return TrialConfig(student=Choice(teacher.family, teacher.options), train=train, seed=teacher.seed)


def prepare(
    spec: SweepSpec,
    data: ImageData,
    store: Path | None = None,
    progress: Callable[[EpochResult, int], None] | None = None,
    trainer: Trainer | None = None,
    device: str = "auto",
) -> Teacher:
    """The spec's teacher: loaded where it names a checkpoint, else found in the store, else trained and kept.

    `progress` is called with each epoch's result and the number of epochs; `trainer` does what `train`
    does, somewhere else. An interrupted training goes on from its last kept state. Raises TeacherError.
    """
    if spec.teacher.checkpoint is not None:
        return load_checkpoint_teacher(spec, data, device)
    store = default_store() if store is None else store
    key = content_key(spec, data)
    stored = find(key, store)
    if stored is not None:
        return stored
    state = find_partial(key, store)
    epochs = train(spec, data, device, state) if trainer is None else trainer(spec, data, state)
    for result, new_state in epochs:
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
    state_every_s: float = STATE_EVERY_S,
) -> Iterator[Epoch]:
    """Train the teacher epoch by epoch; with a state, go on after it, bit for bit.

    Yields each epoch's result, with a state to go on from about every `state_every_s` seconds and always
    with the last one: `finish` makes the teacher of that. Raises TeacherError where the training diverges.
    """
    config = trial_config(spec)
    try:
        training = Training(config, data, spec.data.augment, teacher=None, device=device)
    except ValueError as error:
        raise TeacherError(f"the teacher cannot be trained: {error}") from error
    curve: list[float] = []
    time_s = cpu_s = 0.0
    if state is not None:
        training.load_state_dict(state["training"])
        curve, time_s, cpu_s = list(state["curve"]), state["time_s"], state["cpu_s"]
    kept = time.monotonic()
    while not training.finished:
        try:
            result = training.run_epoch()
        except NonFiniteLoss as error:
            raise TeacherError(
                f"the teacher's training diverged ({error}); lower teacher.train.lr ({config.train.lr:g}) "
                f"or raise teacher.train.warmup_epochs ({config.train.warmup_epochs})"
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
    model = weightless(_network(config.student.name, config.student.options, data))
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
    teacher = spec.teacher
    assert teacher.checkpoint is not None, "the spec names a checkpoint"
    try:
        file = weights_file(Path(teacher.checkpoint).expanduser())
        if teacher.family is not None:
            model = weightless(_network(teacher.family, teacher.options, data))
        else:
            description = read_description(file)
            model = weightless(_network(description["family"], description["options"], data))
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
    }
    return _measured(content_key(spec, data), model, weights, history, data, device)


def save(teacher: Teacher, store: Path) -> Path:
    """Keep a teacher; the folder appears whole or not at all. Returns the folder. Raises OSError.

    A sound one under the same key, from a sweep that was faster, stays; a damaged one is replaced.
    """
    folder = _folder(teacher.key, store)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    content = safetensors.numpy.save(teacher.weights)
    fields = {field.name: getattr(teacher, field.name) for field in dataclasses.fields(teacher)}
    del fields["weights"]
    fields |= {"options": dict(teacher.options), "sha256": hashlib.sha256(content).hexdigest()}
    try:
        write_atomically(draft / "teacher.safetensors", content)
        write_atomically(draft / "teacher.json", (json.dumps(fields, indent=2) + "\n").encode())
        if not _is_sound(teacher.key, store):
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(draft, folder)
            sync_folder(folder.parent)
    except OSError:
        if not _is_sound(teacher.key, store):  # else another sweep was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    shutil.rmtree(_partial_folder(teacher.key, store), ignore_errors=True)
    return folder


def find(key: str, store: Path) -> Teacher | None:
    """The stored teacher, verified; None where there is none, or, with a warning, where it is damaged."""
    try:
        return _stored(key, store) if _folder(key, store).exists() else None
    except WeightsError as error:
        logger.warning("the stored teacher is damaged and will be trained again: %s", error)
        return None


def save_partial(key: str, state: State, store: Path) -> None:
    """Keep the state of a teacher in training; the previous one is dropped once this one is on disk."""
    folder = _partial_folder(key, store)
    file = folder / f"epoch-{state['training']['epoch']}.pt"
    sha256 = write_state(file, state)
    write_atomically(folder / "state.json", json.dumps({"file": file.name, "sha256": sha256}).encode())
    for other in folder.glob("epoch-*.pt"):
        if other != file:
            other.unlink(missing_ok=True)


def find_partial(key: str, store: Path) -> State | None:
    """The last kept state of an interrupted training; None, with a warning, where it is damaged."""
    folder = _partial_folder(key, store)
    if not (folder / "state.json").exists():
        return None
    try:
        index = json.loads((folder / "state.json").read_bytes())
        return load_checkpoint(folder / index["file"], index["sha256"])
    except (CheckpointError, OSError, KeyError, TypeError, ValueError) as error:
        logger.warning("the teacher's training begins again, its kept state is damaged: %s", error)
        return None


def check_converged(teacher: Teacher, spec: SweepSpec) -> None:
    """Raise TeacherError where the teacher misses `teacher.min_accuracy`, with what to do about it."""
    asked, reached = spec.teacher.min_accuracy, teacher.report["accuracy"]
    if asked is None or reached >= asked:
        return
    if teacher.report["source"] == "loaded":
        advice = "check that its classes are in the data's order and that it was trained on such images"
    elif teacher.report["still_improving"]:
        advice = f"it was still improving: raise teacher.train.epochs ({teacher.report['epochs']})"
    else:
        advice = "it had stopped improving: change teacher.train.lr or choose a larger teacher"
    raise TeacherError(
        f"the teacher reached {reached:.4f} validation accuracy, teacher.min_accuracy asks for {asked:g}; "
        f"{advice}, or lower teacher.min_accuracy"
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


def _folder(key: str, store: Path) -> Path:
    return store / "teachers" / key


def _partial_folder(key: str, store: Path) -> Path:
    return store / "teachers" / f"{key}.partial"


def _stored(key: str, store: Path) -> Teacher:
    """Raises WeightsError where anything is missing, damaged or another teacher's."""
    file = _folder(key, store) / "teacher.safetensors"
    description = read_description(file)
    weights = read_weights(file)
    try:
        del description["sha256"]
        description["report"]["source"] = "stored"
        teacher = Teacher(weights=weights, **description)
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{file.with_suffix('.json')}: damaged, it does not describe a teacher") from error
    if teacher.key != key:
        raise WeightsError(f"{file.with_suffix('.json')}: describes another teacher")
    return teacher


def _is_sound(key: str, store: Path) -> bool:
    try:
        return bool(_stored(key, store))
    except WeightsError:
        return False


@contextlib.contextmanager
def _keeping(what: str) -> Iterator[None]:
    """A store that cannot be written costs the next sweep some training, not this one its teacher."""
    try:
        yield
    except OSError as error:
        logger.warning("%s could not be kept: %s", what, error)


def _network(family: str, options: Mapping[str, Any], data: ImageData) -> Architecture:
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
    network = model.architecture
    teacher = Teacher(key, *network, weights, report={})
    policy = device_policy(device)
    views = Views(data.validation, data.mean, data.std, (), policy.device)
    logits = predict(teacher.build(str(policy.device)), views, policy).cpu()
    if not bool(torch.isfinite(logits).all()):
        raise TeacherError(f"the teacher ({network.family}) puts out infinite or NaN on validation images")
    report = {**quality(logits, views.labels.cpu()), **cost(*network), **history}
    return dataclasses.replace(teacher, report=report)
