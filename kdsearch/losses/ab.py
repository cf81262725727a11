"""Activation boundaries: the student's neurons switch on and off where the teacher's do.

Goes in: a pair of maps from before the activation. Comes out: a scalar. Not in METHODS: its paper trains the
student with this loss alone, then with labels alone.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ab(connected_map: Tensor, teacher_map: Tensor, margin: float = 1.0) -> Tensor:
    """3/1000 times the sum over C*H*W, mean over B, of the squared distance to the teacher's side of 0.

    Maps [B,C,H,W] of equal shape, before the activation; the student's side has to be `margin` away from 0:
    (s + m)^2 where t <= 0 and s > -m, (s - m)^2 where t > 0 and s <= m, else 0. Not 0 where the maps agree
    within the margin. The source weighs the last stage by 1 and each earlier one by half of the next.
    Heo, Lee, Yun and Choi, AAAI 2019, arXiv 1811.03233.
    """
    student, teacher = connected_map, teacher_map.detach()
    too_high = (teacher <= 0) & (student > -margin)
    too_low = (teacher > 0) & (student <= margin)
    distance = torch.where(too_high, student + margin, torch.where(too_low, student - margin, 0.0))
    return 3.0 / 1000.0 * distance.square().sum() / len(student)
