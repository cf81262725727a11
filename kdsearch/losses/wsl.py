"""Weighted soft labels: distil less where the student already fits the label better than the teacher.

Goes in: logits of both networks and labels. Comes out: a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.terms import Term, TermContext, mixed
from kdsearch.models.build import Outputs


def wsl(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 * mean over the batch of w * (cross-entropy of the teacher's and the student's soft probabilities),

    w = 1 - exp(-l_s / (l_t + 1e-7)) with the label losses l at T = 1, no gradient through w.
    Logits are [B,K], labels [B]. Where the logits agree: T^2 (1 - 1/e) times the mean entropy, not 0.
    Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang, ICLR 2021, arXiv 2102.00650.
    """
    return wsl_per_sample(student_logits, teacher_logits, labels, temperature).mean()


def wsl_per_sample(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """`wsl` before the mean, [B]."""
    teacher_logits = teacher_logits.detach()
    student_loss = F.cross_entropy(student_logits.detach(), labels, reduction="none")
    teacher_loss = F.cross_entropy(teacher_logits, labels, reduction="none")
    weight = 1.0 - torch.exp(-student_loss / (teacher_loss + 1e-7))
    teacher = (teacher_logits / temperature).softmax(dim=1)
    cross_entropy = -(teacher * F.log_softmax(student_logits / temperature, dim=1)).sum(dim=1)
    return temperature**2 * weight * cross_entropy


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        temperature = context.temperature_at(epoch)

        def per_sample(labels: Tensor) -> Tensor:
            return wsl_per_sample(student.logits, teacher.logits, labels, temperature)

        return {"wsl": options["scale"] * mixed(per_sample, batch).mean()}

    return term
