"""Probabilistic knowledge transfer: who is near whom in a batch, as probabilities.

Goes in: embeddings of both networks. Comes out: a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs

EPS = 1e-7  # the source's, added to the norm and inside the logarithm


def pkt(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Mean over all B*B pairs of P_t log(P_t / P_s), P the cosines shifted to [0,1] with rows of sum 1.

    Embeddings are [B,D]; widths may differ. 0 where they agree up to a rotation and a factor per sample.
    The mean over B*B is why the published weight is 30000; the diagonal counts.
    Passalis and Tefas, ECCV 2018, arXiv 1803.10837.
    """
    student, teacher = _neighbours(student_embedding), _neighbours(teacher_embedding.detach())
    return (teacher * ((teacher + EPS) / (student + EPS)).log()).mean()


def _neighbours(embedding: Tensor) -> Tensor:
    embedding = embedding.flatten(start_dim=1)
    norm: Tensor = torch.linalg.vector_norm(embedding, dim=1, keepdim=True)
    direction = embedding / (norm + EPS)
    similarity = (direction @ direction.T + 1.0) / 2.0
    return similarity / similarity.sum(dim=1, keepdim=True)


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return {"pkt": pkt(student.embedding, teacher.embedding)}

    return term
