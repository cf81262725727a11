"""The sequences on which the losses' reference values were computed.

Goes in: a shape. Comes out: a float64 tensor, its row-major position n the only input.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def student_sequence(*shape: int) -> Tensor:
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.013 * n**2 + 0.37 * n + 0.11).reshape(shape)


def teacher_sequence(*shape: int) -> Tensor:
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.cos(0.017 * n**2 + 0.53 * n + 0.29).reshape(shape)
