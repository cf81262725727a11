"""InfoNCE within the batch: an image's two embeddings find each other among those of all other images.

Goes in: embeddings of both networks. Comes out: a scalar, and a linear head for each side to train with
the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import unit
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def infonce(student_projection: Tensor, teacher_projection: Tensor, tau: float = 0.07) -> Tensor:
    """Mean cross-entropy of picking the own partner by cosine / tau, student to teacher and back, halved.

    Projections are [B,D] of equal width. log B where all of them coincide, near 0 where each pair agrees and
    differs from the others. Nothing is detached: the teacher's projection is learned.
    Van den Oord, Li and Vinyals, 2018, arXiv 1807.03748; symmetric as in CLIP, arXiv 2103.00020.
    """
    similarity = unit(student_projection, dim=1) @ unit(teacher_projection, dim=1).T / tau
    partner = torch.arange(len(similarity), device=similarity.device)
    return 0.5 * (F.cross_entropy(similarity, partner) + F.cross_entropy(similarity.T, partner))


class InfoNCE(nn.Module):
    """`infonce` of the embeddings behind a linear layer each; both layers learn."""

    def __init__(self, student_features: int, teacher_features: int, width: int, tau: float) -> None:
        super().__init__()
        self.tau = tau
        self.student = nn.Linear(student_features, width)
        self.teacher = nn.Linear(teacher_features, width)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        projections = self.student(student.embedding), self.teacher(teacher.embedding.detach())
        return {"infonce": infonce(*projections, tau=self.tau)}


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    widths = context.student_features, context.teacher_features
    return InfoNCE(*widths, width=options["width"], tau=options["tau"])
