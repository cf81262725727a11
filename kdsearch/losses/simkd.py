"""SimKD: the student's projected last map meets the teacher's, and goes through the teacher's classifier.

Goes in: pairs of feature maps. Comes out: a scalar. The projector is part of the student, and stays in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import pool_to
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs
from kdsearch.models.simkd import ReusingClassifier, averaged_map


def simkd(projected_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean over B*C_t*H*W of the squared difference between a projected student's map and the teacher's.

    Maps are [B,C_t,H,W]; the teacher's, whose average feeds its classifier, is average-pooled to the
    projected one's resolution where it is larger. 0 where they agree.
    Chen, Mei, Zhang, Wang, Feng and Chen, CVPR 2022, arXiv 2203.14001.
    """
    return F.mse_loss(projected_map, pool_to(teacher_map.detach(), projected_map))


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    """Also copies the teacher's classifier into the student; a resumed state then holds the same."""
    training = context.training()
    student_model, teacher_model = training.student_model, training.teacher_model
    assert teacher_model is not None, "simkd reads the teacher"
    if isinstance(student_model, ReusingClassifier):
        student_model.adopt(teacher_model)

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        target = averaged_map(teacher_model, teacher.features)
        return {"simkd": simkd(student.details["projected"]["map"], target)}

    return term
