"""Hard distillation: the class that the teacher answers is the label.

Goes in: logits of both networks. Comes out: a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def pseudo_label(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean cross-entropy of the student with the teacher's most likely class, without a temperature.

    Logits are [B,K]. `kd` without T^2 in the limit of a temperature of 0 on the teacher's side and 1 on the
    student's. The student's own loss on its own answer, and so not 0, where the logits agree.
    Touvron, Cord, Douze, Massa, Sablayrolles and Jegou, ICML 2021, arXiv 2012.12877 (hard distillation, there
    on a distillation token, here on the logits of any student).
    """
    return F.cross_entropy(student_logits, teacher_logits.argmax(dim=1))


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return {"pseudo_label": pseudo_label(student.logits, teacher.logits)}

    return term
