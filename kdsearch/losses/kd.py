"""Knowledge distillation: the student matches the teacher's softened class probabilities.

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


def kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor,
    student_temperature: float | None = None,
) -> Tensor:
    """T^2 * mean over the batch of KL(softmax(teacher / T) || softmax(student / T)).

    Logits are [B,K], T is a number or a scalar tensor. T^2 keeps the gradient's size independent of the
    temperature; with a temperature of the student's own the factor is the product of both, which is T^2
    where they are equal. 0 where the logits, each over its temperature, agree up to a constant per sample.
    Hinton, Vinyals and Dean, NIPS 2014 workshop, arXiv 1503.02531.
    """
    softened_by = temperature if student_temperature is None else student_temperature
    student = F.log_softmax(student_logits / softened_by, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    return temperature * softened_by * divergence.mean()


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        temperature = context.temperature_at(epoch)
        return {"kd": kd(student.logits, teacher.logits, temperature, options["student_temperature"])}

    return term
