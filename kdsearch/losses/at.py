"""Attention transfer: student and teacher look at the same places of the image.

Goes in: pairs of feature maps. Comes out: a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import pool_smaller, total, unit
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
    student_map, teacher_map = pool_smaller(student_map, teacher_map.detach())
    return (attention_map(student_map, p) - attention_map(teacher_map, p)).square().mean()


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    pairs = context.spatial_pairs(options["layer_map"], "at")

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return {
            "at": total(
                at(student.features[s.name], teacher.features[t.name], options["p"]) for s, t in pairs
            )
        }

    return term
