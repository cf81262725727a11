"""Relational distillation: the embeddings of a batch keep the teacher's distances and angles.

Goes in: embeddings of both networks. Comes out: a scalar each for distances and angles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import total, unit
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs

# Angles number B^3: they are taken for a few vertices at a time, up to this many elements (4 MB in float32),
# so that a batch of 512 needs no gigabytes.
ANGLES_AT_ONCE = 2**20


def rkd(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """distance_weight * rkd_distance + angle_weight * rkd_angle of embeddings [B,D_s] and [B,D_t].

    Park, Kim, Lu and Cho, CVPR 2019, arXiv 1904.05068.
    """
    distance = rkd_distance(student_embedding, teacher_embedding)
    return distance_weight * distance + angle_weight * rkd_angle(student_embedding, teacher_embedding)


def rkd_distance(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Mean over B*B of smoothL1 between the distances, in units of each batch's mean distance.

    Embeddings are [B,D]; widths may differ. 0 where they agree up to a similarity transformation.
    The diagonal, zero on both sides, counts in the outer mean, not in the mean distance.
    """
    student, teacher = _relative_distances(student_embedding), _relative_distances(teacher_embedding.detach())
    return F.smooth_l1_loss(student, teacher)


def _relative_distances(embedding: Tensor) -> Tensor:
    embedding = embedding.flatten(start_dim=1)
    num_samples = len(embedding)
    squares = embedding.square().sum(dim=1)
    squared = squares[:, None] + squares[None, :] - 2.0 * embedding @ embedding.T
    # The clamp comes before the root: its gradient stays finite where two samples coincide.
    off_diagonal = 1.0 - torch.eye(num_samples, dtype=embedding.dtype, device=embedding.device)
    distances = squared.clamp_min(1e-12).sqrt() * off_diagonal
    mean = distances.sum() / max(num_samples * (num_samples - 1), 1)
    return distances / mean.clamp_min(1e-12)  # a batch of one has no distances: 0 / 1e-12


def rkd_angle(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Mean over B*B*B of smoothL1 between the cosines of the angles that every three samples form.

    Embeddings are [B,D]; widths may differ. 0 where they agree up to a similarity transformation.
    """
    student, teacher = student_embedding.flatten(start_dim=1), teacher_embedding.detach().flatten(start_dim=1)
    value: Tensor = _AngleSum.apply(student, teacher)
    return value / len(student) ** 3


class _AngleSum(torch.autograd.Function):
    """The sum over all vertices, with its gradient: taken at once, a group's intermediate values can go."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        num_samples = len(student)
        per_vertex = num_samples * max(num_samples, student.shape[1], teacher.shape[1])
        num_vertices = max(ANGLES_AT_ONCE // per_vertex, 1)
        value, gradient = student.new_zeros(()), torch.zeros_like(student)
        for first in range(0, num_samples, num_vertices):
            with torch.enable_grad():
                leaf = student.detach().requires_grad_()
                part = _angle_sum(leaf, teacher, first, first + num_vertices)
            gradient += torch.autograd.grad(part, leaf)[0]
            value += part.detach()
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return outer[0] * gradient, None


def _angle_sum(student: Tensor, teacher: Tensor, first: int, stop: int) -> Tensor:
    """The sum of the differences for the vertices first..stop-1 with all pairs of samples."""
    return F.smooth_l1_loss(_cosines(student, first, stop), _cosines(teacher, first, stop), reduction="sum")


def _cosines(embedding: Tensor, first: int, stop: int) -> Tensor:
    directions = unit(embedding[None, :, :] - embedding[first:stop, None, :], dim=2)  # [vertices,B,D]
    return directions @ directions.transpose(1, 2)


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    distance_weight, angle_weight = options["distance_weight"], options["angle_weight"]
    pairs_of = context.embedding_pairs(options["layer_map"])

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        pairs = pairs_of(student, teacher)
        return {
            "rkd_distance": distance_weight * total(rkd_distance(*pair) for pair in pairs),
            "rkd_angle": angle_weight * total(rkd_angle(*pair) for pair in pairs),
        }

    return term
