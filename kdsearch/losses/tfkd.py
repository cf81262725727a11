"""Teacher-free distillation: a virtual teacher that is right, and nearly undecided otherwise.

Goes in: the student's logits and labels. Comes out: a scalar. No network but the student's runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.terms import Term, TermContext, label_loss, mixed
from kdsearch.models.build import Outputs


def virtual_teacher(
    labels: Tensor, num_classes: int, label_probability: float = 0.99, temperature: float = 20.0
) -> Tensor:
    """The virtual teacher's log probabilities [B,K] for labels [B].

    `label_probability` on the label and the rest spread evenly; as in the source these probabilities, not
    their logarithms, are divided by the temperature and put through a softmax, which leaves the label only
    slightly ahead: 1.05 times any other class at the defaults.
    """
    others = (1.0 - label_probability) / (num_classes - 1)
    probabilities = others + (label_probability - others) * F.one_hot(labels, num_classes).double()
    return F.log_softmax(probabilities / temperature, dim=1)


def tfkd(
    student_logits: Tensor, labels: Tensor, label_probability: float = 0.99, temperature: float = 20.0
) -> Tensor:
    """Mean over the batch of KL(virtual teacher || softmax(student)); the temperature is the teacher's alone.

    Logits are [B,K], labels [B]. The source takes the mean over B*K and multiplies it by 100, which is this
    mean on its 100 classes; here it is this mean for any number of classes.
    Yuan, Tay, Li, Wang and Feng, CVPR 2020, arXiv 1909.11723.
    """
    return tfkd_per_sample(student_logits, labels, label_probability, temperature).mean()


def tfkd_per_sample(
    student_logits: Tensor, labels: Tensor, label_probability: float, temperature: float
) -> Tensor:
    """`tfkd` before the mean, [B]."""
    teacher = virtual_teacher(labels, student_logits.shape[1], label_probability, temperature)
    teacher = teacher.to(student_logits.dtype)
    return (teacher.exp() * (teacher - F.log_softmax(student_logits, dim=1))).sum(dim=1)


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    """The term is tfkd less the label loss, so that with weight a the total is (1 - a) CE + a tfkd."""

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        def per_sample(labels: Tensor) -> Tensor:
            return tfkd_per_sample(
                student.logits, labels, options["label_probability"], options["temperature"]
            )

        in_place_of = label_loss(student.logits, batch, context.label_smoothing)
        return {"tfkd": mixed(per_sample, batch).mean() - in_place_of}

    return term
