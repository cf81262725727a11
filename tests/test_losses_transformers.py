"""The losses made for transformers: values worked out by hand, limits, unequal heads, depths and patches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.deit import build as build_deit
from kdsearch.losses.deit import deit
from kdsearch.losses.kd import kd
from kdsearch.losses.terms import TermContext, build_terms, total_loss
from kdsearch.models.build import Outputs
from kdsearch.records import Choice, TrainConfig, TrialConfig


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(batch_size: int) -> Batch:
    numbers = torch.arange(batch_size)
    return Batch(torch.zeros(batch_size, 1, 8, 8), numbers % 3, numbers)


def context(**fields: Any) -> TermContext:
    given: dict[str, Any] = {
        "student_stages": (),
        "teacher_stages": (),
        "student_features": 8,
        "teacher_features": 8,
        "num_classes": 3,
        "scheduled_temperature": lambda epoch: 2.0,
        "num_samples": 40,
        "num_epochs": 10,
    }
    return TermContext(**{**given, **fields})


# deit


def test_hard_deit_is_the_cross_entropy_with_the_teachers_answer() -> None:
    # token (1/4, 3/4), the teacher says the first class: ln 4
    token, teacher = tensor([0, math.log(3)]), tensor([5, 4])
    assert deit(token, teacher).item() == pytest.approx(math.log(4))


def test_soft_deit_divides_by_all_elements() -> None:
    # T=2: teacher (1/4, 3/4), token (1/2, 1/2); KL = 3/4 ln 3 - ln 2; times 4, over 2 classes
    token, teacher = tensor([0, 0]), tensor([0, 2 * math.log(3)])
    by_hand = (3 * math.log(3) - 4 * math.log(2)) / 2
    assert deit(token, teacher, hard=False, temperature=2.0).item() == pytest.approx(by_hand)


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 2.57755044995), (4.0, 4.30184610807)])
def test_soft_deit_has_the_references_value(temperature: float, value: float) -> None:
    n = torch.arange(30, dtype=torch.float64)
    token = 3 * torch.sin(0.013 * n**2 + 0.37 * n + 0.11).reshape(6, 5)
    teacher = 3 * torch.cos(0.017 * n**2 + 0.53 * n + 0.29).reshape(6, 5)
    assert kd(token, teacher, temperature).item() == pytest.approx(value, rel=1e-6)
    assert deit(token, teacher, False, temperature).item() == pytest.approx(value / 5, rel=1e-6)


def test_soft_deit_is_zero_where_the_token_answers_like_the_teacher() -> None:
    logits = normal(6, 5)
    assert deit(logits + 2, logits, hard=False, temperature=3.0).abs() < 1e-12


def test_hard_deit_vanishes_for_a_token_that_is_sure_of_the_teachers_answer() -> None:
    logits = normal(6, 5)
    assert deit(1e4 * logits, logits).item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("hard", [True, False])
def test_the_token_learns_from_the_teacher_and_the_class_token_from_the_labels(hard: bool) -> None:
    config = TrialConfig(
        student=Choice("vit"),
        train=TrainConfig(epochs=1),
        distill={"response": Choice("deit", {"hard": hard})},
        alpha=0.3,
        temperature=2.0,
    )
    class_logits, token_logits = normal(6, 3).requires_grad_(), normal(6, 3, seed=1).requires_grad_()
    student = Outputs(class_logits, {}, normal(6, 8), {"token": {"logits": token_logits}})
    teacher = Outputs(normal(6, 3, seed=2), {}, normal(6, 8))
    loss, _ = total_loss(config, build_terms(config, context()), student, teacher, batch(6), epoch=1)
    base = F.cross_entropy(class_logits, batch(6).labels)
    distilled = deit(token_logits, teacher.logits, hard, 2.0)
    torch.testing.assert_close(loss, 0.7 * base + 0.3 * distilled)


def test_a_student_without_a_token_gives_its_logits_in_its_place() -> None:
    student, teacher = (Outputs(normal(6, 3, seed=seed), {}, normal(6, 8)) for seed in (1, 2))
    parts = build_deit({"hard": True}, context())(student, teacher, batch(6), 1)
    assert torch.equal(parts["deit"], deit(student.logits, teacher.logits))
