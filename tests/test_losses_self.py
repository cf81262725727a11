"""A student that learns from itself, hard pseudo-labels and two temperatures: values, limits, trainings."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from few_images import few_digits
from sequences import student_sequence, teacher_sequence
from torch import Tensor

from kdsearch.data import ImageData
from kdsearch.data.views import Batch
from kdsearch.losses.byot import Branch, byot, byot_feature, byot_soft
from kdsearch.losses.cs_kd import Partners, cs_kd
from kdsearch.losses.kd import kd
from kdsearch.losses.ps_kd import PsKd, ps_kd
from kdsearch.losses.pseudo_label import pseudo_label
from kdsearch.losses.tensors import mean_answer
from kdsearch.losses.terms import NO_OUTPUTS, Access, TermContext, build_terms, label_weight, total_loss
from kdsearch.losses.tfkd import tfkd, virtual_teacher
from kdsearch.models.build import Classifier, Outputs, Stage, build
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.training import Training, load_checkpoint, save_checkpoint

SELF = ("byot", "cs_kd", "ps_kd", "tfkd")


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


Z_S, Z_T = 3 * student_sequence(6, 5), 3 * teacher_sequence(6, 5)
E_S, E_T = student_sequence(5, 4), teacher_sequence(5, 4)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


# Values: by the reference code on the two sequences, and by hand.


def test_the_virtual_teacher_has_the_references_value() -> None:
    mean_over_classes_too = tfkd(Z_S, LABELS) / 5
    assert mean_over_classes_too.item() == pytest.approx(0.251568353388, rel=1e-6)


def test_progressive_targets_have_the_references_value() -> None:
    value = ps_kd(Z_S, Z_T.softmax(dim=1), LABELS, alpha=0.3)
    assert value.item() == pytest.approx(3.98941574234, rel=1e-6)


def test_a_partner_teaches_as_kd_does() -> None:
    assert cs_kd(Z_S, Z_T, 4.0).item() == pytest.approx(4.30184610807, rel=1e-6)


def test_the_virtual_teacher_by_hand() -> None:
    probabilities = virtual_teacher(torch.tensor([1]), 3, label_probability=0.8, temperature=0.1).exp()
    rest = 2 + math.exp(7)  # softmax of (1, 8, 1), and 0.1 / 0.1 is 1
    torch.testing.assert_close(probabilities, tensor([1 / rest, math.exp(7) / rest, 1 / rest]))


def test_the_defaults_leave_the_label_a_twentieth_ahead() -> None:
    probabilities = virtual_teacher(torch.tensor([0]), 100).exp()[0]
    assert (probabilities[0] / probabilities[1]).item() == pytest.approx(1.05, abs=0.001)


def test_a_soft_branch_by_hand() -> None:
    # the last stage says 1/2, 1/2 and the branch 3/4, 1/4 at T = 3
    value = byot_soft(tensor([3 * math.log(3), 0.0]), tensor([0.0, 0.0]), temperature=3.0)
    assert value.item() == pytest.approx(-0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4))


def test_the_feature_term_is_one_norm_over_the_whole_batch() -> None:
    assert byot_feature(tensor([3.0, 0.0], [0.0, 4.0]), tensor([0.0, 0.0], [0.0, 0.0])).item() == 5.0


def test_branches_that_agree_with_the_student_cost_their_labels_and_its_entropy() -> None:
    soft = (Z_S / 3).softmax(dim=1)
    entropy = -(soft * soft.log()).sum(dim=1).mean()
    expected = 3 * 0.7 * F.cross_entropy(Z_S, LABELS) + 3 * 0.3 * entropy
    torch.testing.assert_close(byot([Z_S] * 3, [E_S] * 2, Z_S, E_S, LABELS), expected)


def test_the_feature_weight_is_the_sources() -> None:
    with_features = byot([Z_S] * 2, [E_T], Z_S, E_S, LABELS)
    without = byot([Z_S] * 2, [], Z_S, E_S, LABELS)
    torch.testing.assert_close(with_features - without, 0.03 * (E_T - E_S).norm())


def test_pseudo_labels_are_the_teachers_argmax() -> None:
    torch.testing.assert_close(pseudo_label(Z_S, Z_T), F.cross_entropy(Z_S, Z_T.argmax(dim=1)))


def test_a_pseudo_label_by_hand() -> None:
    value = pseudo_label(tensor([math.log(3), 0.0]), tensor([-1.0, 2.0]))
    assert value.item() == pytest.approx(math.log(4))


def test_a_cold_teacher_is_a_pseudo_label() -> None:
    cold = kd(Z_S, Z_T, temperature=1e-4, student_temperature=1.0) / 1e-4
    torch.testing.assert_close(cold, pseudo_label(Z_S, Z_T))


def test_equal_temperatures_are_kd() -> None:
    assert torch.equal(kd(Z_S, Z_T, 4.0, 4.0), kd(Z_S, Z_T, 4.0))


def test_two_temperatures_by_hand() -> None:
    # teacher 3/4, 1/4 at T = 2, student 1/2, 1/2 at any; the factor is 2 * 3
    value = kd(tensor([0.0, 0.0]), tensor([2 * math.log(3), 0.0]), 2.0, student_temperature=3.0)
    assert value.item() == pytest.approx(6 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)))


def test_scaled_logits_meet_at_two_temperatures() -> None:
    assert kd(0.5 * Z_T, Z_T, 4.0, student_temperature=2.0).item() == pytest.approx(0, abs=1e-12)


# Terms: what joins the label loss.


def context(labels: Tensor, student: Any = None, num_epochs: int = 10, **changes: Any) -> TermContext:
    """A training on images that are their own numbers."""

    def view(indices: Tensor, epoch: int, number: int) -> Batch:
        images = indices.double()[:, None, None, None].expand(-1, 1, 2, 2)
        return Batch(images, labels[indices], indices)

    stages = (Stage("stage1", 2, 4), Stage("stage2", 3, 2), Stage("stage3", 4, 1))
    models: Any = None
    return TermContext(
        student_stages=stages,
        teacher_stages=stages,
        student_features=4,
        teacher_features=4,
        num_classes=5,
        scheduled_temperature=lambda epoch: None,
        num_samples=len(labels),
        num_epochs=num_epochs,
        access=Access(student, models, view, models, labels, models, models),
        **changes,
    )


def answer(logits: Tensor) -> Outputs:
    return Outputs(logits, {}, torch.empty(len(logits), 0))


def trial(key: str, **options: Any) -> TrialConfig:
    choice = Choice(key, {"weight": 1.0, **options})
    return TrialConfig(Choice("resnet"), TrainConfig(epochs=10), distill={"self": choice})


def batch_of(labels: Tensor) -> Batch:
    return Batch(torch.zeros(len(labels), 1, 2, 2), labels, torch.arange(len(labels)))


def test_the_virtual_teacher_takes_a_part_of_the_label_losss_place() -> None:
    config = trial("tfkd", weight=0.1)
    terms = build_terms(config, context(LABELS))
    loss, _ = total_loss(config, terms, answer(Z_S), None, batch_of(LABELS), epoch=1)
    torch.testing.assert_close(loss, 0.9 * F.cross_entropy(Z_S, LABELS) + 0.1 * tfkd(Z_S, LABELS))


def test_it_takes_that_part_of_a_smoothed_label_loss() -> None:
    config = trial("tfkd", weight=1.0)
    config = dataclasses.replace(config, train=TrainConfig(epochs=10, label_smoothing=0.2))
    terms = build_terms(config, context(LABELS, label_smoothing=0.2))
    loss, _ = total_loss(config, terms, answer(Z_S), None, batch_of(LABELS), epoch=1)
    torch.testing.assert_close(loss, tfkd(Z_S, LABELS))


def test_the_first_epoch_of_progressive_targets_is_plain_training() -> None:
    config = trial("ps_kd")
    terms = build_terms(config, context(LABELS))
    loss, parts = total_loss(config, terms, answer(Z_S), None, batch_of(LABELS), epoch=1)
    assert parts["ps_kd"].item() == pytest.approx(0, abs=1e-7)
    torch.testing.assert_close(loss, F.cross_entropy(Z_S, LABELS))


def test_a_later_epoch_learns_from_the_answers_of_the_one_before() -> None:
    config = trial("ps_kd", alpha=0.5)
    terms = build_terms(config, context(LABELS))
    total_loss(config, terms, answer(Z_T), None, batch_of(LABELS), epoch=5)
    loss, _ = total_loss(config, terms, answer(Z_S), None, batch_of(LABELS), epoch=6)
    expected = ps_kd(Z_S, Z_T.softmax(dim=1), LABELS, alpha=0.5 * 6 / 10)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)  # the store is float32


def test_only_the_images_of_the_batch_are_remembered() -> None:
    term = PsKd(0.8, context(LABELS))
    some = Batch(torch.zeros(2, 1, 2, 2), LABELS[[4, 1]], torch.tensor([4, 1]))
    term(answer(Z_T[:2]), NO_OUTPUTS, some, 1)
    expected = F.one_hot(LABELS, 5).float()
    expected[[4, 1]] = Z_T[:2].softmax(dim=1).float()
    assert torch.equal(term.answers, expected)


def test_a_mixed_image_softens_its_own_share() -> None:
    term = PsKd(1.0, context(LABELS)).double()
    term(answer(Z_T), NO_OUTPUTS, batch_of(LABELS), 10)
    mixed = dataclasses.replace(
        batch_of(LABELS), mixed_labels=LABELS.flip(0), mix=torch.full((6,), 0.25, dtype=torch.float64)
    )
    past = F.cross_entropy(Z_S, Z_T.softmax(dim=1)) - F.cross_entropy(Z_S, LABELS)
    torch.testing.assert_close(term(answer(Z_S), NO_OUTPUTS, mixed, 10)["ps_kd"], 0.25 * past)


def test_the_labels_keep_their_weight_beside_a_teacher() -> None:
    both = {"response": Choice("kd"), "self": Choice("ps_kd")}
    config = dataclasses.replace(trial("ps_kd"), distill=both, alpha=0.9, temperature=4.0)
    assert label_weight(config) == 1.0


MANY_LABELS = torch.arange(60) % 4


def test_a_partner_is_another_image_of_the_class() -> None:
    indices = torch.arange(60)
    partners = Partners(MANY_LABELS, 5, seed=1).of(indices, MANY_LABELS, epoch=2)
    assert torch.equal(MANY_LABELS[partners], MANY_LABELS)
    assert not (partners == indices).any()


def test_every_other_image_of_the_class_is_a_partner_about_as_often() -> None:
    partners = Partners(MANY_LABELS, 5, seed=1)
    drawn = torch.cat([partners.of(torch.tensor([8]), MANY_LABELS[[8]], epoch) for epoch in range(2800)])
    counts = torch.bincount(drawn, minlength=60)
    others = [number for number in range(0, 60, 4) if number != 8]
    assert counts[others].sum() == 2800
    assert 140 < counts[others].min() <= counts[others].max() < 260  # 200 each


def test_an_image_alone_in_its_class_is_its_own_partner() -> None:
    labels = torch.tensor([0, 1, 1])
    assert Partners(labels, 2, seed=1).of(torch.tensor([0]), labels[:1], epoch=1).tolist() == [0]


def test_partners_depend_on_seed_epoch_and_image_and_not_on_the_batch() -> None:
    first, indices = Partners(MANY_LABELS, 5, seed=1), torch.arange(60)
    whole = first.of(indices, MANY_LABELS, epoch=1)
    assert torch.equal(whole[[7, 3]], first.of(torch.tensor([7, 3]), MANY_LABELS[[7, 3]], epoch=1))
    assert not torch.equal(whole, first.of(indices, MANY_LABELS, epoch=2))
    assert not torch.equal(whole, Partners(MANY_LABELS, 5, seed=2).of(indices, MANY_LABELS, epoch=1))


def test_the_partner_runs_without_gradient_and_teaches_its_own_answer() -> None:
    labels, seen = torch.tensor([0, 0, 1, 1]), []

    def student(images: Tensor) -> Outputs:
        seen.append((torch.is_grad_enabled(), images[:, 0, 0, 0].long().tolist()))
        return answer(Z_T[images[:, 0, 0, 0].long()])

    config = trial("cs_kd")
    terms = build_terms(config, context(labels, student))
    _, parts = total_loss(config, terms, answer(Z_S[:4]), None, batch_of(labels), epoch=1)
    assert seen == [(False, [1, 0, 3, 2])]
    torch.testing.assert_close(parts["cs_kd"], kd(Z_S[:4], Z_T[[1, 0, 3, 2]], 4.0))


@pytest.mark.parametrize("sizes", [(8, 4, 2), (7, 7, 3), (5, 1, 1), (1, 1, 1)], ids=str)
def test_a_branch_has_the_deepest_stages_width_whatever_the_sizes(sizes: tuple[int, ...]) -> None:
    stages = [Stage(f"stage{i}", 2 + i, size) for i, size in enumerate(sizes)]
    logits, features = Branch(stages, num_classes=5, mask=True)(torch.rand(3, 2, sizes[0], sizes[0]))
    assert logits.shape == (3, 5)
    assert features.shape == (3, 4)


@pytest.mark.parametrize(
    ("shapes", "num_blocks"),
    [([(8, 4)] * 6, 1), ([(8, 4), (8, 4), (8, 2), (8, 2)], 1), ([(4, 8), (8, 4), (8, 2)], 2)],
)
def test_a_branch_has_a_block_for_every_change_of_shape(
    shapes: list[tuple[int, int]], num_blocks: int
) -> None:
    stages = [Stage(f"stage{i}", *shape) for i, shape in enumerate(shapes)]
    assert len(Branch(stages, num_classes=5, mask=True).blocks) == num_blocks


def test_a_student_of_one_stage_has_no_earlier_one() -> None:
    one_stage = dataclasses.replace(context(LABELS), student_stages=(Stage("stage1", 8, 1),))
    with pytest.raises(ValueError, match="every stage but the last: this student has only one"):
        build_terms(trial("byot"), one_stage)


# Whole trainings, on a few images.


RECIPE = TrainConfig(epochs=3, batch_size=64, lr=0.05)
STUDENTS = {
    "resnet": Choice("resnet", {"depth": 8, "width": 0.25}),
    "mlp": Choice("mlp", {"depth": 3, "width": 0.25}),
    "vit": Choice("vit", {"depth": 3, "dim": 16, "heads": 2, "patch": 2}),
}
AUGMENT = (("crop", {"padding": 1}),)


@pytest.fixture(scope="module")
def small() -> ImageData:
    return few_digits(160, 50)


def config_of(key: str, student: str = "resnet", slot: str = "self", **changes: Any) -> TrialConfig:
    options = {"weight": 0.5} if slot == "self" else {}
    distill = {slot: Choice(key, options)}
    return TrialConfig(STUDENTS[student], RECIPE, distill=distill, seed=3, **changes)


def numbers(training: Training) -> list[Any]:
    """Every number of the epochs that are left, without the times."""
    results = [training.run_epoch() for _ in range(training.epoch, RECIPE.epochs)]
    return [(result.epoch, dict(result.metrics), dict(result.terms)) for result in results]


def plain(student: str, data: ImageData) -> Classifier:
    choice = STUDENTS[student]
    return build(choice.name, choice.options, data.num_classes, data.in_channels, data.image_size)


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("key", SELF)
def test_what_is_saved_is_the_plain_student(small: ImageData, key: str, student: str) -> None:
    training = Training(config_of(key, student), small, AUGMENT)
    result = training.run_epoch()
    assert any(name.startswith(key) for name in result.terms)
    shapes = {name: weights.shape for name, weights in training.student.state_dict().items()}
    assert shapes == {name: weights.shape for name, weights in plain(student, small).state_dict().items()}


@pytest.mark.parametrize("key", SELF)
def test_resumed_in_the_middle_equals_uninterrupted(small: ImageData, tmp_path: Any, key: str) -> None:
    whole = Training(config_of(key), small, AUGMENT)
    expected = numbers(whole)
    interrupted = Training(config_of(key), small, AUGMENT)
    interrupted.run_epoch()
    sha256 = save_checkpoint(tmp_path / "epoch-1.pt", interrupted)
    torch.manual_seed(77)
    resumed = Training(config_of(key), small, AUGMENT)
    resumed.load_state_dict(load_checkpoint(tmp_path / "epoch-1.pt", sha256))
    assert numbers(resumed) == expected[1:]
    states = whole.state_dict(), resumed.state_dict()
    for part in ("student", "learned"):
        pairs = zip(*(state[part].values() for state in states), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("key", SELF)
def test_it_changes_what_the_student_learns(small: ImageData, key: str) -> None:
    control = Training(TrialConfig(STUDENTS["resnet"], RECIPE, seed=3), small, AUGMENT)
    training = Training(config_of(key), small, AUGMENT)
    assert numbers(training)[-1][1]["train_loss"] != numbers(control)[-1][1]["train_loss"]
    weights = zip(control.student.parameters(), training.student.parameters(), strict=True)
    assert not all(torch.equal(*pair) for pair in weights)


@pytest.mark.parametrize("key", SELF)
def test_it_trains_on_mixed_images(small: ImageData, key: str) -> None:
    training = Training(config_of(key), small, (("mixup", {"alpha": 0.4}),))
    assert math.isfinite(training.run_epoch().metrics["train_loss"])


def test_pseudo_labels_train_a_student(small: ImageData) -> None:
    torch.manual_seed(1)
    config = config_of("pseudo_label", slot="response", alpha=0.5, temperature=1.0)
    result = Training(config, small, AUGMENT, plain("resnet", small)).run_epoch()
    expected = 0.5 * result.terms["label"] + 0.5 * result.terms["pseudo_label"]
    assert result.metrics["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_students_own_temperature_reaches_a_training(small: ImageData) -> None:
    torch.manual_seed(1)
    teacher = plain("resnet", small)
    same = config_of("kd", slot="response", alpha=0.5, temperature=4.0)
    other = dataclasses.replace(same, distill={"response": Choice("kd", {"student_temperature": 1.0})})
    values = [Training(c, small, AUGMENT, teacher).run_epoch().terms["kd"] for c in (same, other)]
    assert values[0] != pytest.approx(values[1], rel=1e-3)


# A teacher averaged over several views.


def test_the_mean_answer_is_the_mean_of_the_probabilities() -> None:
    torch.testing.assert_close(
        mean_answer(torch.stack([Z_S, Z_T])).softmax(dim=1),
        (Z_S.softmax(dim=1) + Z_T.softmax(dim=1)) / 2,
    )


def test_the_mean_of_equal_answers_is_the_answer() -> None:
    assert kd(mean_answer(torch.stack([Z_T] * 3)), Z_T, 4.0).item() == pytest.approx(0, abs=1e-12)


class Watched(Classifier):
    """A teacher that notes the images it is shown."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model.architecture, model.stages, model.num_features)
        self.model, self.seen = model, list[Tensor]()

    def outputs(self, images: Tensor, detailed: bool = False, until: str | None = None) -> Outputs:
        self.seen.append(images)
        return self.model.outputs(images, detailed)


def test_the_teacher_answers_several_views_of_the_students_images(small: ImageData) -> None:
    torch.manual_seed(1)
    teacher = Watched(plain("resnet", small))
    config = config_of("kd", slot="response", alpha=0.5, temperature=4.0, teacher_views=3)
    one_step = dataclasses.replace(config, train=dataclasses.replace(RECIPE, batch_size=160))
    Training(one_step, small, AUGMENT, teacher).run_epoch()
    first, second, third = teacher.seen
    assert first.shape == second.shape == third.shape
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_views_without_augmentation_are_the_plain_teacher(small: ImageData) -> None:
    torch.manual_seed(1)
    teacher = plain("resnet", small)
    one = config_of("kd", slot="response", alpha=0.5, temperature=4.0)
    values = [
        Training(config, small, (), teacher).run_epoch().terms["kd"]
        for config in (one, dataclasses.replace(one, teacher_views=3))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_several_views_resume_too(small: ImageData) -> None:
    torch.manual_seed(1)
    teacher = plain("resnet", small)
    config = config_of("kd", slot="response", alpha=0.5, temperature=4.0, teacher_views=2)
    whole, interrupted, resumed = (Training(config, small, AUGMENT, teacher) for _ in range(3))
    expected = numbers(whole)
    interrupted.run_epoch()
    resumed.load_state_dict(interrupted.state_dict())
    assert numbers(resumed) == expected[1:]
