"""Variational information distillation: the student's map predicts the teacher's, with a learned variance.

Goes in: pairs of feature maps. Comes out: a scalar, and a predictor per pair to train with the student.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import pool_smaller, total
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs, Stage

SMALLEST_VARIANCE = 1e-5  # the source's


def vid(predicted_map: Tensor, teacher_map: Tensor, variance: Tensor) -> Tensor:
    """Mean over B*C_t*H*W of ((predicted - teacher)^2 / variance + log variance) / 2.

    Maps are [B,C_t,H,W], variance [C_t]. The negative log likelihood of a Gaussian, up to a constant:
    (mean log variance) / 2 where the maps agree, and so not 0, possibly negative.
    Ahn, Hu, Damianou, Lawrence and Dai, CVPR 2019, arXiv 1904.05835.
    """
    variance = variance[:, None, None]
    return 0.5 * ((predicted_map - teacher_map.detach()).square() / variance + variance.log()).mean()


class Predictor(nn.Module):
    """Three 1x1 convolutions without bias, ReLU between them, and a variance for each teacher's channel."""

    def __init__(self, student: Stage, teacher: Stage, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student.channels, teacher.channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher.channels, teacher.channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher.channels, teacher.channels, 1, bias=False),
        )
        excess = variance - SMALLEST_VARIANCE
        start = excess + math.log(-math.expm1(-excess))  # log(exp(excess) - 1), the inverse of softplus
        self.raw_variance = nn.Parameter(torch.full((teacher.channels,), start))

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        student_map, teacher_map = pool_smaller(student_map, teacher_map)
        return vid(self.mean(student_map), teacher_map, F.softplus(self.raw_variance) + SMALLEST_VARIANCE)


class Vid(nn.Module):
    """The sum of `vid` over the pairs of stages, each with its own predictor."""

    def __init__(self, pairs: tuple[tuple[Stage, Stage], ...], variance: float) -> None:
        super().__init__()
        self.pairs = pairs
        self.predictors = nn.ModuleList(Predictor(student, teacher, variance) for student, teacher in pairs)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        losses = [
            predictor(student.features[s.name], teacher.features[t.name])
            for predictor, (s, t) in zip(self.predictors, self.pairs, strict=True)
        ]
        return {"vid": total(losses)}


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    return Vid(context.pairs(options["layer_map"]), options["initial_variance"])
