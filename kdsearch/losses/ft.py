"""Factor transfer: attention between learned factors of the last maps.

Goes in: a pair of factors. Comes out: a scalar. Not in METHODS: the teacher's factors come from a
paraphraser that is trained first.
"""

from __future__ import annotations

from torch import Tensor

from kdsearch.losses.at import attention_map
from kdsearch.losses.tensors import pool_smaller


def ft(student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
    """Mean over B*H*W of the absolute difference of the attention maps (power 2).

    Factors are [B,C,H,W]; channels may differ, the larger one is average-pooled to the smaller one first.
    0 where the attention agrees.
    Kim, Park and Kwak, NeurIPS 2018, arXiv 1802.04977; as RepDistiller computes it (the paper compares whole
    factors as unit vectors).
    """
    student_factor, teacher_factor = pool_smaller(student_factor, teacher_factor.detach())
    return (attention_map(student_factor) - attention_map(teacher_factor)).abs().mean()
