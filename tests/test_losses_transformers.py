"""The losses made for transformers: values worked out by hand, limits, unequal heads, depths and patches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sequences import student_sequence, teacher_sequence
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.deit import build as build_deit
from kdsearch.losses.deit import deit
from kdsearch.losses.kd import kd
from kdsearch.losses.minilm import build as build_minilm
from kdsearch.losses.minilm import common_heads, minilm
from kdsearch.losses.terms import Term, TermContext, build_terms, total_loss
from kdsearch.losses.tinybert import TinyBert, tinybert, tinybert_attention, tinybert_hidden
from kdsearch.losses.tinybert import build as build_tinybert
from kdsearch.losses.tokens import regrouped, regrouped_scores
from kdsearch.models.build import Classifier, Outputs, build
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
    token, teacher = 3 * student_sequence(6, 5), 3 * teacher_sequence(6, 5)
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


# Tokens on a common grid


def test_patches_are_averaged_and_the_class_token_is_kept() -> None:
    tokens = tensor(*range(5))[:, None]  # the class token, then 2x2 patches
    assert regrouped(tokens, size=2, coarse=1).tolist() == [[0.0], [(1 + 2 + 3 + 4) / 4]]


def test_a_quarter_of_a_finer_grid_is_one_patch_of_the_coarser() -> None:
    tokens = tensor(*range(17))[:, None]  # patch 4 * row + column is 1 + that
    upper_left, lower_right = (1 + 2 + 5 + 6) / 4, (11 + 12 + 15 + 16) / 4
    coarse = regrouped(tokens, size=4, coarse=2)[:, 0]
    assert coarse[[0, 1, 4]].tolist() == [0, upper_left, lower_right]


def test_a_distillation_token_is_left_out() -> None:
    tokens = normal(3, 6, 4)
    assert torch.equal(regrouped(tokens, size=2, coarse=2), tokens[:, [0, 2, 3, 4, 5]])


@pytest.mark.parametrize(("size", "coarse"), [(4, 2), (7, 4), (3, 3)])
def test_averaged_scores_are_the_scores_of_averaged_queries_and_keys(size: int, coarse: int) -> None:
    queries, keys = normal(2, 3, 2 + size**2, 5), normal(2, 3, 2 + size**2, 5, seed=1)
    scores = regrouped_scores(queries @ keys.mT, size, coarse)
    torch.testing.assert_close(scores, regrouped(queries, size, coarse) @ regrouped(keys, size, coarse).mT)


def test_equal_grids_are_compared_as_they_are() -> None:
    tokens = normal(2, 10, 4)
    assert regrouped(tokens, size=3, coarse=3) is tokens


# tinybert


def test_tinybert_is_the_mean_square_of_the_scores_and_of_the_states() -> None:
    scores, states = tensor([[[0, 1], [2, 3]]]), tensor([[1, 1], [0, 2]])
    attention, hidden = (0 + 1 + 4 + 9) / 4, (1 + 1 + 0 + 4) / 4
    zeros = torch.zeros_like(scores), torch.zeros_like(states)
    assert tinybert_attention(scores, zeros[0]).item() == attention
    assert tinybert_hidden(states, zeros[1]).item() == hidden
    assert tinybert(scores, zeros[0], states, zeros[1]).item() == attention + hidden


def test_unequal_heads_are_compared_by_their_means() -> None:
    # the student's mean over two heads is 2, the teacher's over three is 1
    student, teacher = tensor([[[1]], [[3]]]), tensor([[[0]], [[0]], [[3]]])
    assert tinybert_attention(student, teacher).item() == (2 - 1) ** 2


def test_equal_heads_are_compared_one_by_one() -> None:
    student, teacher = tensor([[[1]], [[3]]]), tensor([[[3]], [[1]]])
    assert tinybert_attention(student, teacher).item() == 4


STUDENT = {"patch": 4, "dim": 16, "depth": 2, "heads": 2}
TEACHER = {"patch": 2, "dim": 24, "depth": 4, "heads": 3}


def vit(seed: int = 0, **options: Any) -> Classifier:
    torch.manual_seed(seed)
    return build("vit", options, num_classes=3, in_channels=1, image_size=8).double()


def between(student: Classifier, teacher: Classifier) -> TermContext:
    return context(
        student_stages=student.stages,
        teacher_stages=teacher.stages,
        student_features=student.num_features,
        teacher_features=teacher.num_features,
    )


def compare(term: Term, student: Classifier, teacher: Classifier) -> dict[str, Tensor]:
    images = normal(5, 1, 8, 8)
    return term(student.outputs(images, detailed=True), teacher.outputs(images, detailed=True), batch(5), 1)


ALL_OF_TINYBERT = {"attention_weight": 1.0, "hidden_weight": 1.0, "embedding": True}


def tinybert_term(student: Classifier, teacher: Classifier, layer_map: str, **changed: Any) -> TinyBert:
    options = {**ALL_OF_TINYBERT, "layer_map": layer_map, **changed}
    term = build_tinybert(options, between(student, teacher))
    assert isinstance(term, TinyBert)
    return term.double()


def test_tinybert_compares_transformers_of_unequal_depth_width_heads_and_patches() -> None:
    student, teacher = vit(**STUDENT, token=True), vit(seed=1, **TEACHER)
    term = tinybert_term(student, teacher, "uniform")
    parts = compare(term, student, teacher)
    torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    unread = ("classifier", "norm.", "token_head.classifier")
    gradients = {name: p.grad for name, p in student.named_parameters() if not name.startswith(unread)}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert term.project.weight.grad is not None
    assert term.project.weight.grad.any()


def test_tinybert_takes_every_kth_block_and_the_embedding() -> None:
    student, teacher = vit(**STUDENT), vit(seed=1, **{**TEACHER, "patch": 4, "dim": 16, "heads": 2})
    term = tinybert_term(student, teacher, "uniform")
    images = normal(5, 1, 8, 8)
    ours, theirs = (model.outputs(images, detailed=True).details for model in (student, teacher))
    blocks = (("stage1", "stage2"), ("stage2", "stage4"))
    attention = sum(F.mse_loss(ours["attention"][s], theirs["attention"][t]) for s, t in blocks)
    states = (("embedding", "embedding"), *blocks)
    hidden = sum(F.mse_loss(term.project(ours["tokens"][s]), theirs["tokens"][t]) for s, t in states)
    parts = compare(term, student, teacher)
    torch.testing.assert_close(parts["tinybert_attention"], torch.as_tensor(attention))
    torch.testing.assert_close(parts["tinybert_hidden"], torch.as_tensor(hidden))


def test_tinybert_is_zero_between_equal_networks_behind_the_identity() -> None:
    network = vit(**STUDENT)
    term = tinybert_term(network, network, "all")
    torch.nn.init.eye_(term.project.weight)
    torch.nn.init.zeros_(term.project.bias)
    assert all(value == 0 for value in compare(term, network, network).values())


# minilm


def test_minilm_is_the_mean_divergence_of_a_tokens_relations() -> None:
    # teacher: x = (a, 0), a^2 = ln 3: the first token relates (3/4, 1/4), the second (1/2, 1/2); student: 1/2
    teacher = tensor([[[math.sqrt(math.log(3))], [0]]]).expand(3, 1, 2, 1)
    by_hand = 3 * (3 / 4 * math.log(3) - math.log(2)) / 2
    assert minilm(torch.zeros_like(teacher), teacher, 1).item() == pytest.approx(by_hand)


def test_minilm_does_not_see_a_rotation_of_each_head() -> None:
    qkv = normal(3, 2, 5, 8)
    rotation = torch.linalg.qr(normal(4, 4, seed=1)).Q
    rotated = (qkv.view(3, 2, 5, 2, 4) @ rotation).view(3, 2, 5, 8)
    assert minilm(rotated, qkv, 2).abs() < 1e-12
    assert minilm(rotated, qkv, 4) > 1e-3


@pytest.mark.parametrize(
    ("student", "teacher", "at_most", "heads"),
    [(24, 64, 8, 8), (24, 64, 12, 8), (24, 64, 7, 4), (7, 9, 8, 1)],
)
def test_relation_heads_divide_both_widths(student: int, teacher: int, at_most: int, heads: int) -> None:
    assert common_heads(student, teacher, at_most) == heads


def test_minilm_compares_transformers_of_unequal_depth_width_heads_and_patches() -> None:
    student, teacher = vit(**STUDENT, token=True), vit(seed=1, **TEACHER)
    term = build_minilm({"layer_map": "stage2>stage3", "relation_heads": 8}, between(student, teacher))
    images = normal(5, 1, 8, 8)
    ours, theirs = (model.outputs(images, detailed=True).details["qkv"] for model in (student, teacher))
    expected = minilm(regrouped(ours["stage2"], 2, 2), regrouped(theirs["stage3"], 4, 2), 8)
    torch.testing.assert_close(compare(term, student, teacher)["minilm"], expected)
    assert expected > 0
