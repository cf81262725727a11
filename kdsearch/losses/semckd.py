"""Semantic calibration: attention learns which of the teacher's stages each stage of the student compares to.

Goes in: the maps of all stages of both networks. Comes out: a scalar, and what learns with the student:
queries and keys for every stage, a projector for every pair of stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import pool_smaller, unit
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs, Stage
from kdsearch.models.layers import conv_norm_relu


def semckd(
    projected_maps: Sequence[Sequence[Tensor]], teacher_maps: Sequence[Sequence[Tensor]], attention: Tensor
) -> Tensor:
    """Mean over samples and student stages of the attention-weighted sum of squared differences.

    Entries [i][j] of both lists are [B,C_j,H,W] of equal shape: stage i of the student projected to, and
    pooled with, stage j of the teacher. `attention` [B,n_s,n_t] sums to 1 over j. A difference is the mean
    over C*H*W. 0 where projections and teacher agree.
    Chen et al., AAAI 2021, arXiv 2012.03236.
    """
    differences = torch.stack(
        [
            torch.stack(
                [
                    (s - t.detach()).square().flatten(start_dim=1).mean(dim=1)
                    for s, t in zip(*row, strict=True)
                ]
            )
            for row in zip(projected_maps, teacher_maps, strict=True)
        ]
    )  # [n_s,n_t,B]
    return (attention * differences.permute(2, 0, 1)).sum() / attention[:, :, 0].numel()


def layer_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Softmax over the teacher's stages of the inner products: [B,n_s,D], [B,n_t,D] -> [B,n_s,n_t]."""
    return (queries @ keys.transpose(1, 2)).softmax(dim=2)


class Embedded(nn.Module):
    """A map's similarities to the other samples of the batch [B,B], through two layers, as unit vectors.

    The widths are tied to the batch size, as in the source: B, B/2, B/4.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        hidden, width = max(batch_size // 2, 1), max(batch_size // 4, 1)
        self.layers = nn.Sequential(nn.Linear(batch_size, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, feature_map: Tensor) -> Tensor:
        flat = feature_map.flatten(start_dim=1)
        return unit(self.layers(flat @ flat.T), dim=1)


class SemanticCalibration(nn.Module):
    """`semckd` of all stages with all stages. A batch of another size than the usual is skipped: value 0."""

    def __init__(self, student: Sequence[Stage], teacher: Sequence[Stage], batch_size: int) -> None:
        super().__init__()
        self.student_stages, self.teacher_stages = student, teacher
        self.batch_size = batch_size
        self.queries = nn.ModuleList(Embedded(batch_size) for _ in student)
        self.keys = nn.ModuleList(Embedded(batch_size) for _ in teacher)
        self.projectors = nn.ModuleList(_projector(s.channels, t.channels) for s in student for t in teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        students = [student.features[stage.name] for stage in self.student_stages]
        teachers = [teacher.features[stage.name].detach() for stage in self.teacher_stages]
        if len(students[0]) != self.batch_size:
            return {"semckd": 0.0 * torch.stack([feature_map.sum() for feature_map in students]).sum()}
        pooled = [[pool_smaller(s, t) for t in teachers] for s in students]
        projectors = iter(self.projectors)
        projected = [[next(projectors)(s) for s, _ in row] for row in pooled]
        attention = layer_attention(_stacked(self.queries, students), _stacked(self.keys, teachers))
        return {"semckd": semckd(projected, [[t for _, t in row] for row in pooled], attention)}


def _stacked(modules: nn.ModuleList, maps: Sequence[Tensor]) -> Tensor:
    """[B,n,D] of n maps."""
    return torch.stack(
        [module(feature_map) for module, feature_map in zip(modules, maps, strict=True)], dim=1
    )


def _projector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    hidden = 2 * teacher_channels
    return nn.Sequential(
        conv_norm_relu(student_channels, hidden, 1),
        conv_norm_relu(hidden, hidden, 3),
        nn.Conv2d(hidden, teacher_channels, 1, bias=False),
    )


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    return SemanticCalibration(context.student_stages, context.teacher_stages, context.batch_size)
