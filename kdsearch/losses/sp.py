"""Similarity-preserving distillation: images that activate the teacher alike activate the student alike.

Goes in: pairs of feature maps. Comes out: a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import total, unit
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def similarity(feature_map: Tensor) -> Tensor:
    """Inner products between the samples of a batch [B,...], each row made a unit vector: [B,B]."""
    flat = feature_map.flatten(start_dim=1)
    return unit(flat @ flat.T, dim=1)


def sp(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Sum over B*B of the squared difference of the similarities, divided by B^2.

    Maps are [B,C,H,W]; channels and resolutions may differ. 0 where the maps are equal or differ by an
    orthogonal map and a positive factor.
    Tung and Mori, ICCV 2019, arXiv 1907.09682.
    """
    return (similarity(student_map) - similarity(teacher_map.detach())).square().mean()


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    pairs = context.pairs(options["layer_map"])

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return {"sp": total(sp(student.features[s.name], teacher.features[t.name]) for s, t in pairs)}

    return term
