"""SimKD: the student that is trained, measured, saved and loaded ends in its teacher's classifier."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from kdsearch import data as datasets
from kdsearch.losses.deployed import deployed
from kdsearch.losses.simkd import simkd
from kdsearch.models.build import build, cost, load_student, measure, save_student
from kdsearch.models.reuse import reusing
from kdsearch.models.simkd import averaged_map, last_linear
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import DataSpec, SpecError, load
from kdsearch.training import Training, load_checkpoint, save_checkpoint

STUDENT, METHOD = Choice("resnet", {"depth": 8, "width": 0.25}), Choice("simkd", {})
CONFIG = TrialConfig(
    STUDENT, TrainConfig(epochs=2, batch_size=40, lr=0.05), distill={"feature": METHOD}, seed=3
)
TEACHERS = {
    "resnet": Choice("resnet", {"depth": 8, "width": 0.5}),
    "wrn": Choice("wrn", {"depth": 10, "width": 1.0}),
    "mobilenetv2": Choice("mobilenetv2", {"width": 0.1}),
    "shufflenetv2": Choice("shufflenetv2", {"width": 0.1}),
    "vgg": Choice("vgg", {"width": 0.1}),
    "torchvision": Choice("torchvision/resnet18", {}),
    "mlp": Choice("mlp", {"width": 0.25}),
}
SHAPE = 10, 1, 8


@pytest.fixture(scope="module")
def small():
    data = datasets.load(DataSpec(dataset="digits"))
    train = dataclasses.replace(data.train, images=data.train.images[:80], labels=data.train.labels[:80])
    validation = dataclasses.replace(
        data.validation, images=data.validation.images[:40], labels=data.validation.labels[:40]
    )
    return dataclasses.replace(data, train=train, validation=validation)


def model(choice):
    torch.manual_seed(1)
    return build(choice.name, choice.options, *SHAPE)


def test_loss_worked_out_by_hand():
    teacher = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])  # 4 on average
    assert simkd(torch.tensor([[[[1.0]]]]), teacher).item() == pytest.approx(9.0)


def test_loss_is_zero_where_the_projection_is_the_teachers_map():
    teacher = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert simkd(teacher, teacher).item() == 0


@pytest.mark.parametrize("teacher", TEACHERS.values(), ids=TEACHERS)
def test_the_teachers_logits_come_from_the_map_that_the_student_has_to_meet(teacher):
    network = model(teacher).eval()
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs = network.outputs(images)
    met = averaged_map(network, outputs.features)
    torch.testing.assert_close(met.mean((2, 3)), outputs.embedding)
    torch.testing.assert_close(last_linear(network)(met.mean((2, 3))), outputs.logits)


@pytest.mark.parametrize("teacher", TEACHERS.values(), ids=TEACHERS)
def test_one_epoch_moves_the_projector_and_not_the_teachers_classifier(small, teacher):
    network = model(teacher)
    training = Training(CONFIG, small, teacher=network)
    before = training.state_dict()["student"]
    result = training.run_epoch()
    after = training.state_dict()["student"]
    assert result.metrics["train_loss"] == pytest.approx(result.terms["simkd"], rel=1e-5)
    assert torch.equal(after["classifier.weight"], last_linear(network).weight)
    assert torch.equal(after["classifier.bias"], last_linear(network).bias)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert {"projector.0.0.weight", "backbone.stem.0.weight"} <= set(moved)


def test_accuracy_is_that_of_the_deployed_path(small):
    training = Training(CONFIG, small, teacher=model(TEACHERS["resnet"]))
    accuracy = training.run_epoch().metrics["val_accuracy"]
    validation = training._validation
    student = training.student.eval()
    maps = student.projector(
        student.backbone.outputs(validation.plain(torch.arange(40)).images).features["stage3"]
    )
    logits = student.classifier(maps.mean((2, 3)))
    assert accuracy == (logits.argmax(1) == validation.labels).double().mean().item()


def test_resumed_equals_uninterrupted(small, tmp_path):
    straight = Training(CONFIG, small, teacher=model(TEACHERS["wrn"]))
    straight.run_epoch()
    sha256 = save_checkpoint(tmp_path / "epoch-1.pt", straight)
    second = straight.run_epoch()
    resumed = Training(CONFIG, small, teacher=model(TEACHERS["wrn"]))
    resumed.load_state_dict(load_checkpoint(tmp_path / "epoch-1.pt", sha256))
    assert resumed.run_epoch().terms == second.terms


def test_the_backbone_starts_like_the_control(small):
    control = Training(dataclasses.replace(CONFIG, distill={}), small).student.state_dict()
    backbone = Training(CONFIG, small, teacher=model(TEACHERS["resnet"])).student.backbone.state_dict()
    assert all(torch.equal(tensor, control[name]) for name, tensor in backbone.items())


@pytest.mark.parametrize("teacher", TEACHERS.values(), ids=TEACHERS)
def test_cost_counts_projector_and_classifier_and_is_that_of_the_saved_student(small, teacher, tmp_path):
    choice = deployed(CONFIG, teacher)
    student = model(choice)
    without_end = sum(p.numel() for p in student.backbone.parameters())
    end = [*student.projector.parameters(), *student.classifier.parameters()]
    counted = cost(choice.name, choice.options, *SHAPE)
    assert counted == measure(student, *SHAPE[1:])
    assert counted["params"] == without_end + sum(p.numel() for p in end)
    save_student(tmp_path / "student", student, {})
    loaded, _ = load_student(tmp_path / "student")
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), student.eval()(images))
    assert not loaded.classifier.weight.requires_grad


@pytest.mark.parametrize("name", ["vit", "torchvision/vit_b_16", "torchvision/vgg11"])
def test_a_family_without_an_averaged_map_is_refused_in_words(name):
    with pytest.raises(ValueError, match=f"the teacher {name} has no map whose average feeds its classifier"):
        reusing(STUDENT, METHOD, Choice(name, {}))
    with pytest.raises(ValueError, match=f"the student {name} has no map whose average feeds its classifier"):
        reusing(Choice(name, {}), METHOD, STUDENT)


def test_the_spec_refuses_such_a_family_before_anything_starts(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: small\ndata: {dataset: digits}\nteacher: {resnet: {depth: 8}}\nstudent: vit\n"
        "distill: {feature: simkd}\ntrain: {epochs: 2}\nsearch: {trials: 1}\n"
    )
    with pytest.raises(SpecError, match="distill.feature.simkd: the student vit has no map whose average"):
        load(path)
