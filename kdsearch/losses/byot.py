"""Be your own teacher: classifiers on the earlier stages, taught by the last one.

Goes in: the student's stage maps, logits and embedding, and labels. Comes out: scalars, and a branch for
every stage but the last, trained with the student and no part of it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import total
from kdsearch.losses.terms import Term, TermContext, label_loss
from kdsearch.models.build import Outputs, Stage
from kdsearch.models.layers import BatchNorm


def byot(
    branch_logits: Sequence[Tensor],
    projected: Sequence[Tensor],
    student_logits: Tensor,
    embedding: Tensor,
    labels: Tensor,
    temperature: float = 3.0,
    branch_label_weight: float = 0.7,
    soft_weight: float = 0.3,
    feature_weight: float = 0.03,
) -> Tensor:
    """What the branches add to the student's own label loss: label, soft and feature term of each, summed.

    Logits are [B,K] each, `projected` and embedding [B,D], labels [B]; `projected` are the features of all
    branches but the deepest, in the embedding's width. The last stage's logits and embedding get no gradient.
    Where all agree with the student: 0.7 of its label loss and 0.3 of its entropy at T = 3 for each branch.
    Zhang, Song, Gao, Chen, Bao and Ma, ICCV 2019, arXiv 1905.08094, weights as in the authors' code.
    """
    label = total(F.cross_entropy(logits, labels) for logits in branch_logits)
    soft = total(byot_soft(logits, student_logits, temperature) for logits in branch_logits)
    feature = total([label.new_zeros(()), *(byot_feature(features, embedding) for features in projected)])
    return branch_label_weight * label + soft_weight * soft + feature_weight * feature


def byot_soft(branch_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of the branch with the last stage at a temperature, without kd's factor T^2."""
    targets = (student_logits.detach() / temperature).softmax(dim=1)
    return F.cross_entropy(branch_logits / temperature, targets)


def byot_feature(projected: Tensor, embedding: Tensor) -> Tensor:
    """The norm, not squared, of the whole difference [B,D]: a sum over the batch under a root, no mean."""
    norm: Tensor = torch.linalg.vector_norm(projected - embedding.detach())
    return norm


class Mask(nn.Module):
    """Where a branch should look: a map [B,C,H,W] of factors from 0 to 1, found at half the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_separable(channels, channels, stride=2))

    def forward(self, maps: Tensor) -> Tensor:
        factors = F.interpolate(self.layers(maps), maps.shape[2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(factors)


class Branch(nn.Module):
    """From a stage's map [B,C,H,W] to features [B,C_last] and logits, a block for every change of shape.

    In the source every stage has a shape of its own; where all that follow look alike, as a transformer's
    do, there is a single block.
    """

    def __init__(self, stages: Sequence[Stage], num_classes: int, mask: bool) -> None:
        super().__init__()
        first, last = stages[0], stages[-1]
        path = [first, *(later for stage, later in pairwise(stages) if stage[1:] != later[1:])]
        path = path if len(path) > 1 else [first, last]
        self.mask = Mask(first.channels) if mask and first.size > 1 else None
        self.blocks = nn.Sequential(*(_block(stage, following) for stage, following in pairwise(path)))
        self.classifier = nn.Linear(last.channels, num_classes)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        if self.mask is not None:
            maps = maps * self.mask(maps)
        features = self.blocks(maps).mean((2, 3))
        return self.classifier(features), features


class Byot(nn.Module):
    """The branches' losses: label, soft, and feature for all but the deepest branch, as in the source.

    That one is only a step from the last stage; a student of two stages has no feature term.
    """

    def __init__(self, options: Mapping[str, Any], context: TermContext) -> None:
        super().__init__()
        stages = context.student_stages
        if len(stages) == 1:
            raise ValueError("byot puts a classifier on every stage but the last: this student has only one")
        self.options, self.label_smoothing = options, context.label_smoothing
        self.stages = [stage.name for stage in stages[:-1]]
        self.branches = nn.ModuleList(
            Branch(stages[position:], context.num_classes, options["mask"])
            for position in range(len(self.stages))
        )
        width = stages[-1].channels
        self.adapters = nn.ModuleList(nn.Linear(width, context.student_features) for _ in self.stages[:-1])

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        pairs = [
            branch(student.features[name]) for branch, name in zip(self.branches, self.stages, strict=True)
        ]
        temperature = self.options["temperature"]
        label = total(label_loss(logits, batch, self.label_smoothing) for logits, _ in pairs)
        soft = total(byot_soft(logits, student.logits, temperature) for logits, _ in pairs)
        parts = {
            "byot_label": self.options["branch_label_weight"] * label,
            "byot_soft": self.options["soft_weight"] * soft,
        }
        if self.adapters:
            adapted = [
                byot_feature(adapter(features), student.embedding)
                for adapter, (_, features) in zip(self.adapters, pairs[:-1], strict=True)
            ]
            parts["byot_feature"] = self.options["feature_weight"] * total(adapted)
        return parts


def _block(stage: Stage, following: Stage) -> nn.Sequential:
    """One stage's shape to the next one's: two separable convolutions, or a linear layer between vectors."""
    if stage.size == 1:
        linear = nn.Conv2d(stage.channels, following.channels, 1, bias=False)
        return nn.Sequential(linear, BatchNorm(following.channels), nn.ReLU())
    stride = max(1, stage.size // following.size)
    return nn.Sequential(
        *_separable(stage.channels, stage.channels, stride),
        *_separable(stage.channels, following.channels, stride=1),
    )


def _separable(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    """A convolution by channel, one across channels, batch norm, ReLU."""
    return [
        nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        BatchNorm(out_channels),
        nn.ReLU(),
    ]


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    return Byot(options, context)
