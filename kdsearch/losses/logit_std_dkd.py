"""Logit standardisation around dkd: the two parts of dkd on logits of mean 0 and deviation 1.

Goes in: logits of both networks and labels. Comes out: a scalar for each part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses import dkd as plain
from kdsearch.losses.dkd import dkd
from kdsearch.losses.logit_std import standardised
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def logit_std_dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 2.0,
    tckd_weight: float = 1.0,
    nckd_weight: float = 8.0,
) -> Tensor:
    """`dkd` of the standardised logits [B,K] and labels [B], without the paper's weight of 9.

    0 where the student's logits are a * teacher's + b, a > 0, per sample. With two classes there are no
    others to spread over, and it is tckd_weight * `logit_std`.
    Sun, Ren, Li, Wang and Cao, CVPR 2024, arXiv 2403.01427; dkd: Zhao et al., arXiv 2203.08679.
    """
    student, teacher = standardised(student_logits), standardised(teacher_logits)
    return dkd(student, teacher, labels, temperature, tckd_weight, nckd_weight)


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    """dkd's own term, warm-up included, on standardised logits."""
    inner = plain.build(options, context)

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        student = student._replace(logits=standardised(student.logits))
        teacher = teacher._replace(logits=standardised(teacher.logits))
        parts = inner(student, teacher, batch, epoch)
        return {f"logit_std_{name}": options["scale"] * part for name, part in parts.items()}

    return term
