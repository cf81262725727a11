"""Trainings with vision transformers on digits: as students of CNNs and of each other, and as teachers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from kdsearch import data as datasets
from kdsearch.data import ImageData
from kdsearch.losses import METHODS
from kdsearch.losses.deployed import deployed
from kdsearch.models.build import Classifier, build, cost, load_student, measure, save_student
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import DataSpec
from kdsearch.spec_methods import unmet
from kdsearch.training import Training, load_checkpoint, predict, save_checkpoint

CNN = Choice("resnet", {"depth": 8, "width": 0.5})
VIT = Choice("vit", {"patch": 2, "dim": 32, "depth": 2, "heads": 4, "mlp_ratio": 2.0})
RECIPE = TrainConfig(epochs=2, batch_size=64, optimizer="adamw", lr=1e-3, weight_decay=0.05)
AUGMENT = (("crop", {"padding": 1}),)


@pytest.fixture(scope="module")
def small() -> ImageData:
    """Two batches and a few images: enough where only equality counts."""
    data = datasets.load(DataSpec(dataset="digits"))
    train = dataclasses.replace(data.train, images=data.train.images[:96], labels=data.train.labels[:96])
    validation = dataclasses.replace(
        data.validation, images=data.validation.images[:50], labels=data.validation.labels[:50]
    )
    return dataclasses.replace(data, train=train, validation=validation)


def network(choice: Choice, data: ImageData, seed: int = 1) -> Classifier:
    torch.manual_seed(seed)
    return build(choice.name, choice.options, data.num_classes, data.in_channels, data.image_size)


def trial(student: Choice, *methods: Choice, **train: Any) -> TrialConfig:
    return TrialConfig(
        student=student,
        train=dataclasses.replace(RECIPE, **train),
        distill={METHODS[choice.name].slot: choice for choice in methods},
        alpha=0.5,
        temperature=3.0,
        seed=3,
    )


def method(key: str, **changed: Any) -> Choice:
    options = {name: option.default for name, option in METHODS[key].options.items()}
    return Choice(key, {**options, **changed})


def losses(training: Training) -> list[dict[str, float]]:
    epochs = []
    while not training.finished:
        epochs.append({**(result := training.run_epoch()).metrics, **result.terms})
    return epochs


# deit


def test_a_vit_learns_digits_from_a_cnn_with_deit() -> None:
    data = datasets.load(DataSpec(dataset="digits"))
    cnn = Training(TrialConfig(CNN, TrainConfig(epochs=3, batch_size=64, lr=0.1)), data)
    losses(cnn)
    coarse = Choice("vit", {**VIT.options, "patch": 4})
    vit = Training(trial(coarse, method("deit"), epochs=5, lr=3e-3), data, teacher=cnn.student)
    assert losses(vit)[-1]["val_accuracy"] > 0.7


@pytest.mark.parametrize("hard", [True, False])
def test_deit_gives_the_student_the_token_and_pays_for_it(small: ImageData, hard: bool) -> None:
    config = trial(VIT, method("deit", hard=hard))
    student = Training(config, small, teacher=network(CNN, small)).student
    choice = deployed(config, CNN)
    assert choice == Choice("vit", {**VIT.options, "token": True})
    shape = small.num_classes, small.in_channels, small.image_size
    assert measure(student, *shape[1:]) == cost("vit", choice.options, *shape)
    assert measure(student, *shape[1:])["params"] == cost("vit", VIT.options, *shape)["params"] + 2 * 32 + 330


def test_deit_leaves_a_cnn_as_it_is(small: ImageData) -> None:
    config = trial(CNN, method("deit"))
    assert deployed(config, CNN) == CNN
    assert losses(Training(config, small, teacher=network(CNN, small)))[0]["deit"] > 0


def test_a_deit_student_and_its_control_share_their_initial_weights(small: ImageData) -> None:
    control = Training(trial(VIT), small).student.state_dict()
    partner = Training(trial(VIT, method("deit")), small, teacher=network(CNN, small)).student.state_dict()
    assert all(torch.equal(value, partner[name]) for name, value in control.items())


def test_a_saved_deit_student_answers_as_it_was_evaluated(small: ImageData, tmp_path: Path) -> None:
    training = Training(trial(VIT, method("deit")), small, AUGMENT, network(CNN, small))
    accuracy = losses(training)[-1]["val_accuracy"]
    save_student(tmp_path / "s", training.student, {})
    loaded, _ = load_student(tmp_path / "s")
    logits = predict(loaded, training._validation, training.policy)
    assert torch.equal(logits, predict(training.student, training._validation, training.policy))
    num_right = (logits.argmax(dim=1).numpy() == small.validation.labels).sum()
    assert num_right / 50 == pytest.approx(accuracy)


def expect_resume(config: TrialConfig, data: ImageData, teacher: Choice, path: Path) -> None:
    """Interrupted after an epoch and gone on with: the same numbers and weights to the last digit."""
    whole = Training(config, data, AUGMENT, network(teacher, data))
    expected = losses(whole)
    interrupted = Training(config, data, AUGMENT, network(teacher, data))
    interrupted.run_epoch()
    sha256 = save_checkpoint(path, interrupted)
    resumed = Training(config, data, AUGMENT, network(teacher, data))
    resumed.load_state_dict(load_checkpoint(path, sha256))
    assert losses(resumed) == expected[1:]
    state = whole.student.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.student.state_dict().items())


def test_a_deit_training_resumes_bit_for_bit(small: ImageData, tmp_path: Path) -> None:
    expect_resume(trial(VIT, method("deit")), small, CNN, tmp_path / "epoch-1.pt")


# Transformers of unequal size

SMALLER = Choice("vit", {"patch": 4, "dim": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0})
LARGER = Choice("vit", {"patch": 2, "dim": 24, "depth": 4, "heads": 3, "mlp_ratio": 2.0})
MAPS = {"minilm": "stage2>stage3", "tinybert": "stage1>stage2,stage2>stage4"}


@pytest.mark.parametrize("key", MAPS)
def test_a_vit_learns_from_the_tokens_of_a_larger_one(small: ImageData, key: str) -> None:
    config = trial(SMALLER, method("deit"), method(key, layer_map=MAPS[key], weight=1e4), epochs=3)
    training = Training(config, small, AUGMENT, network(LARGER, small))
    first, *_, last = (
        sum(value for name, value in epoch.items() if name.startswith(key)) for epoch in losses(training)
    )
    assert last < first
    assert (
        training.student.state_dict().keys() == network(deployed(config, LARGER), small).state_dict().keys()
    )


@pytest.mark.parametrize("key", MAPS)
def test_a_training_on_tokens_resumes_bit_for_bit(small: ImageData, tmp_path: Path, key: str) -> None:
    config = trial(SMALLER, method("deit"), method(key, layer_map=MAPS[key]))
    expect_resume(config, small, LARGER, tmp_path / "epoch-1.pt")


# Layer maps between CNNs and transformers.

ACROSS = [  # simkd, which puts the teacher's classifier behind the student's map, refuses transformers
    key
    for key, entry in METHODS.items()
    if entry.slot not in ("response", "self")
    and not unmet(key, [("student", "vit"), ("teacher", "resnet")])
    and key != "simkd"
]


@pytest.mark.parametrize("key", ACROSS)
@pytest.mark.parametrize(
    ("student", "teacher"), [(VIT, CNN), (CNN, VIT), (VIT, VIT)], ids=["vit of cnn", "cnn of vit", "vits"]
)
def test_methods_of_maps_and_embeddings_work_across(
    small: ImageData, key: str, student: Choice, teacher: Choice
) -> None:
    mapped = {"layer_map": "stage1>stage1,stage2>stage2"} if "layer_map" in METHODS[key].options else {}
    config = trial(student, method(key, **mapped), epochs=1)
    training = Training(config, small, AUGMENT, network(teacher, small))
    before = {name: value.clone() for name, value in training.student.state_dict().items()}
    (epoch,) = losses(training)
    assert all(math.isfinite(value) for value in epoch.values())
    assert epoch[next(name for name in epoch if name.startswith(key))] > 0
    assert any(not torch.equal(value, before[name]) for name, value in training.student.state_dict().items())
