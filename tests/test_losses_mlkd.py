"""Multi-level logit distillation: reference values, both ways of masking, and a training on two views."""

from __future__ import annotations

import math

import pytest
import torch
from few_images import few_digits
from torch import Tensor

from kdsearch.losses.kd import kd
from kdsearch.losses.mlkd import batch_correlation, class_correlation, kd_of, masks, mlkd
from kdsearch.models.build import build
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.training import Training


def sequence(*shape: int, shift: float) -> Tensor:
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return 3 * torch.sin(0.013 * n**2 + 0.37 * n + shift).reshape(shape)


STUDENT, STUDENT_STRONG, TEACHER, TEACHER_STRONG = (sequence(6, 4, shift=shift) for shift in (0, 1, 2, 3))


def test_the_source_masks_whole_terms_and_swaps_two_temperatures():
    plain, strong = (STUDENT, TEACHER), (STUDENT_STRONG, TEACHER_STRONG)
    expected = sum(
        0.5 * (kd(*plain, t) + class_correlation(*plain, t) + batch_correlation(*plain, t))
        for t in (4, 3, 5, 2, 6)
    )
    expected += sum(kd(*strong, t) for t in (4, 3, 5)) + sum(kd(*plain, t) for t in (2, 6))
    value = mlkd(STUDENT, STUDENT_STRONG, TEACHER, TEACHER_STRONG)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_half_of_an_even_number_of_samples_and_classes_is_kept():
    samples, classes = masks(TEACHER)
    assert samples.tolist().count(1.0) == 3
    assert classes.tolist().count(1.0) == 2
    probabilities = TEACHER.softmax(dim=1).amax(dim=1)
    assert probabilities[samples.bool()].max() < probabilities[~samples.bool()].min()


def test_elementwise_a_sure_sample_of_the_plain_view_does_not_count_in_kd():
    samples, _ = masks(TEACHER)
    sure = int((samples == 0).nonzero()[0])
    moved = STUDENT.index_fill(0, torch.tensor(sure), 0.0)
    assert kd_of(moved, TEACHER, 4.0, samples).item() == kd_of(STUDENT, TEACHER, 4.0, samples).item()
    assert kd_of(moved, TEACHER, 4.0).item() != kd_of(STUDENT, TEACHER, 4.0).item()


def test_elementwise_every_term_of_the_strong_view_counts():
    agreeing = TEACHER, STUDENT_STRONG, TEACHER, TEACHER_STRONG
    strong = STUDENT_STRONG, TEACHER_STRONG
    expected = sum(
        kd(*strong, t) + class_correlation(*strong, t) + batch_correlation(*strong, t)
        for t in (4, 3, 5, 2, 6)
    )
    assert mlkd(*agreeing, masking="elementwise").item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("masking", ["source", "elementwise"])
def test_is_zero_where_the_logits_agree(masking):
    value = mlkd(TEACHER + 1, TEACHER_STRONG - 1, TEACHER, TEACHER_STRONG, masking=masking)
    assert value.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("masking", ["source", "elementwise"])
@pytest.mark.parametrize("augment", [(("crop", {"padding": 1}),), (("crop", {"padding": 1}), ("mixup", {}))])
def test_trains_on_a_strong_view(masking, augment):
    small = few_digits(80)
    distill = {"response": Choice("mlkd", {"masking": masking})}
    recipe = TrainConfig(epochs=1, batch_size=40, lr=0.01)
    config = TrialConfig(
        Choice("resnet", {"depth": 8, "width": 0.25}),
        recipe,
        distill=distill,
        alpha=1.0,
        temperature=4.0,
        seed=3,
    )
    torch.manual_seed(1)
    teacher = build("resnet", {"depth": 8, "width": 0.5}, 10, 1, small.image_size)
    first, second = (Training(config, small, augment, teacher).run_epoch() for _ in range(2))
    assert first.terms == second.terms
    assert set(first.terms) == {"label", "mlkd", "mlkd_strong_label"}
    assert all(math.isfinite(value) and value > 0 for value in first.terms.values())


def test_the_strong_views_labels_are_smoothed_like_the_plain_ones():
    small = few_digits(80)
    student, teacher = (
        Choice("resnet", {"depth": 8, "width": 0.25}),
        build("mlp", {}, 10, 1, small.image_size),
    )

    def strong_label(label_smoothing):
        recipe = TrainConfig(epochs=1, batch_size=40, lr=1e-12, label_smoothing=label_smoothing)
        distill = {"response": Choice("mlkd")}
        config = TrialConfig(student, recipe, distill=distill, alpha=1.0, temperature=4.0)
        return Training(config, small, (), teacher).run_epoch().terms["mlkd_strong_label"]

    assert strong_label(0.5) != pytest.approx(strong_label(0.0), rel=1e-4)
