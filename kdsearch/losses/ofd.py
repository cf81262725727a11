"""Overhaul of feature distillation: from before the activation, and only what a ReLU lets through or cuts.

Goes in: a pair of maps from before the activation, the teacher's margins. Comes out: a scalar. Not in
METHODS: models publish their maps behind the activation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ofd(connected_map: Tensor, teacher_map: Tensor, margin: Tensor) -> Tensor:
    """Sum over C*H*W, mean over B, of the squared distance to max(teacher, margin),

    counting only where the teacher is positive or the student lies above that target.
    Maps [B,C,H,W] of equal shape, before the activation; margin [C], not positive. 0 where the maps agree
    and none lies under its margin. The source weighs the last stage by 1, each earlier one by half the next.
    Heo, Kim, Yun, Park, Kwak and Choi, ICCV 2019, arXiv 1904.01866.
    """
    teacher_map = teacher_map.detach()
    target = torch.maximum(teacher_map, margin[:, None, None])
    counts = (teacher_map > 0) | (connected_map > target)
    return torch.where(counts, connected_map - target, 0.0).square().sum() / len(connected_map)


def negative_mean(scale: Tensor, shift: Tensor) -> Tensor:
    """The margins [C]: the mean of what a ReLU cuts behind a batch norm, E[x | x < 0], x ~ N(shift, scale^2).

    Where hardly anything is cut (0.1 % or less) it is -3 * |scale|, as in the source.
    """
    deviation = scale.abs()
    cut = torch.special.ndtr(-shift / deviation)
    density = torch.exp(-0.5 * (shift / deviation).square()) / math.sqrt(2.0 * math.pi)
    return torch.where(cut > 0.001, shift - deviation * density / cut, -3.0 * deviation)
