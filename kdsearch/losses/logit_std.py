"""Logit standardisation: kd on logits of mean 0 and deviation 1, so that only their order and shape count.

Goes in: logits of both networks. Comes out: a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.kd import kd
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def standardised(logits: Tensor) -> Tensor:
    """Each row of [B,K] less its mean, over its deviation (divisor K - 1) plus 1e-7."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (1e-7 + logits.std(dim=1, keepdim=True))


def logit_std(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """`kd` of the standardised logits [B,K], without the paper's weight of 9.

    0 where the student's logits are a * teacher's + b, a > 0, per sample.
    Sun, Ren, Li, Wang and Cao, CVPR 2024, arXiv 2403.01427.
    """
    return kd(standardised(student_logits), standardised(teacher_logits), temperature)


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        temperature = context.temperature_at(epoch)
        return {"logit_std": options["scale"] * logit_std(student.logits, teacher.logits, temperature)}

    return term
