"""SimKD: the student that is trained, measured, saved and loaded ends in its teacher's classifier."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from few_images import few_digits

from kdsearch import online, pipeline, teacher_phase
from kdsearch.cli import UsageError
from kdsearch.losses.deployed import deployed
from kdsearch.losses.simkd import simkd
from kdsearch.models.build import build, cost, load_student, measure, save_student
from kdsearch.models.reuse import reusing
from kdsearch.models.simkd import averaged_map, last_linear
from kdsearch.mutual import training_for
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import SpecError, load
from kdsearch.teacher_model import Averaged, Frozen
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
    return few_digits(80, 40)


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


def loaded(folder, teacher="{resnet: {depth: 8}}", student="resnet"):
    path = folder / "spec.yaml"
    path.write_text(
        f"name: small\ndata: {{dataset: digits}}\nteacher: {teacher}\nstudent: {student}\n"
        "distill: {feature: simkd}\ntrain: {epochs: 2}\nsearch: {trials: 1}\n"
    )
    return load(path)


def test_the_spec_refuses_such_a_family_before_anything_starts(tmp_path):
    with pytest.raises(SpecError, match="distill.feature.simkd: the student vit has no map whose average"):
        loaded(tmp_path, student="vit")


def test_a_checkpoint_of_such_a_family_is_refused_when_it_is_loaded(small, tmp_path):
    vit = model(Choice("vit", {"patch": 4, "dim": 16, "depth": 1, "heads": 2}))
    save_student(tmp_path / "vit", vit, {})
    sweep = loaded(tmp_path, teacher=f"{{checkpoint: {tmp_path / 'vit'}}}")
    lineup = teacher_phase.lay_out(sweep, pipeline.cost_function(small))
    with pytest.raises(
        UsageError, match="distill.feature.simkd: .*: the teacher vit has no map whose average"
    ):
        teacher_phase.load_teachers(sweep, small, lineup)


@pytest.mark.parametrize("lead", [0, 1])
def test_beside_an_ensemble_the_classifier_is_the_leading_members(small, lead):
    members = [Frozen(model(TEACHERS[name])) for name in ("resnet", "mobilenetv2")]
    training = Training(CONFIG, small, teacher=Averaged(members, [0.5, 0.5], "probabilities", lead))
    training.run_epoch()
    leading = members[lead].network
    assert training.student.architecture.family == f"simkd:resnet:{leading.architecture.family}"
    assert torch.equal(training.student.classifier.weight, last_linear(leading).weight)


def test_peers_all_end_in_the_teachers_classifier_and_learn_from_one_another(small):
    teacher = model(TEACHERS["resnet"])
    mutual = dataclasses.replace(CONFIG, online=Choice("dml", {"peers": 3, "peer_width": 0.5}))
    training = training_for(mutual, small, teacher=teacher)
    result = training.run_epoch()
    ends = [student.classifier for student in training.students]
    assert all(torch.equal(end.weight, last_linear(teacher).weight) for end in ends)
    assert all(torch.equal(end.bias, last_linear(teacher).bias) for end in ends)
    assert (
        min(result.terms[name] for name in ("simkd", "simkd.s2", "simkd.s3", "dml", "dml.s2", "dml.s3")) > 0
    )
    sizes = [measure(student, *SHAPE[1:]) for student in training.students]
    counted = [deployed(one, TEACHERS["resnet"]) for one in online.configs(mutual)]
    assert sizes == [cost(choice.name, choice.options, *SHAPE) for choice in counted]
