"""CRD, SemCKD and CTKD: reference values, values worked out by hand, what they draw, remember and resume."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from few_images import few_digits
from sequences import student_sequence

from kdsearch.losses import METHODS
from kdsearch.losses.crd import crd, draw_negatives, draw_of_same_class
from kdsearch.losses.ctkd import ctkd, gradient_reversal
from kdsearch.losses.kd import kd
from kdsearch.losses.semckd import layer_attention, semckd
from kdsearch.models.build import build
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.training import Training, load_checkpoint, save_checkpoint

# crd


def test_crd_has_the_references_value():
    log_scores = student_sequence(3, 9) - math.log(9)
    assert crd(log_scores, num_samples=20).item() == pytest.approx(4.60553533839, rel=1e-6)


def test_crd_worked_out_by_hand():
    scores = torch.tensor([[3.0, 1.0, 1.0]], dtype=torch.float64)  # K/N = 2/2 = 1
    expected = -(math.log(3 / 4) + 2 * math.log(1 / 2))
    assert crd(scores.log(), num_samples=2).item() == pytest.approx(expected, rel=1e-6)


def test_crd_of_a_certain_positive_and_impossible_negatives_is_near_zero():
    scores = torch.tensor([[1e12, 1e-12, 1e-12]], dtype=torch.float64)
    assert crd(scores.log(), num_samples=20).item() == pytest.approx(0, abs=1e-5)


def test_crd_is_finite_where_the_scores_themselves_are_not():
    log_scores = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)  # K/N = 2/2 = 1
    loss = crd(log_scores, num_samples=2)
    loss.backward()
    assert loss.item() == pytest.approx(200 + 200 + math.log(2), rel=1e-6)
    assert log_scores.grad.tolist()[0] == pytest.approx([-1, 1, 0.5], rel=1e-6)


LABELS = torch.tensor([0] * 30 + [1] * 20 + [2] * 10)


def test_negatives_are_of_other_classes_and_none_comes_twice():
    torch.manual_seed(0)
    own = torch.tensor([0, 1, 2, 0])
    drawn = draw_negatives(LABELS, own, num_negatives=30, largest_class=30)
    assert drawn.shape == (4, 30)
    assert not (LABELS[drawn] == own[:, None]).any()
    assert [len(set(row)) for row in drawn.tolist()] == [30] * 4


def test_negatives_are_uniform_over_the_other_classes():
    torch.manual_seed(0)
    rows = [draw_negatives(LABELS, torch.tensor([1, 1]), 10, largest_class=30) for _ in range(2000)]
    counts = torch.bincount(torch.cat(rows).flatten(), minlength=60)
    others = counts[LABELS != 1].double()
    assert counts[LABELS == 1].sum() == 0
    assert (others / others.mean() - 1).abs().max() < 0.15  # 1,000 draws each: five standard deviations


def test_negatives_of_fifty_thousand_samples_are_drawn_at_once():
    labels = torch.arange(50_000) % 100
    drawn = draw_negatives(labels, labels[:8], num_negatives=12_500, largest_class=500)
    assert drawn.shape == (8, 12_500)


def test_a_relaxed_positive_is_any_sample_of_the_class():
    torch.manual_seed(0)
    shuffled = LABELS[torch.randperm(60)]
    drawn = draw_of_same_class(shuffled, torch.tensor([2] * 500))
    assert set(drawn.tolist()) == set((shuffled == 2).nonzero().flatten().tolist())


def test_negatives_are_those_that_a_boolean_index_picks():
    num_negatives, own = 7, torch.tensor([0, 1, 2, 2])
    torch.manual_seed(0)
    drawn = draw_negatives(LABELS, own, num_negatives, largest_class=30)
    torch.manual_seed(0)
    order, start = torch.randperm(60), torch.randint(60, (4, 1))
    candidates = order[(start + torch.arange(num_negatives + 30)) % 60]
    is_other = LABELS[candidates] != own[:, None]
    taken = is_other & (is_other.cumsum(dim=1) <= num_negatives)
    assert torch.equal(drawn, candidates[taken].view(4, num_negatives))


def test_negatives_are_drawn_without_waiting_for_a_gpu():
    """Tensors without content have no answer to wait for, and would refuse."""
    labels = LABELS.to("meta")
    assert draw_negatives(labels, labels[:4], num_negatives=20, largest_class=30).shape == (4, 20)


# semckd


def test_semckd_worked_out_by_hand():
    student = [[torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)]]
    teacher = [[torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 4.0)]]
    attention = torch.tensor([[[0.25, 0.75]]])
    assert semckd(student, teacher, attention).item() == pytest.approx(0.25 * 4 + 0.75 * 16)


def test_semckd_is_zero_where_every_projection_is_the_teachers_map():
    maps = [[student_sequence(4, 3, 2, 2), student_sequence(4, 5, 1, 1)]] * 2
    attention = layer_attention(student_sequence(4, 2, 3), student_sequence(4, 2, 3))
    assert semckd(maps, maps, attention).item() == 0


def test_attention_adds_up_to_one_over_the_teachers_stages():
    attention = layer_attention(student_sequence(4, 2, 3), student_sequence(4, 5, 3))
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(4, 2, dtype=torch.float64))


# ctkd


def test_ctkd_is_kd_at_its_temperature():
    student, teacher = student_sequence(6, 5), student_sequence(6, 5).flip(0)
    temperature = 1 + 20 / (1 + math.exp(-1.0))
    value = ctkd(student, teacher, torch.tensor(1.0, dtype=torch.float64), reversal=-1.0)
    assert temperature == pytest.approx(15.62, abs=0.01)
    assert value.item() == pytest.approx(kd(student, teacher, temperature).item(), rel=1e-12)


def test_ctkd_is_zero_where_the_logits_agree():
    value = ctkd(student_sequence(6, 5), student_sequence(6, 5), torch.tensor(1.0), reversal=-1.0)
    assert value.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("reversal", [0.0, -0.25, -1.0])
def test_the_gradient_that_reaches_the_temperature_is_turned_round(reversal):
    gradients = []
    for factor in (1.0, reversal):
        theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        ctkd(3 * student_sequence(6, 5), student_sequence(6, 5).flip(0), theta, factor).backward()
        gradients.append(theta.grad)
    assert gradients[0] != 0
    assert gradients[1].item() == pytest.approx(reversal * gradients[0].item(), rel=1e-12)


def test_the_reversal_grows_to_minus_one_and_stays():
    values = [gradient_reversal(epoch, ramp_epochs=10) for epoch in (0, 5, 10, 200)]
    assert values == pytest.approx([0, -0.5, -1, -1])


# In a training.

SIZE = 150  # batches of 64, 64 and 22: the last one is not whole
RECIPE = TrainConfig(epochs=2, batch_size=64, lr=0.01)


@pytest.fixture(scope="module")
def small():
    return few_digits(SIZE, 40)


def training(small, name, **options):
    slot = METHODS[name].slot
    config = TrialConfig(
        Choice("resnet", {"depth": 8, "width": 0.25}),
        RECIPE,
        distill={slot: Choice(name, options)},
        alpha=0.5,
        temperature=4.0,
        seed=3,
    )
    torch.manual_seed(1)
    teacher = build("resnet", {"depth": 8, "width": 0.5}, 10, 1, small.image_size)
    return Training(config, small, (("crop", {"padding": 1}),), teacher)


METHODS_HERE = [("crd", {"mode": "exact"}), ("crd", {"mode": "relax"}), ("ctkd", {}), ("semckd", {})]


@pytest.mark.parametrize(("name", "options"), METHODS_HERE)
def test_resumed_equals_uninterrupted(small, tmp_path, name, options):
    straight = training(small, name, **options)
    first = straight.run_epoch()
    sha256 = save_checkpoint(tmp_path / "epoch-1.pt", straight)
    second = straight.run_epoch()
    resumed = training(small, name, **options)
    resumed.load_state_dict(load_checkpoint(tmp_path / "epoch-1.pt", sha256))
    assert resumed.run_epoch().terms == second.terms
    assert all(map(math.isfinite, first.terms.values()))
    states = straight.state_dict(), resumed.state_dict()
    for part in ("student", "learned"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part])


def test_every_sample_is_remembered_and_the_normaliser_stays(small):
    crd_training = training(small, "crd")
    before = crd_training.state_dict()["learned"]
    crd_training.run_epoch()
    between = crd_training.state_dict()["learned"]
    crd_training.run_epoch()
    after = crd_training.state_dict()["learned"]
    memories = [name for name in before if name.endswith("_memory")]
    assert len(memories) == 2
    assert all((before[name] != between[name]).any(dim=1).all() for name in memories)
    (normaliser,) = (name for name in before if name.endswith("log_normalisers"))
    assert before[normaliser].tolist() == [-math.inf, -math.inf]
    assert between[normaliser].isfinite().all()
    assert torch.equal(between[normaliser], after[normaliser])


def test_no_more_negatives_than_there_are_images_of_other_classes(small):
    (_, term) = training(small, "crd")._terms["contrastive"]
    assert term.num_negatives == SIZE - np.bincount(small.train.labels).max()


def test_crd_is_finite_at_the_narrowest_head_and_the_lowest_temperature(small):
    options = METHODS["crd"].options
    found = training(small, "crd", width=options["width"].low, tau=options["tau"].low).run_epoch()
    assert all(math.isfinite(value) for value in found.terms.values())


def test_images_of_one_class_are_refused_in_words(small):
    alike = dataclasses.replace(small.train, labels=0 * small.train.labels)
    with pytest.raises(ValueError, match="all training images are of one class"):
        training(dataclasses.replace(small, train=alike), "crd")


def test_a_batch_that_is_not_whole_is_skipped_by_semckd(small):
    semckd_training = training(small, "semckd")
    views = semckd_training._views
    (_, term) = semckd_training._terms["feature"]
    outputs = semckd_training._student_outputs(views.plain(torch.arange(22)).images)
    teacher = semckd_training._teacher_outputs(views.plain(torch.arange(22)).images)
    value = term(outputs, teacher, views.plain(torch.arange(22)), 1)["semckd"]
    value.backward()
    assert value.item() == 0


def test_the_temperature_is_learned(small):
    ctkd_training = training(small, "ctkd", ramp=0.0)
    before = ctkd_training.state_dict()["learned"]["response.theta"].item()
    ctkd_training.run_epoch()
    assert ctkd_training.state_dict()["learned"]["response.theta"].item() != before
