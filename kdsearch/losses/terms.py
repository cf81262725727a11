"""From a trial's choices to one number to minimise: the weighted sum of all loss terms, written once.

Goes in: a `TrialConfig` and a `TermContext` (what the two networks publish). Comes out: `build_terms`, the
terms with their weights, and `total_loss`,

    L = label_weight * CE + alpha * response + sum of weight_i * term_i.

A term is called as `term(student, teacher, batch, epoch)` with the outputs of both networks on the same
batch and the epoch counted from 1. It returns named scalars that add up to the method's loss, mostly one,
without the slot's weight. A method with something to learn is an `nn.Module`, any other a plain function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from kdsearch import layer_map
from kdsearch.data.views import Batch
from kdsearch.losses import METHODS
from kdsearch.models.build import Outputs, Stage
from kdsearch.records import TrialConfig

Term: TypeAlias = Callable[[Outputs, Outputs, Batch, int], dict[str, Tensor]]
Terms: TypeAlias = Mapping[str, tuple[float, Term]]  # slot -> (weight, term)


@dataclass(frozen=True)
class TermContext:
    """What a method may know about the training it is built for.

    `*_features` are the widths of the embeddings, `temperature` is None without a response term,
    `num_samples` counts the training images.
    """

    student_stages: tuple[Stage, ...]
    teacher_stages: tuple[Stage, ...]
    student_features: int
    teacher_features: int
    num_classes: int
    temperature: float | None
    num_samples: int
    num_epochs: int

    def response_temperature(self) -> float:
        assert self.temperature is not None, "a response term without a temperature"
        return self.temperature

    def pairs(self, text: str) -> tuple[tuple[Stage, Stage], ...]:
        """The stages that a resolved layer map ("stage1>stage2,...") pairs, student first."""
        numbers = layer_map.parse(text, len(self.student_stages), len(self.teacher_stages))
        return tuple((self.student_stages[s - 1], self.teacher_stages[t - 1]) for s, t in numbers)

    def spatial_pairs(self, text: str, method: str) -> tuple[tuple[Stage, Stage], ...]:
        """The pairs for a method that compares places. ValueError where it would be 0 throughout."""
        pairs = self.pairs(text)
        if all(min(student.size, teacher.size) == 1 for student, teacher in pairs):
            raise ValueError(
                f"{method} compares the places of a map, but in every pair of {text} one side is a single "
                "pixel: choose earlier stages or larger images"
            )
        return pairs


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


def label_weight(config: TrialConfig) -> float:
    """The weight of the label cross-entropy: the trial's own, else the response method's rule, else 1."""
    if config.label_weight is not None:
        return config.label_weight
    if "response" not in config.distill:
        return 1.0
    published = METHODS[config.distill["response"].name].label_weight
    if published is not None:
        return published
    assert config.alpha is not None, "a response term without alpha"
    return 1.0 - config.alpha


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

    `teacher` is None only where there are no terms: a control.
    """
    label = label_loss(student.logits, batch, config.train.label_smoothing)
    loss = label_weight(config) * label
    parts = {"label": label.detach()}
    for weight, term in terms.values():
        assert teacher is not None, "distillation without a teacher's outputs"
        for name, value in term(student, teacher, batch, epoch).items():
            loss = loss + weight * value
            parts[name] = value.detach()
    return loss, parts
