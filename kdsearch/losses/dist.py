"""DIST: the student's probabilities correlate with the teacher's, across classes and across samples.

Goes in: logits of both networks. Comes out: a scalar for each direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
) -> Tensor:
    """T^2 (inter_weight * inter + intra_weight * intra), the weights being the paper's beta and gamma.

    Logits are [B,K]; intra needs two samples or more. About 1e-7 instead of 0 where the logits agree.
    Huang, You, Wang, Qian and Xu, NeurIPS 2022, arXiv 2205.10536; T^2 as in the authors' later form.
    """
    inter = dist_inter(student_logits, teacher_logits, temperature)
    return inter_weight * inter + intra_weight * dist_intra(student_logits, teacher_logits, temperature)


def dist_inter(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 (1 - mean over samples of the correlation of their class probabilities)."""
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    return temperature**2 * (1.0 - _correlation(student, teacher).mean())


def dist_intra(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 (1 - mean over classes of the correlation of the samples' probabilities)."""
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    return temperature**2 * (1.0 - _correlation(student.T, teacher.T).mean())


def _probabilities(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    return (student_logits / temperature).softmax(dim=1), (teacher_logits.detach() / temperature).softmax(
        dim=1
    )


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, row by row; 0 for a constant row."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(dim=1) / (norms + 1e-8)  # added to the product of the norms, as in the source


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        temperature = context.temperature_at(epoch)
        inputs = student.logits, teacher.logits, temperature
        return {
            "dist_inter": options["inter_weight"] * dist_inter(*inputs),
            "dist_intra": options["intra_weight"] * dist_intra(*inputs),
        }

    return term
