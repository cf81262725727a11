"""One training, from a configuration to a student, in pure torch: no ray, no mlflow, no sweep.

Goes in: a `TrialConfig`, an `ImageData`, the augmentations and, where the configuration distils, the
teacher. Comes out: one `EpochResult` per `run_epoch()`, a state that resumes bit for bit, the student.

Same configuration, data, teacher, machine and versions: the same numbers to the last digit, in a fresh
process or in one that has trained before, in one go or resumed after any epoch. Nothing global is
changed (but what `kdsearch.device` says): initial weights come from (seed, "init"), learned loss parts from
(seed, "terms"), dropout from (seed, "epoch", epoch), the order from (seed, epoch) and the views from
(stream, epoch, sample).

CUDA uses channels_last and, where it can, bf16 autocast with float32 losses, and looks at the losses only now
and then; that path was written from the documentation and not run on a device.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.checkpoint import CheckpointError, State, load_checkpoint, write_state
from kdsearch.confidence import confidence, ranks
from kdsearch.curriculum import share_in
from kdsearch.data import ImageData
from kdsearch.data.pool import Pool
from kdsearch.data.views import Batch, Views, order
from kdsearch.device import NCHW, DevicePolicy, device_policy, narrowest_layer
from kdsearch.lessons import Kept, Lessons, outputs_of, stream_of
from kdsearch.loss_log import LossLog, NonFiniteLoss
from kdsearch.losses import METHODS
from kdsearch.losses.deployed import deployed
from kdsearch.losses.terms import Access, TermContext, build_terms, total_loss
from kdsearch.models.build import Classifier, Outputs, build
from kdsearch.models.classifier import DETAILS
from kdsearch.output_cache import Shelf
from kdsearch.records import Choice, EpochResult, TrialConfig
from kdsearch.schedules import now
from kdsearch.seeds import derived_seed, seeded
from kdsearch.update_rule import build_optimizer, learning_rate

__all__ = [
    "CheckpointError",
    "NonFiniteLoss",
    "Training",
    "build_optimizer",
    "derived_seed",
    "learning_rate",
    "load_checkpoint",
    "predict",
    "save_checkpoint",
    "seeded",
]

# Part of a stored teacher's key: raise it when the same configuration trains differently than before.
TRAINING_VERSION = 2
STRONG_STREAM = 1 << 19  # strongly augmented views are cropped and flipped in their own way
SMALLEST_BATCH = 2  # batch norm cannot normalise one sample: a last batch of one is left out of its epoch


class Training:
    """One student's training. `epoch` counts finished epochs; `student` is what is saved in the end.

    The teacher is touched only where the configuration has distillation terms or a curriculum. It is put
    into eval mode and gets no gradient. A curriculum asks it once about every training image, in `__init__`.
    Images without labels come in only where a method can learn from them: never in a control.
    Raises ValueError where a configuration cannot train on these data.
    `shelf` is where the teacher's outputs are kept and found; without one the teacher runs live, and the
    training is the same (`kdsearch.lessons`).
    `number` is that of a student which is trained with others (`kdsearch.mutual`), and `leader` the training
    of the first of them, whose images this one shares. `layout` is the student's on the CPU; the teacher's is
    always NCHW there, so that its outputs do not depend on who asks.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: ImageData,
        augment: Sequence[tuple[str, Mapping[str, Any]]] = (),
        teacher: Classifier | None = None,
        device: str = "cpu",
        *,
        shelf: Shelf | None = None,
        leader: Training | None = None,
        number: int = 1,
        layout: str = NCHW,
    ) -> None:
        where = device_policy(device).device
        methods = [METHODS[choice.name] for choice in config.distill.values()]
        judge = None if config.curriculum.name == "none" else teacher
        if judge is None and config.curriculum.name != "none":
            raise ValueError(f"curriculum {config.curriculum.name} needs a teacher, and none was given")
        if not any(method.teacher for method in methods):
            teacher = None
        elif teacher is None:
            raise ValueError(f"{', '.join(config.distill)} needs a teacher, and none was given")
        which = () if number == 1 else (number,)
        saved = deployed(config, None if teacher is None else Choice(*teacher.architecture[:2]))
        with seeded(where, config.seed, "init", *which):
            student = build(saved.name, saved.options, data.num_classes, data.in_channels, data.image_size)
        narrowest = [narrowest_layer(model) for model in (student, teacher) if model is not None]

        self.config = config
        self.epoch = 0
        self.policy = device_policy(device, narrowest_layer=narrowest[0], layout=layout)
        self._teacher_policy = device_policy(device, narrowest_layer=narrowest[-1])
        self.student = _placed(student, self.policy)
        if leader is None:
            self._views = Views(data.train, data.mean, data.std, augment, where)
            self._validation = Views(data.validation, data.mean, data.std, (), where)
            self._ranks = None if judge is None else self._ranked(judge)
        else:
            self._views, self._validation, self._ranks = leader._views, leader._validation, leader._ranks
        self._pool = None
        takes_unlabelled = any(method.takes_unlabelled for method in methods)
        if leader is None and data.unlabelled is not None and takes_unlabelled:
            self._pool = Pool(data.unlabelled, data.mean, data.std, augment, where, config.seed)
        self._num_batches = len(self._split(order(len(self._views), config.seed, 1)))
        if self._num_batches == 0:
            raise ValueError(
                f"batch_size {config.train.batch_size} on {len(self._views)} training images leaves no batch "
                f"of {SMALLEST_BATCH} or more"
            )
        needs = frozenset[str]().union(*(method.needs for method in methods))
        self._detailed = bool(needs & DETAILS)
        self._teacher = None if teacher is None else _placed(teacher, self._teacher_policy).eval()
        self._summaries: dict[str, Callable[[Outputs], Tensor]] = {}
        # Peers differ in width alone: what one of them reads of the teacher, and when, all do.
        self._lessons: Lessons | None = None if leader is None else leader._lessons
        if self._teacher is not None and leader is None:
            kept = None
            if shelf is not None and self._pool is None:
                kept = Kept(shelf, _identity(data, augment, self._teacher_policy), self._views)
            self._lessons = Lessons(
                config,
                self._teacher,
                self._teacher_policy,
                len(student.stages),
                self._further_view,
                self._summaries,
                kept,
            )
        with seeded(where, config.seed, "terms", *which):
            self._terms = build_terms(config, self._context(data.num_classes))
        learned = {slot: term for slot, (_, term) in self._terms.items() if isinstance(term, nn.Module)}
        self._learned = nn.ModuleDict(learned).to(where)
        parameters = [*self.student.parameters(), *self._learned.parameters()]
        # A classifier taken over from the teacher is no one's to train, or to decay.
        self._optimizer = build_optimizer(config.train, [p for p in parameters if p.requires_grad])

    @property
    def students(self) -> tuple[Classifier, ...]:
        """What is saved: one student, or the peers that were trained together."""
        return (self.student,)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.config.train.epochs

    def run_epoch(self, evaluate: bool = True) -> EpochResult:
        """Train one epoch and evaluate. Raises NonFiniteLoss; the training is of no further use then.

        Without `evaluate` there is no `val_accuracy` among the metrics; all else is the same to the last bit.
        """
        assert not self.finished, f"epoch {self.epoch + 1} of {self.config.train.epochs}"
        wall, cpu = time.perf_counter(), time.process_time()
        epoch, train = self.epoch + 1, self.config.train
        fill_s = 0.0 if self._lessons is None else self._lessons.open(epoch)
        losses = LossLog(epoch, self.policy.check_every)
        lr = train.lr
        self.student.train()
        self._learned.train()
        with seeded(self.policy.device, self.config.seed, "epoch", epoch):
            if self.epoch == 0:
                self._prepare()
            batches = self._batches(epoch)
            for index, batch in enumerate(self._seen(batches, epoch)):
                # A curriculum's epoch has fewer steps, and the learning rate its course over all epochs.
                step = self.epoch * self._num_batches + index * self._num_batches / len(batches)
                lr = learning_rate(train, step, self._num_batches)
                for group in self._optimizer.param_groups:
                    group["lr"] = lr
                loss, terms = self._loss(batch, epoch)
                losses.append(loss, terms, len(batches[index]))  # before the step: a bad loss moves no weight
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                self._optimizer.step()
        train_loss, means = losses.means()
        self.epoch = epoch
        metrics = {"train_loss": train_loss, "lr": lr}
        if evaluate:
            metrics["val_accuracy"] = self.evaluate()
        time_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        return EpochResult(epoch, metrics, means, time_s, cpu_s, fill_s)

    def evaluate(self) -> float:
        """The student's accuracy on the validation split, a fraction. Raises as `accuracies_on`."""
        return self._accuracy(self.student, self._validation, "validation")

    def accuracies_on(self, images: Views, name: str) -> tuple[float, ...]:
        """The accuracy of each of `students` on other images than it is validated on; `name` says which.

        Raises NonFiniteLoss where an output is not finite: argmax would call that a class.
        """
        return tuple(self._accuracy(student, images, name) for student in self.students)

    def _accuracy(self, student: Classifier, images: Views, name: str) -> float:
        logits = predict(student, images, self.policy)
        if not bool(torch.isfinite(logits).all()):
            raise NonFiniteLoss(self.epoch, self._num_batches, {f"{name} logits": math.nan})
        return (logits.argmax(dim=1) == images.labels).double().mean().item()

    def state_dict(self) -> State:
        """What a resumed training needs, as tensors and plain values: a copy, which later epochs leave alone.

        It is on the CPU: who gets it may have no GPU.
        """
        state = {
            "epoch": self.epoch,
            "student": self.student.state_dict(),
            "learned": self._learned.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        copied: State = _copied(state)
        return copied

    def load_state_dict(self, state: State) -> None:
        """Go on after the state's last epoch, as if never interrupted.

        Raises CheckpointError where it is not this training's; the training is of no further use then.
        """
        try:
            self.student.load_state_dict(state["student"])
            self._learned.load_state_dict(state["learned"])
            # torch keeps the tensors it is given: without the copy, training on would change the caller's
            self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        except (KeyError, RuntimeError, ValueError) as error:  # another version kept other tensors, say
            said = " ".join(str(error).split())
            raise CheckpointError(f"the checkpoint is of another training: {said}") from error
        self.epoch = state["epoch"]

    def _batches(self, epoch: int) -> list[Tensor]:
        """The epoch's samples in batches: all of them, or those that the curriculum has let in."""
        indices = order(len(self._views), self.config.seed, epoch)
        share = share_in(self.config, epoch)
        if self._ranks is not None and share < 1:
            indices = indices[self._ranks[indices] < share]
        return self._split(indices)

    def _seen(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """The batches' views, and behind them those of images without labels where a term can use them."""
        views = self._views.batches(batches, epoch, self.config.stream)
        if self._pool is None:
            yield from views
            return
        num_seen = self.epoch * len(self._views)  # labelled images, of full epochs and of this one
        for batch in views:
            positions = self._pool.beside(num_seen, len(batch.labels))
            num_seen += len(batch.labels)
            yield self._pool.join(batch, positions, epoch, self.config.stream, len(self._views))

    def _further_view(self, batch: Batch, epoch: int, number: int) -> Batch:
        """The batch's images once more, those without labels too; number 0 is the batch itself."""
        stream, num_labelled = stream_of(self.config, number), batch.num_labelled
        view = self._views.batch(batch.indices[:num_labelled], epoch, stream)
        if self._pool is None or num_labelled is None:
            return view
        positions = batch.indices[num_labelled:] - len(self._views)
        return self._pool.join(view, positions, epoch, stream, len(self._views))

    def _split(self, indices: Tensor) -> list[Tensor]:
        batches = torch.split(indices, self.config.train.batch_size)
        return [indices for indices in batches if len(indices) >= SMALLEST_BATCH]

    def _ranked(self, judge: Classifier) -> Tensor:
        """Where each training sample stands in its class by the teacher's confidence, [N] on the CPU."""
        easy_first = self.config.curriculum.options.get("order", "easy_to_hard") == "easy_to_hard"
        logits = predict(_placed(judge, self._teacher_policy), self._views, self._teacher_policy)
        return ranks(confidence(logits), self._views.labels, easy_first).cpu()

    def _context(self, num_classes: int) -> TermContext:
        student, teacher = self.student, self._teacher or self.student
        return TermContext(
            student_stages=student.stages,
            teacher_stages=teacher.stages,
            student_features=student.num_features,
            teacher_features=teacher.num_features,
            num_classes=num_classes,
            scheduled_temperature=lambda epoch: now(self.config, epoch).temperature,
            num_samples=len(self._views),
            num_epochs=self.config.train.epochs,
            batch_size=min(self.config.train.batch_size, len(self._views)),
            summaries=self._summaries,
            label_smoothing=self.config.train.label_smoothing,
            access=Access(
                student=self._student_outputs,
                teacher=self._teacher_outputs,
                view=lambda indices, epoch, number: self._views.batch(
                    indices, epoch, stream_of(self.config, number)
                ),
                strong=self._strong_view,
                labels=self._views.labels,
                student_model=student,
                teacher_model=None if self._teacher is None else self._teacher.network,
            ),
        )

    def _prepare(self) -> None:
        """Let every term that has a part to train on its own do so, on the first epoch's batches."""
        for _, term in self._terms.values():
            prepare = getattr(term, "prepare", None)
            if prepare is not None:
                prepare(_FirstEpoch(self))

    def _strong_view(self, indices: Tensor, epoch: int) -> Batch:
        return self._views.strong(indices, epoch, self.config.stream + STRONG_STREAM)

    def _loss(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        student = self._student_outputs(batch.images)
        return total_loss(self.config, self._terms, student, self._taught(batch, epoch), batch, epoch)

    def _taught(self, batch: Batch, epoch: int) -> Outputs | None:
        return None if self._lessons is None else self._lessons.outputs(batch, epoch)

    def _student_outputs(self, images: Tensor) -> Outputs:
        return outputs_of(self.student, images, self.policy, self._detailed)

    def _teacher_outputs(self, images: Tensor) -> Outputs:
        assert self._lessons is not None, "a term that reads the teacher says so in METHODS"
        return self._lessons.live(images)


class _FirstEpoch:
    """The first epoch's batches, made anew for whoever goes through them: memory may not hold them all."""

    def __init__(self, training: Training) -> None:
        self._training = training

    def __iter__(self) -> Iterator[Batch]:
        training = self._training
        return training._views.batches(training._batches(1), 1, training.config.stream)


def _identity(
    data: ImageData, augment: Sequence[tuple[str, Mapping[str, Any]]], policy: DevicePolicy
) -> dict[str, Any]:
    """What decides a teacher's outputs, apart from the teacher, the stream and the epoch."""
    return {
        "data": data.key,
        "dataset": data.name,
        "augment": [[name, dict(options)] for name, options in augment],
        "device": policy.device.type,
        "precision": str(policy.autocast or torch.float32),
    }


def _copied(value: Any) -> Any:
    """A state's tensors as copies on the CPU, in containers of its own."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value


def _placed(model: Classifier, policy: DevicePolicy) -> Classifier:
    """The model where the policy computes. A warm worker's teacher is there already, hundreds of tensors."""
    if next(model.parameters()).device == policy.device and policy.memory_format is torch.contiguous_format:
        return model  # as it was built, or loaded
    return model.to(policy.device).to(memory_format=policy.memory_format)


@torch.no_grad()
def predict(model: Classifier, views: Views, policy: DevicePolicy) -> Tensor:
    """Logits [N, K] of every image as it is, in their order; the model is left in eval mode.

    In float32 throughout, as whoever loads the saved student computes them.
    """
    model.eval()
    policy = dataclasses.replace(policy, autocast=None)
    batches = torch.split(torch.arange(len(views)), policy.eval_batch(views.images.shape[-1]))
    return torch.cat([outputs_of(model, views.plain(indices).images, policy).logits for indices in batches])


def save_checkpoint(path: Path, training: Training) -> str:
    """Write a training's state; see `kdsearch.checkpoint`. Returns the file's sha256."""
    return write_state(path, training.state_dict())
