"""Progressive self-distillation: the student's answer of an epoch ago softens the label.

Goes in: the student's logits, labels and the positions of the images. Comes out: a scalar, and a store of
the last answer to every training image, which is checkpointed with the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def ps_kd(student_logits: Tensor, past: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Mean cross-entropy of the student with (1 - alpha) * one-hot label + alpha * its past probabilities.

    Logits and `past` are [B,K], labels [B]. At alpha = 0 the label loss; where student and past agree it is
    not 0 but that mixture's entropy or more.
    Kim, Ji, Yoon and Hwang, ICCV 2021, arXiv 2006.12000.
    """
    targets = (1.0 - alpha) * F.one_hot(labels, student_logits.shape[1]) + alpha * past
    return F.cross_entropy(student_logits, targets)


class PsKd(nn.Module):
    """The difference that `ps_kd` makes to the label loss, with alpha rising in a line to its last value.

    `answers` [N,K] begins with the labels, so the first visit of an image is no different from plain
    training; it takes 4 * N * K bytes, in memory and in every checkpoint.

    In a mixed batch only the image's own share of the label is softened, by its past answer, which was given
    to a mixture too; the other image's share stays as it is.
    """

    answers: Tensor

    def __init__(self, alpha: float, context: TermContext) -> None:
        super().__init__()
        labels = context.training().labels
        self.alpha, self.num_epochs, self.label_smoothing = alpha, context.num_epochs, context.label_smoothing
        self.register_buffer("answers", F.one_hot(labels, context.num_classes).float())

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        past = self.answers[batch.indices]
        self.answers[batch.indices] = student.logits.detach().softmax(dim=1).to(self.answers.dtype)
        from_past = F.cross_entropy(student.logits, past, reduction="none")
        from_label = F.cross_entropy(
            student.logits, batch.labels, reduction="none", label_smoothing=self.label_smoothing
        )
        alpha = self.alpha * epoch / self.num_epochs
        share = torch.ones_like(from_label) if batch.mix is None else batch.mix
        return {"ps_kd": alpha * (share * (from_past - from_label)).mean()}


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    return PsKd(options["alpha"], context)
