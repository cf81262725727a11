"""Class-wise self-distillation: two images of a class should get the same answer.

Goes in: the student's logits for an image and for another one of its class. Comes out: a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdsearch.data.counter import below, counter_hash
from kdsearch.data.views import Batch
from kdsearch.losses.kd import kd
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def cs_kd(student_logits: Tensor, partner_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """`kd` from the answer to another image of the same class, which gets no gradient.

    Logits are [B,K]. 0 where both images get the same answer.
    Yun, Park, Lee and Shin, CVPR 2020, arXiv 2003.13964.
    """
    return kd(student_logits, partner_logits, temperature)


class Partners:
    """For every training image another one of its class, a function of (seed, epoch, image) alone."""

    def __init__(self, labels: Tensor, num_classes: int, seed: int) -> None:
        self._seed = seed
        self._members = torch.argsort(labels, stable=True)  # image numbers, class by class
        self._counts = torch.bincount(labels, minlength=num_classes)
        self._starts = self._counts.cumsum(0) - self._counts
        places = torch.empty_like(self._members)
        places[self._members] = torch.arange(len(labels), device=labels.device)
        self._ranks = places - self._starts[labels]  # an image's place within its class

    def of(self, indices: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """Partners [B] of the images `indices` [B] of the classes `labels` [B], each of the others of the
        class as likely; an image alone in its class is its own."""
        bits = counter_hash(self._seed, epoch, indices)
        counts = self._counts[labels]
        steps = 1 + below(bits, (counts - 1).clamp_min(1))
        return self._members[self._starts[labels] + (self._ranks[indices] + steps) % counts]


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    """Every image of the batch gets the label loss and a partner; in the source, which splits a batch into
    images and partners, only half of them do. The partners run as a batch of their own in training mode, so
    batch norm sees them by themselves and counts them in its statistics, as in the source."""
    access = context.training()
    seed = int(torch.randint(2**31, ()))  # from the seeded generator that learned parts start from
    partners = Partners(access.labels, context.num_classes, seed)

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        chosen = partners.of(batch.indices, batch.labels, epoch)
        with torch.no_grad():
            partner = access.student(access.view(chosen, epoch, 1).images)
        return {"cs_kd": cs_kd(student.logits, partner.logits, options["temperature"])}

    return term
