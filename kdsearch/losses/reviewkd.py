"""Knowledge review: every stage of the student, with what the deeper ones know, meets one of the teacher.

Goes in: pairs of maps, the teacher's from before the activation, and the embeddings. Comes out: a scalar,
and a fusion module per pair to train with the student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import total
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs, Stage
from kdsearch.models.layers import BatchNorm

WIDEST = 512  # channels of the fusion, the source's


def reviewkd(fused_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """The sum of `hierarchical_context` over the levels.

    Maps [B,C,H,H] of equal shape in each level: what the student's fusions put out, and the teacher's maps
    from before the activation and its embedding as [B,D,1,1]. 0 where they agree.
    Chen, Liu, Zhao and Jia, CVPR 2021, arXiv 2104.09044.
    """
    return total(hierarchical_context(*level) for level in zip(fused_maps, teacher_maps, strict=True))


def hierarchical_context(fused_map: Tensor, teacher_map: Tensor) -> Tensor:
    """The weighted mean of the mean squared differences in full and pooled to 4x4, 2x2 and 1x1.

    Maps [B,C,H,H] of equal shape. Full resolution weighs 1, each smaller one half of the one before; sizes
    that H does not exceed are left out. 0 where the maps agree.
    Chen, Liu, Zhao and Jia, CVPR 2021, arXiv 2104.09044.
    """
    teacher_map = teacher_map.detach()
    sizes = [size for size in (4, 2, 1) if size < fused_map.shape[2]]
    loss, weights = F.mse_loss(fused_map, teacher_map), 1.0
    for level, size in enumerate(sizes, start=1):
        pooled = F.adaptive_avg_pool2d(fused_map, size), F.adaptive_avg_pool2d(teacher_map, size)
        loss = loss + 0.5**level * F.mse_loss(*pooled)
        weights += 0.5**level
    return loss / weights


class Fusion(nn.Module):
    """Attention based fusion: a level's map and what comes from the deeper level, blended by learned gates.

    Goes in: the student's map, the deeper level's residual (None for the deepest). Comes out: the residual
    for the next level and the map that meets the teacher's, both in the teacher's resolution.
    """

    def __init__(self, student: Stage, teacher: Stage, width: int, deepest: bool) -> None:
        super().__init__()
        self.size = teacher.size
        narrow = nn.Conv2d(student.channels, width, 1, bias=False)
        widen = nn.Conv2d(width, teacher.channels, 3, padding=1, bias=False)
        for layer in (narrow, widen):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        self.narrow = nn.Sequential(narrow, BatchNorm(width))
        self.gates = None if deepest else nn.Conv2d(2 * width, 2, 1)
        self.widen = nn.Sequential(widen, BatchNorm(teacher.channels))

    def forward(self, student_map: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        fused = self.narrow(student_map)
        if self.gates is not None:
            assert deeper is not None
            deeper = _resized(deeper, fused.shape[2])
            own, other = torch.sigmoid(self.gates(torch.cat([fused, deeper], dim=1))).chunk(2, dim=1)
            fused = fused * own + deeper * other
        fused = _resized(fused, self.size)
        return fused, self.widen(fused)


def _resized(maps: Tensor, size: int) -> Tensor:
    return maps if maps.shape[2] == size else F.interpolate(maps, size=(size, size), mode="nearest")


class ReviewKD(nn.Module):
    """The fusions from the embedding back to the first pair of stages, and `reviewkd` of their outputs."""

    def __init__(
        self, levels: Sequence[tuple[Stage, Stage]], width: int, warmup_epochs: float, before: bool
    ) -> None:
        super().__init__()
        self.levels, self.warmup_epochs, self.before = tuple(levels), warmup_epochs, before
        last = len(self.levels) - 1
        self.fusions = nn.ModuleList(
            Fusion(student, teacher, width, deepest=number == last)
            for number, (student, teacher) in enumerate(self.levels)
        )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        stages = student.details["before"] if self.before else student.features
        student_maps = [*(stages[s.name] for s, _ in self.levels[:-1]), _as_map(student.embedding)]
        before = teacher.details["before"]
        teacher_maps = [*(before[t.name] for _, t in self.levels[:-1]), _as_map(teacher.embedding)]
        fused, residual = [], None
        for fusion, student_map in zip(reversed(self.fusions), reversed(student_maps), strict=True):
            residual, output = fusion(student_map, residual)
            fused.append(output)
        grown = min(epoch / self.warmup_epochs, 1.0)
        return {"reviewkd": grown * reviewkd(fused[::-1], teacher_maps)}


def _as_map(embedding: Tensor) -> Tensor:
    return embedding[:, :, None, None]


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    student, teacher = context.student_features, context.teacher_features
    embeddings = Stage("embedding", student, 1), Stage("embedding", teacher, 1)
    return ReviewKD(
        [*context.pairs(options["layer_map"]), embeddings],
        width=min(WIDEST, student),
        warmup_epochs=max(options["warmup"] * context.num_epochs, 1.0),
        before=options["student_before"],
    )
