"""Neuron selectivity transfer: the student's channels, as patterns over the image, resemble the teacher's.

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


def nst(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared maximum mean discrepancy k(T,T) + k(S,S) - 2 k(S,T) between the channels, as unit vectors.

    k(X,Y) is the mean over samples and pairs of channels of <x,y>^2. Maps are [B,C,H,W]; channels may
    differ, the larger map is average-pooled to the smaller one first. 0 where the maps agree, channels in
    any order and of any strength; always 0 on 1x1 maps behind a ReLU.
    Huang and Wang, 2017, arXiv 1707.01219.
    """
    student_map, teacher_map = pool_smaller(student_map, teacher_map.detach())
    student, teacher = unit(student_map.flatten(2), dim=2), unit(teacher_map.flatten(2), dim=2)
    return _kernel(teacher, teacher) + _kernel(student, student) - 2.0 * _kernel(student, teacher)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.transpose(1, 2)).square().mean()


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    pairs = context.spatial_pairs(options["layer_map"], "nst")

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return {"nst": total(nst(student.features[s.name], teacher.features[t.name]) for s, t in pairs)}

    return term
