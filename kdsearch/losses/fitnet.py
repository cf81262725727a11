"""Hints: the student's map, through a learned regressor, meets the teacher's.

Goes in: pairs of feature maps. Comes out: a scalar, and a regressor per pair to train with the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.regressor import Regressor
from kdsearch.losses.tensors import pool_to, total
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs, Stage


def fitnet(projected_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean over B*C_t*H*W of the squared difference between a projected student's map and the teacher's.

    Maps are [B,C_t,H,W]; a larger teacher's map is average-pooled to the projected one's resolution.
    0 where they agree.
    Romero et al., ICLR 2015, arXiv 1412.6550; trained jointly with the labels, as in RepDistiller (the paper
    first trains the lower half of the student with this loss alone).
    """
    return F.mse_loss(projected_map, pool_to(teacher_map.detach(), projected_map))


class FitNet(nn.Module):
    """The sum of `fitnet` over the pairs of stages, each with its own regressor (convolution, BN, ReLU).

    The ReLU is the source's: it fits maps taken behind an activation, and leaves a residue where a
    teacher's map has negative entries. At student = teacher the value is that of the random regressors.
    """

    def __init__(self, pairs: tuple[tuple[Stage, Stage], ...]) -> None:
        super().__init__()
        self.pairs = pairs
        self.regressors = nn.ModuleList(Regressor(student, teacher) for student, teacher in pairs)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        hints = [
            fitnet(regressor(student.features[s.name]), teacher.features[t.name])
            for regressor, (s, t) in zip(self.regressors, self.pairs, strict=True)
        ]
        return {"fitnet": total(hints)}


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    return FitNet(context.pairs(options["layer_map"]))
