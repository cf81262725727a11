"""Students that train together: one update for all, each one's own terms, resume, and nothing for free."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from few_images import shortened

from kdsearch import data as datasets
from kdsearch import online
from kdsearch.data.views import Views, order
from kdsearch.losses import METHODS
from kdsearch.losses.dml import dml
from kdsearch.models.build import build, cost, measure
from kdsearch.mutual import MutualTraining, training_for
from kdsearch.options import Option
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import DataSpec
from kdsearch.training import NonFiniteLoss, Training, load_checkpoint, save_checkpoint

RECIPE = TrainConfig(epochs=3, batch_size=64, lr=0.1, schedule="cosine")
ALONE = TrialConfig(Choice("mlp", {"depth": 2, "width": 0.5}), RECIPE, seed=3)
AUGMENT = (("crop", {"padding": 1}),)
FITNET = Choice("fitnet", {"weight": 10.0, "layer_map": "stage2>stage2"})
TAUGHT = {"response": Choice("kd"), "feature": FITNET}


def mutual(config=ALONE, **options):
    return dataclasses.replace(config, online=Choice("dml", options))


def taught(config):
    return dataclasses.replace(config, distill=TAUGHT, alpha=0.9, temperature=4.0)


@pytest.fixture(scope="module")
def data():
    return datasets.load(DataSpec(dataset="digits"))


@pytest.fixture(scope="module")
def small(data):
    return shortened(data, 160, 50)


def teacher_of(data):
    torch.manual_seed(1)
    return build("mlp", {"depth": 3, "width": 1.0}, data.num_classes, data.in_channels, data.image_size)


def run(training):
    epochs = []
    while not training.finished:
        result = training.run_epoch()
        epochs.append((result.epoch, dict(result.metrics), dict(result.terms)))
    return epochs


def equal_weights(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_configuration_without_an_online_method_is_trained_as_ever(small):
    assert type(training_for(ALONE, small)) is Training


def test_every_peer_learns_digits_and_is_evaluated_after_each_epoch(data):
    training = training_for(mutual(peer_width=0.5), data)

    epochs = run(training)

    last = epochs[-1][1]
    assert min(last["val_accuracy"], last["val_accuracy.s2"]) > 0.5
    assert [set(metrics) for _, metrics, _ in epochs] == [
        {"train_loss", "train_loss.s2", "val_accuracy", "val_accuracy.s2", "lr"}
    ] * 3
    assert set(epochs[0][2]) == {"label", "dml", "label.s2", "dml.s2"}
    assert training.evaluate() == last["val_accuracy"]


def test_a_peers_loss_is_its_labels_plus_the_weighted_mutual_term(small):
    _, metrics, terms = run(training_for(mutual(weight=0.3), small))[0]

    assert metrics["train_loss"] == pytest.approx(terms["label"] + 0.3 * terms["dml"], rel=1e-5)
    assert metrics["train_loss.s2"] == pytest.approx(terms["label.s2"] + 0.3 * terms["dml.s2"], rel=1e-5)
    assert terms["dml"] > 0
    assert terms["dml.s2"] > 0


def test_peers_have_the_widths_that_were_asked_for(small):
    training = training_for(mutual(peers=3, peer_width=0.5), small)

    sizes = [measure(student, small.in_channels, small.image_size)["params"] for student in training.students]

    shape = (small.num_classes, small.in_channels, small.image_size)
    assert sizes == [cost("mlp", {"depth": 2, "width": w}, *shape)["params"] for w in (0.5, 0.25, 0.125)]
    assert all(large > little for large, little in pairwise(sizes))


def test_equally_wide_peers_begin_with_different_weights_and_the_first_with_the_controls(small):
    training = training_for(mutual(peers=3), small)

    first, second, third = training.students
    assert equal_weights(first, Training(ALONE, small).student)
    assert not equal_weights(first, second)
    assert not equal_weights(second, third)


@pytest.mark.parametrize("config", [ALONE, taught(ALONE)], ids=["labels", "taught"])
def test_with_weight_0_every_peer_trains_as_if_it_were_alone(small, config):
    together = training_for(mutual(config, weight=0.0, peer_width=0.5), small, AUGMENT, teacher_of(small))
    first = Training(config, small, AUGMENT, teacher_of(small))
    second_config = online.configs(together.config)[1]
    second = Training(second_config, small, AUGMENT, teacher_of(small), number=2)

    run(together)
    run(first)
    run(second)

    assert equal_weights(together.students[0], first.student)
    assert equal_weights(together.students[1], second.student)


def test_peers_are_updated_together_from_one_forward_pass(small):
    config = mutual(
        dataclasses.replace(ALONE, train=TrainConfig(epochs=1, batch_size=160, lr=0.1, weight_decay=0.0)),
        temperature=2.0,
        weight=0.5,
    )
    expected = training_for(config, small).students
    steps = [torch.optim.SGD(peer.parameters(), lr=0.1, momentum=0.9) for peer in expected]
    indices = order(160, seed=3, epoch=1)
    batch = Views(small.train, small.mean, small.std).batch(indices, 1, 0)
    logits = [peer.train()(batch.images) for peer in expected]
    for step, own, term in zip(steps, logits, dml(logits, temperature=2.0), strict=True):
        (F.cross_entropy(own, batch.labels) + 0.5 * term).backward()
        step.step()

    trained = training_for(config, small)
    trained.run_epoch()

    for peer, hand_made in zip(trained.students, expected, strict=True):
        for mine, theirs in zip(peer.parameters(), hand_made.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_teachers_terms_are_each_peers_own(small):
    training = training_for(taught(mutual(peer_width=0.5)), small, AUGMENT, teacher_of(small))

    terms = training.run_epoch().terms

    own = {"label", "kd", "fitnet", "dml"}
    assert set(terms) == own | {f"{name}.s2" for name in own}
    assert terms["fitnet"] != terms["fitnet.s2"]


def test_nothing_but_a_student_is_in_a_student(small):
    training = training_for(taught(mutual()), small, teacher=teacher_of(small))

    plain = Training(ALONE, small).student.state_dict()
    assert [student.state_dict().keys() for student in training.students] == [plain.keys()] * 2


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resumed_in_the_middle_equals_uninterrupted(small, tmp_path, optimizer):
    config = taught(mutual(peers=3, peer_width=0.5))
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, optimizer=optimizer, lr=0.01)
    )
    whole = training_for(config, small, AUGMENT, teacher_of(small))
    expected = run(whole)
    interrupted = training_for(config, small, AUGMENT, teacher_of(small))
    interrupted.run_epoch()
    sha256 = save_checkpoint(tmp_path / "epoch-1.pt", interrupted)

    resumed = training_for(config, small, AUGMENT, teacher_of(small))
    resumed.load_state_dict(load_checkpoint(tmp_path / "epoch-1.pt", sha256))

    assert run(resumed) == expected[1:]
    assert all(equal_weights(a, b) for a, b in zip(resumed.students, whole.students, strict=True))


def test_while_a_term_trains_alone_the_mutual_term_waits(small, monkeypatch):
    in_two_stages = {**METHODS["fitnet"].options, "alone": Option("float", 1 / 3)}
    monkeypatch.setitem(METHODS, "fitnet", dataclasses.replace(METHODS["fitnet"], options=in_two_stages))
    config = dataclasses.replace(mutual(), distill={"feature": FITNET})
    training = training_for(config, small, teacher=teacher_of(small))
    assert isinstance(training, MutualTraining)

    first, second, _ = run(training)

    assert first[1]["train_loss"] == pytest.approx(10 * first[2]["fitnet"], rel=1e-5)
    assert second[1]["train_loss"] == pytest.approx(second[2]["label"] + second[2]["dml"], rel=1e-5)


def test_the_mutual_terms_weight_follows_the_schedule(small):
    config = dataclasses.replace(mutual(), schedule=Choice("linear", {"weights_to": 0.0}))

    *_, last = run(training_for(config, small))

    assert last[2]["dml"] > 0
    assert last[1]["train_loss"] == pytest.approx(last[2]["label"], rel=1e-5)


def test_a_peer_that_diverges_is_named(small):
    config = mutual(dataclasses.replace(ALONE, train=dataclasses.replace(RECIPE, lr=1e20)))

    with pytest.raises(NonFiniteLoss) as raised:
        run(training_for(config, small))

    assert any(name.endswith(".s2") for name in raised.value.terms)


def test_the_same_seed_gives_the_same_numbers_to_the_last_digit(small):
    config = mutual(peers=3)

    assert run(training_for(config, small, AUGMENT)) == run(training_for(config, small, AUGMENT))
