"""Multi-level logit distillation's relations: classes over the batch, samples over the classes.

Goes in: logits of both networks. Comes out: a scalar each. Not in METHODS: the method needs a second,
strongly augmented view of every image.
"""

from __future__ import annotations

from torch import Tensor


def class_correlation(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Sum over K*K of the squared difference of P'P, over K, with P = softmax(logits / T) [B,K]; no T^2.

    0 where the logits agree up to a constant per sample.
    Jin, Wang and Lin, CVPR 2023, "Multi-Level Logit Distillation" (no arXiv version).
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    return (teacher.T @ teacher - student.T @ student).square().sum() / student.shape[1]


def batch_correlation(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Sum over B*B of the squared difference of PP', over B; otherwise as `class_correlation`."""
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    return (teacher @ teacher.T - student @ student.T).square().sum() / len(student)


def _probabilities(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    return (student_logits / temperature).softmax(dim=1), (teacher_logits.detach() / temperature).softmax(
        dim=1
    )
