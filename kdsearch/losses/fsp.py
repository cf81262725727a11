"""The flow of the solution procedure: how channels of one map go with channels of the next.

Goes in: two consecutive maps of either network, the stem's included. Comes out: a scalar, and a projector
per map to train with the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.regressor import projector
from kdsearch.losses.tensors import pool_smaller, total
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs, Stage


def fsp(
    student_first: Tensor, student_second: Tensor, teacher_first: Tensor, teacher_second: Tensor
) -> Tensor:
    """Mean over B*C2*C1 of the squared difference of the flow matrices.

    Maps are [B,C1,H,W] and [B,C2,H,W] with the channels of the teacher's; within a network the larger one is
    average-pooled to the smaller one (the paper takes the maximum). 0 where the maps agree.
    Yim, Joo, Bae and Kim, CVPR 2017 (no arXiv version); as RepDistiller computes it.
    """
    teacher = flow(teacher_first.detach(), teacher_second.detach())
    return (flow(student_first, student_second) - teacher).square().mean()


def flow(first: Tensor, second: Tensor) -> Tensor:
    """The mean over the places of every product of channels, [B,C2,C1]."""
    first, second = pool_smaller(first, second)
    return second.flatten(2) @ first.flatten(2).transpose(1, 2) / first.flatten(2).shape[2]


class Fsp(nn.Module):
    """The sum of `fsp` from the stem to the first pair of stages, from there to the second, and so on.

    Learned projectors bring the student's maps to the teacher's channels. The source has none: it needs equal
    channels, and there a projector passes its map on.
    """

    def __init__(self, stem_channels: tuple[int, int], pairs: tuple[tuple[Stage, Stage], ...]) -> None:
        super().__init__()
        self.pairs = pairs
        channels = [stem_channels, *((s.channels, t.channels) for s, t in pairs)]
        self.projectors = nn.ModuleList(projector(*both) for both in channels)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        student_maps = [student.details["stem"]["stem"], *(student.features[s.name] for s, _ in self.pairs)]
        teacher_maps = [teacher.details["stem"]["stem"], *(teacher.features[t.name] for _, t in self.pairs)]
        projected = [project(x) for project, x in zip(self.projectors, student_maps, strict=True)]
        consecutive = zip(pairwise(projected), pairwise(teacher_maps), strict=True)
        return {"fsp": total(fsp(*students, *teachers) for students, teachers in consecutive)}


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    access = context.training()
    assert access.teacher_model is not None
    stem_channels = access.student_model.stem_channels, access.teacher_model.stem_channels
    return Fsp(stem_channels, context.spatial_pairs(options["layer_map"], "fsp"))
