"""The few tensor operations that several losses share.

Goes in: tensors. Comes out: tensors. Nothing here knows what a student or a trial is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(x: Tensor, dim: int) -> Tensor:
    """x / max(norm, 1e-12) along `dim`, any shape. A zero vector stays zero and gets no gradient.

    The gradient is the difference to `F.normalize`, which sends 1e12 times the incoming one into a zero
    vector: two equal embeddings, or a sample that activates nothing, would end the training.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return torch.where(norm > 1e-12, x / norm.clamp_min(1e-12), torch.zeros_like(x))


def pool_to(feature_map: Tensor, reference: Tensor) -> Tensor:
    """A map [B,C,H,W] averaged over the pixels of the reference's resolution; unchanged where it has that."""
    if feature_map.shape[2:] == reference.shape[2:]:
        return feature_map
    return F.adaptive_avg_pool2d(feature_map, (reference.shape[2], reference.shape[3]))


def pool_to_size(feature_map: Tensor, size: int) -> Tensor:
    """A map [B,C,H,H] averaged over the pixels of a size x size one; unchanged where it is one."""
    return feature_map if feature_map.shape[2] == size else F.adaptive_avg_pool2d(feature_map, size)


def pool_smaller(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps [B,C,H,W] to the smaller one's resolution; channels may differ."""
    if student_map.shape[2] > teacher_map.shape[2]:
        return pool_to(student_map, teacher_map), teacher_map
    return student_map, pool_to(teacher_map, student_map)


def mean_answer(logits: Tensor) -> Tensor:
    """Logits [B,K] whose softmax is the mean of the softmax of logits [V,B,K]."""
    return F.log_softmax(logits, dim=-1).logsumexp(dim=0) - math.log(len(logits))


def total(values: Iterable[Tensor]) -> Tensor:
    """The sum of scalars, as a tensor."""
    return torch.stack(list(values)).sum()


def halving_backwards(values: Sequence[Tensor]) -> Tensor:
    """The sum of scalars, the last weighing 1 and each earlier one half of the next."""
    return total(value / 2.0 ** (len(values) - number) for number, value in enumerate(values, start=1))
