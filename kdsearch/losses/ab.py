"""Activation boundaries: the student's neurons switch on and off where the teacher's do.

Goes in: pairs of maps from before the activation. Comes out: a scalar, and a connector per pair to train
with the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.regressor import Regressor
from kdsearch.losses.tensors import halving_backwards, pool_to
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs, Stage


def ab(connected_map: Tensor, teacher_map: Tensor, margin: float = 1.0) -> Tensor:
    """3/1000 times the sum over C*H*W, mean over B, of the squared distance to the teacher's side of 0.

    Maps [B,C,H,W] of equal shape, before the activation; the student's side has to be `margin` away from 0:
    (s + m)^2 where t <= 0 and s > -m, (s - m)^2 where t > 0 and s <= m, else 0. Not 0 where the maps agree
    within the margin. The source weighs the last stage by 1 and each earlier one by half of the next.
    Heo, Lee, Yun and Choi, AAAI 2019, arXiv 1811.03233.
    """
    student, teacher = connected_map, teacher_map.detach()
    too_high = (teacher <= 0) & (student > -margin)
    too_low = (teacher > 0) & (student <= margin)
    distance = torch.where(too_high, student + margin, torch.where(too_low, student - margin, 0.0))
    return 3.0 / 1000.0 * distance.square().sum() / len(student)


def _connector(student: Stage, teacher: Stage) -> nn.Module:
    if student[1:] == teacher[1:]:
        return nn.Identity()
    return Regressor(student, teacher, relu=False)


class AB(nn.Module):
    """`ab` over the pairs of stages, each with its own connector: a convolution and BN, nothing where
    shapes agree. A teacher's map that no connector reaches is average-pooled to the connected one.
    """

    def __init__(self, pairs: tuple[tuple[Stage, Stage], ...], margin: float) -> None:
        super().__init__()
        self.pairs, self.margin = pairs, margin
        self.connectors = nn.ModuleList(_connector(student, teacher) for student, teacher in pairs)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        losses = []
        for connector, (s, t) in zip(self.connectors, self.pairs, strict=True):
            connected = connector(student.details["before"][s.name])
            losses.append(ab(connected, pool_to(teacher.details["before"][t.name], connected), self.margin))
        return {"ab": halving_backwards(losses)}


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    return AB(context.pairs(options["layer_map"]), options["margin"])
