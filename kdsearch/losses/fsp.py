"""The flow of the solution procedure: how channels of one map go with channels of the next.

Goes in: two consecutive maps of either network. Comes out: a scalar. Not in METHODS: its benchmark trains
the student with this loss alone first, and needs the stem's map.
"""

from __future__ import annotations

from torch import Tensor

from kdsearch.losses.tensors import pool_smaller


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
