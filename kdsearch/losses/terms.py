"""From a trial's choices to one number to minimise: the weighted sum of all loss terms, written once.

Goes in: a `TrialConfig` and a `TermContext` (what the two networks publish). Comes out: `build_terms`, the
terms with their weights, and `total_loss`,

    L = label_weight * CE + alpha * response + sum of weight_i * term_i.

A term is called as `term(student, teacher, batch, epoch)` with the outputs of both networks on the same
batch and the epoch counted from 1. It returns named scalars that add up to the method's loss, mostly one,
without the slot's weight. A method with something to learn or to remember is an `nn.Module`, any other a
plain function: what it learns are parameters, what it remembers buffers, and both are checkpointed. A module
with a method `prepare(batches)` may go through the first epoch's batches before the first step, as often as
it likes, to train a part of its own. What a term needs beyond the two outputs it asks of `context.access`
when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsearch import layer_map
from kdsearch.data.views import Batch
from kdsearch.losses import METHODS
from kdsearch.losses.alone import epochs_alone, slots_in_force
from kdsearch.models.build import Classifier, Outputs, Stage
from kdsearch.models.classifier import SUMMARIES
from kdsearch.records import TrialConfig
from kdsearch.schedules import now

Term: TypeAlias = Callable[[Outputs, Outputs, Batch, int], dict[str, Tensor]]
Terms: TypeAlias = Mapping[str, tuple[float, Term]]  # slot -> (weight, term)


# In place of the teacher's outputs where no term reads them.
NO_OUTPUTS = Outputs(torch.empty(0), {}, torch.empty(0))


@dataclass(frozen=True)
class Access:
    """What a term may ask of the training it is part of.

    `student` and `teacher` run a network on images, in detail, the student with gradient and as it stands
    (batch norm included), the teacher without; `view(indices, epoch, number)` is a further view of the
    samples, number 1, 2, ... beside the batch's own 0, `strong(indices, epoch)` a strongly augmented one;
    `labels` [N] are those of all training samples, `teacher_model` is None where there is no teacher, and the
    leading network where there are several.
    """

    student: Callable[[Tensor], Outputs]
    teacher: Callable[[Tensor], Outputs]
    view: Callable[[Tensor, int, int], Batch]
    strong: Callable[[Tensor, int], Batch]
    labels: Tensor
    student_model: Classifier
    teacher_model: Classifier | None


@dataclass(frozen=True)
class TermContext:
    """What a method may know about the training it is built for.

    `*_features` are the widths of the embeddings, `temperature_at` an epoch's temperature (None without a
    response term), `num_samples` counts the training images, `label_smoothing` is the label loss's; `access`
    is None in tests of bare losses. `summaries` has what terms read of the teacher's maps (`summary`).
    """

    student_stages: tuple[Stage, ...]
    teacher_stages: tuple[Stage, ...]
    student_features: int
    teacher_features: int
    num_classes: int
    scheduled_temperature: Callable[[int], float | None]
    num_samples: int
    num_epochs: int
    batch_size: int = 128
    label_smoothing: float = 0.0
    access: Access | None = None
    summaries: dict[str, Callable[[Outputs], Tensor]] = field(default_factory=dict)

    def summary(self, name: str, of: Callable[[Outputs], Tensor]) -> Callable[[Outputs], Tensor]:
        """What a term reads of the teacher's maps, [B,W]: as it was kept under this name, or made of them.

        `of` makes each image's row of this image's maps alone, and `name` says all that it depends on.
        """
        self.summaries[name] = of

        def read(outputs: Outputs) -> Tensor:
            kept = outputs.details.get(SUMMARIES, {})
            return kept[name] if name in kept else of(outputs).detach()

        return read

    def temperature_at(self, epoch: int) -> float:
        temperature = self.scheduled_temperature(epoch)
        assert temperature is not None, "a response term without a temperature"
        return temperature

    def training(self) -> Access:
        assert self.access is not None, "this term needs the training it is part of"
        return self.access

    def pairs(self, text: str) -> tuple[tuple[Stage, Stage], ...]:
        """The stages that a resolved layer map ("stage1>stage2,...") pairs, student first."""
        numbers = layer_map.parse(text, len(self.student_stages), len(self.teacher_stages))
        return tuple((self.student_stages[s - 1], self.teacher_stages[t - 1]) for s, t in numbers)

    def embedding_pairs(self, text: str) -> Callable[[Outputs, Outputs], list[tuple[Tensor, Tensor]]]:
        """What takes the pairs of embeddings [B,D] out of both outputs, student first.

        For the text "embedding" the one pair that feeds the classifiers, else the paired stages' maps
        averaged over their places.
        """
        if text == layer_map.EMBEDDING:
            return lambda student, teacher: [(student.embedding, teacher.embedding)]
        averaged = [
            (s.name, self.summary(f"mean of {t.name}", partial(_averaged, t.name)))
            for s, t in self.pairs(text)
        ]
        return lambda student, teacher: [
            (_averaged(stage, student), of_teacher(teacher)) for stage, of_teacher in averaged
        ]

    def spatial_pairs(self, text: str, method: str) -> tuple[tuple[Stage, Stage], ...]:
        """The pairs for a method that compares places. ValueError where it would be 0 throughout."""
        pairs = self.pairs(text)
        if all(min(student.size, teacher.size) == 1 for student, teacher in pairs):
            raise ValueError(
                f"{method} compares the places of a map, but in every pair of {text} one side is a single "
                "pixel: choose earlier stages or larger images"
            )
        return pairs


def _averaged(stage: str, outputs: Outputs) -> Tensor:
    return outputs.features[stage].mean((2, 3))


def build_terms(config: TrialConfig, context: TermContext) -> dict[str, tuple[float, Term]]:
    """Every filled slot's weight and term. Learned parts draw their start from torch's global generator.

    Raises ValueError in words where a method cannot work with these stages.
    """
    terms: dict[str, tuple[float, Term]] = {}
    for slot, choice in config.distill.items():
        method = METHODS[choice.name]
        defaults = {name: option.default for name, option in method.options.items()}
        options = {**defaults, **choice.options}
        module, function = method.build.split(":")
        term: Term = getattr(import_module(module), function)(options, context)
        weight = config.alpha if method.slot == "response" else options["weight"]
        assert weight is not None, f"{choice.name} without a weight"
        terms[slot] = (float(weight), term)
    return terms


def label_weight(config: TrialConfig, epoch: int = 1) -> float:
    """The weight of the label cross-entropy: the trial's own, else the methods' rule, else 1.

    The response method's `label_weight`, 1 - alpha (as scheduled) where it has none; a method of another
    slot that publishes one overrules it.
    """
    if config.label_weight is not None:
        return config.label_weight
    published = {slot: METHODS[choice.name].label_weight for slot, choice in config.distill.items()}
    others = [weight for slot, weight in published.items() if slot != "response" and weight is not None]
    if others:
        return min(others)
    if "response" not in config.distill:
        return 1.0
    if published["response"] is not None:
        return published["response"]
    alpha = now(config, epoch).alpha
    assert alpha is not None, "a response term without alpha"
    return 1.0 - alpha


def label_loss(logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits [B,K] with the batch's labels, mixed ones where the batch is mixed."""

    def cross_entropy(labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)

    return mixed(cross_entropy, batch).mean()


def mixed(per_sample: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """`per_sample(labels)` [B], and in a mixed batch the blend of both images' labels in their shares."""
    if batch.mixed_labels is None or batch.mix is None:
        return per_sample(batch.labels)
    return batch.mix * per_sample(batch.labels) + (1.0 - batch.mix) * per_sample(batch.mixed_labels)


def total_loss(
    config: TrialConfig, terms: Terms, student: Outputs, teacher: Outputs | None, batch: Batch, epoch: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise, and its parts by name, unweighted and detached (`label` is the cross-entropy).

    `teacher` is None only where no term in force reads it. While a term trains alone, nothing else is in the
    loss; after, it is not. Of a batch with images without labels, the cross-entropy and the methods that need
    labels see the labelled part, all other methods see all of it.
    """
    everything = student, teacher or NO_OUTPUTS, batch
    with_labels = everything if batch.num_labelled is None else _labelled(*everything, batch.num_labelled)
    label = label_loss(with_labels[0].logits, with_labels[2], config.train.label_smoothing)
    values = now(config, epoch)
    in_force = slots_in_force(config, epoch)
    trains_alone = epoch <= epochs_alone(config)
    loss = label.new_zeros(()) if trains_alone else label_weight(config, epoch) * label
    parts = {"label": label.detach()}
    for slot in in_force:
        weight, term = terms[slot]
        weight = values.alpha if slot == "response" and values.alpha is not None else weight * values.factor
        seen = everything if METHODS[config.distill[slot].name].takes_unlabelled else with_labels
        for name, value in term(*seen, epoch).items():
            loss = loss + weight * value
            parts[name] = value.detach()
    return loss, parts


def _labelled(
    student: Outputs, teacher: Outputs, batch: Batch, num_labelled: int
) -> tuple[Outputs, Outputs, Batch]:
    """The labelled part of a batch and of what both networks make of it."""

    def first(outputs: Outputs) -> Outputs:
        return Outputs(
            outputs.logits[:num_labelled],
            {stage: x[:num_labelled] for stage, x in outputs.features.items()},
            outputs.embedding[:num_labelled],
            {
                kind: {name: x[:num_labelled] for name, x in some.items()}
                for kind, some in outputs.details.items()
            },
        )

    return first(student), first(teacher), batch.part(0, num_labelled)
