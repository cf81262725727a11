"""Knowledge distillation by singular values: how the main directions of one map go with those of the next.

Goes in: maps of consecutive stages of both networks. Comes out: a scalar, and a projector per pair of stages
to train with the student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.regressor import projector
from kdsearch.losses.tensors import total
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs, Stage

FURTHER_COLUMNS = 3  # the student's directions among which the teacher's are looked for; the source's
SMALLEST_VALUE = 1e-5  # as a share of the largest: behind it a vector of float32 is no direction of the map
SMALLEST_GAP = 1e-3  # of squared singular values, as a share of the largest: closer ones count as this close


def svd(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], components: int = 1) -> Tensor:
    """The sum over consecutive maps of the squared differences of their affinities, a mean over B.

    Two or more maps each, [B,C,H,W], the student's with the channels of the teacher's; resolutions may
    differ. A map's directions are its first right singular vectors as a matrix of places by channels, those
    of the student the ones most like the teacher's; an affinity is exp(-(v_c - w_c')^2 / 8) for every pair
    of channels. 0 where the maps agree.
    A singular vector has no sign of its own: the teacher's largest entry is made positive, the student
    follows it. Lee, Kim and Song, ECCV 2018, arXiv 1807.06819; as RepDistiller computes it.
    """
    maps = [*student_maps, *teacher_maps]
    components = min(components, *(min(x.shape[1], x.shape[2] * x.shape[3]) for x in maps))
    directions = [
        aligned(student, teacher, components)
        for student, teacher in zip(student_maps, teacher_maps, strict=True)
    ]
    return total(
        (_affinities(student, next_student) - _affinities(teacher, next_teacher)).square().sum()
        / len(student)
        for (student, teacher), (next_student, next_teacher) in pairwise(directions)
    )


def aligned(student_map: Tensor, teacher_map: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Both maps' directions [B,C,components], weighed by the teacher's share of singular values."""
    teacher, values = right_vectors(_places(teacher_map.detach()), components)
    teacher = teacher * _sign(teacher.gather(1, teacher.abs().argmax(dim=1, keepdim=True)))
    student, student_values = right_vectors(_places(student_map), components + FURTHER_COLUMNS)
    is_noise = student_values < SMALLEST_VALUE * student_values[:, :1]
    likeness = (student.detach().mT @ teacher).masked_fill(is_noise[:, :, None], 0.0)
    best = likeness.abs().argmax(dim=1, keepdim=True)
    chosen = student.gather(2, best.expand(-1, student.shape[1], -1)) * _sign(likeness.gather(1, best))
    share = values / torch.linalg.vector_norm(values, dim=1, keepdim=True).clamp_min(1e-12)
    return chosen * share[:, None], teacher * share[:, None]


def right_vectors(matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first right singular vectors [B,C,count] and values [B,count] of matrices [B,N,C], or fewer.

    The values are constants. The gradient of the vectors is that of perturbation theory to first order,
    where a gap d between squared singular values enters as 1/d: infinite where two are equal. Here it enters
    as d / (d^2 + e^2), e = `SMALLEST_GAP`, so that it stays bounded and is exact up to (e/d)^2.
    """
    with torch.no_grad():
        _, values, rows = torch.linalg.svd(matrices.nan_to_num(0.0, 0.0, 0.0), full_matrices=False)
        vectors = rows.mT
        scale = values[:, :1].clamp_min(torch.finfo(values.dtype).tiny)
        squares = (values / scale).square()
        first = squares[:, None, :count]
        gaps = first - squares[:, :, None]
        inside, outside = (gap / (gap.square() + SMALLEST_GAP**2) for gap in (gaps, first))
    scaled = matrices / scale[:, :, None]
    pull = scaled.mT @ (scaled @ vectors[:, :, :count])
    within = vectors.mT @ pull
    change = vectors @ (inside * within) + outside * (pull - vectors @ within)
    return vectors[:, :, :count] + (change - change.detach()), values[:, :count]


def _places(feature_map: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,H*W,C]."""
    return feature_map.flatten(2).mT


def _sign(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype)


def _affinities(first: Tensor, second: Tensor) -> Tensor:
    """[B,C1,k] and [B,C2,k] -> [B,C2,C1,k]."""
    return torch.exp(-(second[:, :, None] - first[:, None]).square() / 8.0)


class Svd(nn.Module):
    """`svd` over the pairs of stages, the student's maps in the teacher's channels by learned projectors.

    The source has none: it needs equal channels, and there a projector passes its map on.
    """

    def __init__(self, pairs: tuple[tuple[Stage, Stage], ...], components: int) -> None:
        super().__init__()
        self.pairs, self.components = pairs, components
        self.projectors = nn.ModuleList(projector(s.channels, t.channels) for s, t in pairs)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        maps = [
            project(student.features[s.name])
            for project, (s, _) in zip(self.projectors, self.pairs, strict=True)
        ]
        return {"svd": svd(maps, [teacher.features[t.name] for _, t in self.pairs], self.components)}


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    pairs = context.pairs(options["layer_map"])
    if len(pairs) == 1:
        raise ValueError(
            f"svd compares a stage with the next: {options['layer_map']} has one pair, it needs two or more"
        )
    return Svd(pairs, options["components"])
