"""Multi-level logit distillation: samples, the batch's relations and the classes' relations, on two views.

Goes in: logits of both networks on a plain and a strongly augmented view of the same images. Comes out: a
scalar for each view.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import total
from kdsearch.losses.terms import Term, TermContext, label_loss
from kdsearch.models.build import Outputs

Masking: TypeAlias = Literal["source", "elementwise"]

# The source's 4, 3, 5, 2 and 6 in units of its 4.
RELATIVE_TEMPERATURES = (1.0, 0.75, 1.25, 0.5, 1.5)
NUM_ON_STRONG = 3  # of these: the source takes the last two of the strong sum from the plain view


def mlkd(
    student_plain: Tensor,
    student_strong: Tensor,
    teacher_plain: Tensor,
    teacher_strong: Tensor,
    temperature: float = 4.0,
    masking: Masking = "source",
) -> Tensor:
    """The sum over five temperatures of kd, `class_correlation` and `batch_correlation` on both views.

    Logits are [B,K], student first. The masks come from the plain view: samples whose top probability is at
    most the batch's median, classes whose summed probability is at most the median. `source` computes what
    the authors' code does: their masks act on terms that are scalars already, so as the fractions that they
    keep; of the strong view only kd counts, at three temperatures, the other two are plain. `elementwise`
    is the paper's intention: masked samples and classes count in the plain view's terms, and all terms
    count on the strong view, unmasked. 0 where the logits agree up to a constant per sample.
    Jin, Wang and Lin, CVPR 2023, "Multi-Level Logit Distillation" (no arXiv version).
    """
    samples, classes = masks(teacher_plain)
    temperatures = [temperature * relative for relative in RELATIVE_TEMPERATURES]
    plain, strong = (student_plain, teacher_plain), (student_strong, teacher_strong)
    if masking == "elementwise":
        return total(
            kd_of(*plain, t, samples)
            + class_correlation(*plain, t, classes)
            + batch_correlation(*plain, t, samples)
            + kd_of(*strong, t)
            + class_correlation(*strong, t)
            + batch_correlation(*strong, t)
            for t in temperatures
        )
    of_samples, of_classes = samples.mean(), classes.mean()
    masked = total(
        of_samples * (kd_of(*plain, t) + batch_correlation(*plain, t))
        + of_classes * class_correlation(*plain, t)
        for t in temperatures
    )
    views = [strong] * NUM_ON_STRONG + [plain] * (len(temperatures) - NUM_ON_STRONG)
    return masked + total(kd_of(*view, t) for view, t in zip(views, temperatures, strict=True))


def masks(teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples [B] and classes [K] count, as ones and zeros, from logits [B,K] at T = 1."""
    probabilities = teacher_logits.detach().softmax(dim=1)
    sureness, frequency = probabilities.amax(dim=1), probabilities.sum(dim=0)
    samples, classes = (x <= x.quantile(0.5) for x in (sureness, frequency))
    return samples.to(probabilities.dtype), classes.to(probabilities.dtype)


def kd_of(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, samples: Tensor | None = None
) -> Tensor:
    """`kd`, each sample's divergence times its entry of `samples` [B] before the mean over the batch."""
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    return temperature**2 * (divergence if samples is None else samples * divergence).mean()


def class_correlation(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, classes: Tensor | None = None
) -> Tensor:
    """Sum over K*K of the squared difference of P'P, over K, with P = softmax(logits / T) [B,K]; no T^2.

    The rows of the difference are multiplied by `classes` [K]. 0 where the logits agree up to a constant per
    sample.
    Jin, Wang and Lin, CVPR 2023, "Multi-Level Logit Distillation" (no arXiv version).
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    return _squares_per_row(teacher.T @ teacher - student.T @ student, classes)


def batch_correlation(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, samples: Tensor | None = None
) -> Tensor:
    """Sum over B*B of the squared difference of PP', over B; otherwise as `class_correlation`."""
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    return _squares_per_row(teacher @ teacher.T - student @ student.T, samples)


def _squares_per_row(difference: Tensor, mask: Tensor | None) -> Tensor:
    rows = difference.square().sum(dim=1)
    return (rows if mask is None else mask * rows).mean()


def _probabilities(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    return (student_logits / temperature).softmax(dim=1), (teacher_logits.detach() / temperature).softmax(
        dim=1
    )


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        training = context.training()
        strong = training.strong(batch.indices, epoch)
        student_strong, teacher_strong = training.student(strong.images), training.teacher(strong.images)
        distilled = mlkd(
            student.logits,
            student_strong.logits,
            teacher.logits,
            teacher_strong.logits,
            context.temperature_at(epoch),
            options["masking"],
        )
        label = label_loss(student_strong.logits, strong, context.label_smoothing)
        return {"mlkd": options["scale"] * distilled, "mlkd_strong_label": options["label_scale"] * label}

    return term
