"""Every method trains a student on digits, and goes on after an interruption as if there had been none."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from few_images import few_digits

from kdsearch.data import ImageData
from kdsearch.losses import METHODS
from kdsearch.models import CNN_DETAILS, TRANSFORMER_DETAILS
from kdsearch.models.build import Classifier, build
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.teacher_model import Frozen
from kdsearch.training import Training

LEARNED = [key for key, method in METHODS.items() if method.learned]

RESNETS = Choice("resnet", {"depth": 8, "width": 0.25}), Choice("resnet", {"depth": 8, "width": 0.5})
VIT = {"patch": 4, "depth": 2, "heads": 2}
VITS = Choice("vit", {**VIT, "dim": 8}), Choice("vit", {**VIT, "dim": 16})


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Two batches of digits."""
    return few_digits(48, 16)


def networks(key: str) -> tuple[Choice, Choice]:
    """Student and teacher: transformers where the method reads what only they have."""
    return VITS if METHODS[key].needs & (TRANSFORMER_DETAILS - CNN_DETAILS) else RESNETS


@pytest.fixture
def teacher(key: str, data: ImageData) -> Classifier:
    choice = networks(key)[1]
    torch.manual_seed(1)
    network = build(choice.name, choice.options, data.num_classes, data.in_channels, data.image_size)
    return Frozen(network)  # as every teacher of a sweep is


def config(key: str, epochs: int) -> TrialConfig:
    return TrialConfig(
        networks(key)[0],
        TrainConfig(epochs=epochs, batch_size=24, lr=0.01),
        distill={METHODS[key].slot: Choice(key)},
        alpha=0.5,
        temperature=4.0,
        seed=3,
    )


@pytest.mark.parametrize("key", METHODS)
def test_an_epoch_moves_the_student_and_leaves_the_teacher(
    key: str, data: ImageData, teacher: Classifier
) -> None:
    training = Training(config(key, epochs=1), data, teacher=teacher)
    student_before = [parameter.clone() for parameter in training.student.parameters()]
    teacher_before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    result = training.run_epoch()
    parts = {name: value for name, value in result.terms.items() if name != "label"}
    assert parts
    assert all(name == key or name.startswith(f"{key}_") for name in parts)
    assert all(math.isfinite(value) for value in (*parts.values(), *result.metrics.values()))
    assert not all(map(torch.equal, student_before, training.student.parameters()))
    assert all(torch.equal(tensor, teacher_before[name]) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("key", METHODS)
def test_the_memory_layout_of_the_student_is_nothing_but_its_speed(
    key: str, data: ImageData, teacher: Classifier
) -> None:
    wide = Choice("resnet", {"depth": 8, "width": 0.5})
    asked = config(key, epochs=1)
    asked = dataclasses.replace(asked, student=wide) if asked.student.name == "resnet" else asked
    usual = Training(asked, data, teacher=teacher).run_epoch()
    other = Training(asked, data, teacher=teacher, layout="channels_last").run_epoch()
    assert other.terms == pytest.approx(usual.terms, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("key", METHODS)
def test_a_resumed_training_ends_bit_for_bit_where_an_uninterrupted_one_does(
    key: str, data: ImageData, teacher: Classifier
) -> None:
    uninterrupted = Training(config(key, epochs=2), data, teacher=teacher)
    uninterrupted.run_epoch()
    state = uninterrupted.state_dict()
    last = uninterrupted.run_epoch()
    resumed = Training(config(key, epochs=2), data, teacher=teacher)
    resumed.load_state_dict(state)
    again = resumed.run_epoch()
    assert again.terms == last.terms
    for one, other in (
        (uninterrupted.student.state_dict(), resumed.student.state_dict()),
        (uninterrupted.state_dict()["learned"], resumed.state_dict()["learned"]),
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("key", LEARNED)
def test_what_a_method_learns_is_trained_but_not_part_of_the_student(
    key: str, data: ImageData, teacher: Classifier
) -> None:
    training = Training(config(key, epochs=1), data, teacher=teacher)
    start = {name: tensor.clone() for name, tensor in training.state_dict()["learned"].items()}
    names = set(training.student.state_dict())
    training.run_epoch()
    learned = training.state_dict()["learned"]
    assert any(not torch.equal(tensor, start[name]) for name, tensor in learned.items())
    assert set(training.student.state_dict()) == names
