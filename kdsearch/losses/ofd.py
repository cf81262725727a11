"""Overhaul of feature distillation: from before the activation, and only what a ReLU lets through or cuts.

Goes in: pairs of maps from before the activation, the teacher's margins. Comes out: a scalar, and a
connector per pair to train with the student.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import halving_backwards, pool_to
from kdsearch.losses.terms import Access, Term, TermContext
from kdsearch.models.build import Outputs, Stage
from kdsearch.models.layers import BatchNorm


def ofd(connected_map: Tensor, teacher_map: Tensor, margin: Tensor) -> Tensor:
    """Sum over C*H*W, mean over B, of the squared distance to max(teacher, margin),

    counting only where the teacher is positive or the student lies above that target.
    Maps [B,C,H,W] of equal shape, before the activation; margin [C], not positive. 0 where the maps agree
    and none lies under its margin. The source weighs the last stage by 1, each earlier one by half the next.
    Heo, Kim, Yun, Park, Kwak and Choi, ICCV 2019, arXiv 1904.01866.
    """
    teacher_map = teacher_map.detach()
    target = torch.maximum(teacher_map, margin[:, None, None])
    counts = (teacher_map > 0) | (connected_map > target)
    return torch.where(counts, connected_map - target, 0.0).square().sum() / len(connected_map)


def negative_mean(scale: Tensor, shift: Tensor) -> Tensor:
    """The margins [C]: the mean of what a ReLU cuts behind a batch norm, E[x | x < 0], x ~ N(shift, scale^2).

    Where hardly anything is cut (0.1 % or less) it is -3 * |scale|, as in the source.
    """
    deviation = scale.abs().clamp_min(1e-12)
    cut = torch.special.ndtr(-shift / deviation)
    density = torch.exp(-0.5 * (shift / deviation).square()) / math.sqrt(2.0 * math.pi)
    return torch.where(cut > 0.001, shift - deviation * density / cut, -3.0 * deviation)


class Connector(nn.Module):
    """A 1x1 convolution without bias and batch norm, to the teacher's channels."""

    def __init__(self, student: Stage, teacher: Stage) -> None:
        super().__init__()
        self.conv = nn.Conv2d(student.channels, teacher.channels, 1, bias=False)
        nn.init.normal_(self.conv.weight, std=math.sqrt(2.0 / teacher.channels))
        self.norm = BatchNorm(teacher.channels)

    def forward(self, student_map: Tensor) -> Tensor:
        connected: Tensor = self.norm(self.conv(student_map))
        return connected


class OFD(nn.Module):
    """`ofd` over the pairs of stages; the teacher's maps are average-pooled to the student's resolution.

    The teacher stays in evaluation mode (the source leaves it in training mode). Where no batch norm tells a
    stage's margins, `prepare` measures them: the mean of each channel's negative values on a first epoch.
    """

    def __init__(self, pairs: tuple[tuple[Stage, Stage], ...], access: Access) -> None:
        super().__init__()
        assert access.teacher_model is not None
        self.pairs, self.access = pairs, access
        self.connectors = nn.ModuleList(Connector(student, teacher) for student, teacher in pairs)
        norms = access.teacher_model.norms()
        self.unknown = {teacher.name for _, teacher in pairs if norms[teacher.name] is None}
        for _, teacher in pairs:
            norm, margin = norms[teacher.name], torch.zeros(teacher.channels)
            if norm is not None:
                margin = negative_mean(norm.weight.detach(), norm.bias.detach())
            self.register_buffer(f"margin_{teacher.name}", margin)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Measure the margins that no batch norm tells; 0 for a channel without a negative value."""
        sums = {name: torch.zeros_like(self.get_buffer(f"margin_{name}")) for name in sorted(self.unknown)}
        counts = {name: torch.zeros_like(values) for name, values in sums.items()}
        for batch in batches if self.unknown else ():
            before = self.access.teacher(batch.images).details["before"]
            for name in sums:
                sums[name] += before[name].clamp_max(0.0).sum((0, 2, 3))
                counts[name] += (before[name] < 0).sum((0, 2, 3))
        for name, values in sums.items():
            self.get_buffer(f"margin_{name}").copy_(values / counts[name].clamp_min(1.0))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        losses = []
        for connector, (s, t) in zip(self.connectors, self.pairs, strict=True):
            connected = connector(student.details["before"][s.name])
            target = pool_to(teacher.details["before"][t.name], connected)
            losses.append(ofd(connected, target, self.get_buffer(f"margin_{t.name}")))
        return {"ofd": halving_backwards(losses)}


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    return OFD(context.pairs(options["layer_map"]), context.training())
