"""Attention transfer: student and teacher look at the same places of the image.

Goes in: pairs of feature maps. Comes out: a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import pool_to_size, total, unit
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def attention_map(feature_map: Tensor, p: int = 2) -> Tensor:
    """Where a map [B,C,H,W] is active: the mean over channels of |f|^p as unit vectors [B,H*W]."""
    magnitude = feature_map if p % 2 == 0 else feature_map.abs()
    return unit(magnitude.pow(p).mean(dim=1).flatten(start_dim=1), dim=1)


def at(student_map: Tensor, teacher_map: Tensor, p: int = 2) -> Tensor:
    """Mean over B*H*W of the squared difference of the attention maps.

    Maps are [B,C,H,W]; channels may differ, the larger map is average-pooled to the smaller one first.
    0 where the attention agrees, so always on 1x1 maps.
    Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928; as RepDistiller computes it (the paper takes the
    norm of the difference instead of its square).
    """
    size = min(student_map.shape[2], teacher_map.shape[2])
    return apart(pooled_attention(student_map, size, p), pooled_attention(teacher_map.detach(), size, p))


def pooled_attention(feature_map: Tensor, size: int, p: int = 2) -> Tensor:
    """The attention map [B,size*size] of a map that is average-pooled to this resolution first."""
    return attention_map(pool_to_size(feature_map, size), p)


def apart(student_attention: Tensor, teacher_attention: Tensor) -> Tensor:
    return (student_attention - teacher_attention).square().mean()


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    p, compared = options["p"], []
    for s, t in context.spatial_pairs(options["layer_map"], "at"):
        size = min(s.size, t.size)
        name = f"attention of {t.name}, {size}x{size}, power {p}"
        compared.append((s.name, size, context.summary(name, partial(_attention, t.name, size, p))))

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return {
            "at": total(
                apart(_attention(stage, size, p, student), of_teacher(teacher))
                for stage, size, of_teacher in compared
            )
        }

    return term


def _attention(stage: str, size: int, p: int, outputs: Outputs) -> Tensor:
    return pooled_attention(outputs.features[stage], size, p)
