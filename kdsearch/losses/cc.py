"""Correlation congruence: neighbours in a batch deviate from the teacher less, and less alike.

Goes in: embeddings of both networks. Comes out: a scalar, and a linear head for each side to train with
the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def cc(student_projection: Tensor, teacher_projection: Tensor) -> Tensor:
    """Mean over neighbouring rows b, b+1 of sum_k d[b,k] d[b+1,k], d = |student - teacher|.

    Projections are [B,D] of equal width; the order of the batch matters, a batch of one gives 0. 0 where
    they agree. Nothing is detached: the teacher's projection is learned, its embedding is what stays fixed.
    Peng et al., ICCV 2019, arXiv 1904.01802; the form of the authors' code, not the paper's kernels.
    """
    deviation = (student_projection - teacher_projection).abs()
    return (deviation[:-1] * deviation[1:]).sum() / max(len(deviation) - 1, 1)


class CorrelationCongruence(nn.Module):
    """`cc` of the embeddings behind a linear layer each; both layers learn."""

    def __init__(self, student_features: int, teacher_features: int, width: int) -> None:
        super().__init__()
        self.student = nn.Linear(student_features, width)
        self.teacher = nn.Linear(teacher_features, width)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return {"cc": cc(self.student(student.embedding), self.teacher(teacher.embedding.detach()))}


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    return CorrelationCongruence(context.student_features, context.teacher_features, options["width"])
