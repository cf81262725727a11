"""Decoupled distillation: how sure the teacher is of the label, and how it spreads the rest, apart.

Goes in: logits of both networks and labels. Comes out: a scalar for each part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.terms import Term, TermContext, mixed
from kdsearch.models.build import Outputs


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    tckd_weight: float = 1.0,
    nckd_weight: float = 8.0,
) -> Tensor:
    """tckd_weight * TCKD + nckd_weight * NCKD (the paper's alpha and beta), each T^2 times a batch mean.

    Logits are [B,K], labels [B]. 0 where the logits agree up to a constant per sample. kd is
    TCKD + (1 - teacher's probability of the label) * NCKD per sample.
    Zhao, Cui, Song, Qiu and Liang, CVPR 2022, arXiv 2203.08679.
    """
    target = tckd(student_logits, teacher_logits, labels, temperature).mean()
    others = nckd(student_logits, teacher_logits, labels, temperature).mean()
    return tckd_weight * target + nckd_weight * others


def tckd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 KL of (label, any other class) between teacher and student, per sample [B]."""
    student = _label_or_not(student_logits / temperature, labels)
    teacher = _label_or_not(teacher_logits.detach() / temperature, labels)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=1)


def nckd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 KL of the distributions over the classes that are not the label, per sample [B]."""
    student = _among_others(student_logits / temperature, labels)
    teacher = _among_others(teacher_logits.detach() / temperature, labels)
    probabilities = teacher.exp().masked_fill(_is_label(teacher, labels), 0.0)
    return temperature**2 * (probabilities * (teacher - student)).sum(dim=1)


def _is_label(logits: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot(labels, logits.shape[1]).bool()


def _label_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """log p(label) and log p(not the label), [B,2]; summed over classes in the log, so never -inf."""
    others = logits.masked_fill(_is_label(logits, labels), -torch.inf)
    pair = torch.stack([logits.gather(1, labels[:, None])[:, 0], others.logsumexp(dim=1)], dim=1)
    return F.log_softmax(pair, dim=1)


def _among_others(logits: Tensor, labels: Tensor) -> Tensor:
    """Log probabilities [B,K] given that the label is not it; 0 in the label's own place."""
    label = _is_label(logits, labels)
    others = logits.masked_fill(label, -torch.inf).logsumexp(dim=1, keepdim=True)
    return (logits - others).masked_fill(label, 0.0)


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    warmup_epochs = max(options["warmup"] * context.num_epochs, 1.0)

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        temperature = context.temperature_at(epoch)

        def part(loss: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Tensor:
            return mixed(
                lambda labels: loss(student.logits, teacher.logits, labels, temperature), batch
            ).mean()

        grown = min(epoch / warmup_epochs, 1.0)
        return {
            "dkd_target": grown * options["tckd_weight"] * part(tckd),
            "dkd_others": grown * options["nckd_weight"] * part(nckd),
        }

    return term
