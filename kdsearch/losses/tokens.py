"""Tokens of two transformers with unequal patches, on one grid.

Goes in: what transformers publish for a stage, the class token first and the patches last, row by row, and
the sizes of the grids of patches. Comes out: the class token and the coarser grid of patches; a distillation
token between them, which the other network may not have, is left out.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsearch.models.build import Outputs, Stage


def compared(
    kind: str, stages: tuple[Stage, Stage], student: Outputs, teacher: Outputs
) -> tuple[Tensor, Tensor]:
    """A kind of details of the student's and the teacher's stage, on the coarser of the two grids."""
    coarse = min(stage.size for stage in stages)
    regroup = regrouped_scores if kind == "attention" else regrouped
    ours, theirs = (
        regroup(outputs.details[kind][stage.name], stage.size, coarse)
        for outputs, stage in zip((student, teacher), stages, strict=True)
    )
    return ours, theirs


@functools.lru_cache(maxsize=64)
def _averaging(num_tokens: int, size: int, coarse: int) -> Tensor:
    """The matrix [1 + coarse^2, num_tokens] whose rows are the averages to take."""
    num_patches = size * size
    patches = torch.eye(num_patches, dtype=torch.float64).view(num_patches, 1, size, size)
    matrix = torch.zeros(1 + coarse * coarse, num_tokens, dtype=torch.float64)
    matrix[0, 0] = 1.0
    matrix[1:, num_tokens - num_patches :] = F.adaptive_avg_pool2d(patches, coarse).flatten(1).T
    return matrix


def regrouped(tokens: Tensor, size: int, coarse: int) -> Tensor:
    """Tokens [...,L,D] of size x size patches, averaged over the patches of coarse x coarse."""
    num_tokens = tokens.shape[-2]
    if (num_tokens, size) == (1 + coarse * coarse, coarse):
        return tokens
    return _averaging(num_tokens, size, coarse).to(tokens) @ tokens


def regrouped_scores(scores: Tensor, size: int, coarse: int) -> Tensor:
    """Attention scores [...,L,L] before the softmax, between the averaged queries and the averaged keys.

    Scores are bilinear in queries and keys: averaging them over groups of both is what the averages score.
    """
    return regrouped(regrouped(scores, size, coarse).mT, size, coarse).mT
