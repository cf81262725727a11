"""Curriculum temperature: kd at a temperature that is learned against the student.

Goes in: logits of both networks. Comes out: a scalar, and one number to train with the student.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.kd import kd
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def ctkd(student_logits: Tensor, teacher_logits: Tensor, theta: Tensor, reversal: float) -> Tensor:
    """`kd` at T = 1 + 20 sigmoid(theta), T^2 included; theta is a scalar, logits are [B,K].

    Backward, the gradient that reaches theta is multiplied by `reversal` (-1: theta ascends the loss that
    the student descends). 0 where the logits agree up to a constant per sample.
    Li et al., AAAI 2023, arXiv 2211.16231, the variant with one temperature for all samples.
    """
    scaled: Tensor = _ScaledGradient.apply(theta, reversal)
    return kd(student_logits, teacher_logits, 1.0 + 20.0 * scaled.sigmoid())


def gradient_reversal(epoch: int, ramp_epochs: float) -> float:
    """From 0 down to -1 along half a cosine over the first `ramp_epochs`; epochs count from 1."""
    return (math.cos(math.pi * min(epoch / ramp_epochs, 1.0)) - 1.0) / 2.0


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return outer[0] * ctx.factor, None


class CurriculumTemperature(nn.Module):
    """`ctkd`, whose theta learns with the student's optimiser."""

    def __init__(self, start: float, scale: float, ramp_epochs: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(float(start)))
        self.scale = scale
        self.ramp_epochs = ramp_epochs

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        reversal = gradient_reversal(epoch, self.ramp_epochs)
        return {"ctkd": self.scale * ctkd(student.logits, teacher.logits, self.theta, reversal)}


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    ramp_epochs = max(options["ramp"] * context.num_epochs, 1.0)
    return CurriculumTemperature(options["theta"], options["scale"], ramp_epochs)
