"""Several teachers on a few digits: trained once each, averaged, born again, and built for a trial."""

import dataclasses
import json

import pytest
import torch

from kdsearch import data as datasets
from kdsearch import lineup
from kdsearch import spec as specs
from kdsearch import teacher as teachers
from kdsearch.losses.kd import kd
from kdsearch.models.build import build, cost
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import TeacherSpec
from kdsearch.teacher_model import Averaged, Frozen
from kdsearch.teachers import Classroom, Faculty
from kdsearch.training import Training

TRAIN = {"epochs": 2, "batch_size": 64, "lr": 0.1}
NETWORK = {"resnet": {"depth": 8, "width": 0.25, "train": TRAIN}}
OTHER = {"mlp": {"depth": 1, "width": 0.25, "train": TRAIN}}


def spec_of(teacher):
    data = {"dataset": "digits", "subset": 300}
    student = {"resnet": {"depth": 8, "width": 0.5}}
    plain = {"name": "x", "data": data, "student": student, "teacher": teacher, "train": {"epochs": 2}}
    return specs.from_dict({**plain, "search": {"trials": 1}})


@pytest.fixture(scope="module")
def data():
    return datasets.load(spec_of(NETWORK).data)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def faculty(data, store):
    """A function from a teacher's section to its trained faculty."""

    def cost_of(student):
        return cost(student.name, student.options, data.num_classes, data.in_channels, data.image_size)

    def trained(teacher):
        spec = spec_of(teacher)
        networks = {}
        for part in lineup.lay_out(spec, cost_of).parts:
            own = teachers.with_network(spec, part.network)
            networks[part.name] = teachers.prepare(own, data, store, above=networks.get(part.learns_from))
        return Faculty(spec.teacher, networks)

    return trained


def frozen(seed, family="resnet", **options):
    torch.manual_seed(seed)
    return Frozen(build(family, {"depth": 8, "width": 0.25, **options}, 10, 1, 8))


def images(count=6):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def softmax(logits, temperature=1.0):
    return (logits.double() / temperature).softmax(1)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_averaged_probabilities_hold_at_the_temperature_of_the_term(temperature):
    members = [frozen(seed) for seed in (1, 2, 3)]
    mean = Averaged(members, [0.5, 0.3, 0.2], "probabilities")
    mean.soften_at(temperature)
    weighted = [w * softmax(m(images()), temperature) for w, m in zip([0.5, 0.3, 0.2], members, strict=True)]
    torch.testing.assert_close(softmax(mean(images()), temperature), sum(weighted), rtol=1e-5, atol=1e-6)


def test_the_loss_of_averaged_losses_differs_by_a_constant_of_the_student():
    """The identity of losses-averaged and probabilities-averaged ensembles: equal student gradients."""
    members = [frozen(seed) for seed in (1, 2)]
    mean = Averaged(members, [0.5, 0.5], "probabilities")
    mean.soften_at(4.0)
    student = torch.randn(6, 10, generator=torch.Generator().manual_seed(2), requires_grad=True)
    (together,) = torch.autograd.grad(kd(student, mean(images()), 4.0), student)
    apart = sum(kd(student, member(images()), 4.0) for member in members) / 2
    torch.testing.assert_close(torch.autograd.grad(apart, student)[0], together, rtol=1e-4, atol=1e-6)


def test_averaged_logits_are_the_weighted_mean_at_any_temperature():
    members = [frozen(1), frozen(2)]
    mean = Averaged(members, [0.25, 0.75], "logits")
    mean.soften_at(9.0)
    expected = 0.25 * members[0](images()) + 0.75 * members[1](images())
    torch.testing.assert_close(mean(images()), expected)


def test_equal_members_are_the_member():
    member = frozen(1)
    torch.testing.assert_close(
        softmax(Averaged([member, member], [0.5, 0.5], "probabilities")(images())), softmax(member(images()))
    )


def test_features_come_from_the_leading_member():
    members = [frozen(1), frozen(2, depth=14)]
    mean = Averaged(members, [0.5, 0.5], "probabilities", lead=1)
    found, lead = mean.outputs(images()), members[1].outputs(images())
    assert (mean.stages, mean.num_features) == (members[1].stages, members[1].num_features)
    assert torch.equal(found.embedding, lead.embedding)
    assert all(torch.equal(found.features[name], lead.features[name]) for name in lead.features)


def test_an_ensemble_never_learns():
    mean = Averaged([frozen(1), frozen(2)], [0.5, 0.5], "probabilities").train().requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in mean.parameters())
    assert not any(module.training for module in mean.modules())


def test_a_training_tells_its_teacher_the_temperature_of_every_epoch(data):
    heard = []

    class Listening(Frozen):
        def soften_at(self, temperature):
            heard.append(temperature)

    teacher = Listening(frozen(1).model)
    config = TrialConfig(
        Choice("resnet", {"depth": 8, "width": 0.125}),
        TrainConfig(epochs=3),
        distill={"response": Choice("kd")},
        alpha=0.9,
        temperature=1.0,
        schedule=Choice("linear", {"temperature_to": 5.0}),
    )
    training = Training(config, data, teacher=teacher)
    for _ in range(3):
        training.run_epoch()
    assert heard == [1.0, 3.0, 5.0]


def test_each_network_is_trained_once_and_shared_with_single_teachers(faculty, data, store):
    first = faculty({"one_of": {"a": NETWORK, "b": OTHER}}).networks
    second = faculty({"ensemble": {"of": {"x": NETWORK, "y": {**NETWORK, "seed": 1}}}}).networks
    single = spec_of(NETWORK)
    assert first["a"].key == second["x"].key == teachers.content_key(single, data)
    assert second["x"].report["source"] == "stored"
    assert second["x"].key != second["y"].key
    assert teachers.find(first["b"].key, store).report["accuracy"] == first["b"].report["accuracy"]


def test_a_trial_gets_the_teacher_of_its_name(faculty):
    several = faculty({"one_of": {"a": NETWORK, "b": OTHER}})
    classroom = Classroom(several, "cpu")
    assert classroom.teacher(Choice("a")).architecture.family == "resnet"
    assert classroom.teacher(Choice("b")).architecture.family == "mlp"


def test_a_network_stays_built_from_one_trial_to_the_next_that_needs_it(faculty):
    several = faculty({"one_of": {"a": NETWORK, "b": OTHER}})
    classroom = Classroom(several, "cpu")
    first = classroom.teacher(Choice("a"))
    assert classroom.teacher(Choice("a")) is first
    classroom.teacher(Choice("b"))
    assert classroom.teacher(Choice("a")) is not first


def test_an_ensemble_is_built_with_a_trials_weights_and_measured_with_equal_ones(faculty, data):
    members = {"x": NETWORK, "y": {**NETWORK, "seed": 1}}
    pair = faculty({"ensemble": {"of": members, "weights": "searched", "combine": "logits"}})
    ((whole),) = pair.wholes(data)
    mean = Classroom(pair, "cpu").teacher(Choice("", {"weights.x": 1.0, "weights.y": 0.0}))
    torch.testing.assert_close(mean(images()), pair.networks["x"].build()(images()))
    assert (whole.name, whole.role, whole.of) == ("", "teacher", ("x", "y"))
    assert whole.teacher.report["params"] == 2 * pair.networks["x"].report["params"]
    assert 0 < whole.teacher.report["accuracy"] <= 1
    assert json.loads(json.dumps(whole.teacher.report)) == whole.teacher.report


AGAIN = {**NETWORK, "generations": 2, "temperature": [1, 4], "label_weight": 1}


def test_generations_differ_and_the_last_one_teaches(faculty, data):
    again = faculty({"born_again": AGAIN})
    average, used = again.wholes(data)
    assert len({teacher.key for teacher in again.networks.values()}) == 3
    assert again.networks["generation 0"].key == teachers.content_key(spec_of(NETWORK), data)
    assert (average.role, average.of) == ("average", ("generation 0", "generation 1", "generation 2"))
    assert used.teacher.key == again.networks["generation 2"].key
    assert again.names(Choice("")) == ["generation 2"]


def test_the_most_accurate_generation_teaches_where_the_best_is_asked_for(faculty):
    again = faculty({"born_again": {**AGAIN, "use": "best"}})
    scored = {
        name: dataclasses.replace(network, report={**network.report, "accuracy": accuracy})
        for (name, network), accuracy in zip(again.networks.items(), (0.5, 0.9, 0.9), strict=True)
    }
    assert Faculty(again.source, scored).names(Choice("")) == ["generation 1"]


def test_the_mean_of_all_generations_can_teach(faculty, data):
    again = faculty({"born_again": {**AGAIN, "use": "ensemble"}})
    (whole,) = again.wholes(data)
    assert (whole.role, len(whole.of)) == ("teacher", 3)
    every = [softmax(network.build()(images())) for network in again.networks.values()]
    found = softmax(Classroom(again, "cpu").teacher(Choice(""))(images()))
    torch.testing.assert_close(found, sum(every) / 3, rtol=1e-5, atol=1e-6)


def test_the_key_of_a_taught_network_covers_its_lesson_and_its_teacher(data):
    base = spec_of(NETWORK)
    network = base.teacher

    def key(teacher=network, temperature=4.0, alpha=0.9, label_weight=0.1):
        lesson = specs.Lesson(teacher, temperature, alpha, label_weight)
        return teachers.content_key(
            teachers.with_network(base, dataclasses.replace(network, learns_from=lesson)), data
        )

    changed = [
        key(temperature=2.0),
        key(alpha=0.8),
        key(label_weight=0.2),
        key(teacher=dataclasses.replace(network, seed=3)),
        teachers.content_key(base, data),
    ]
    assert len({key(), *changed}) == 6
    assert isinstance(network, TeacherSpec)


def test_an_interrupted_lesson_goes_on_and_ends_in_the_same_network(faculty, data, tmp_path):
    whole = faculty({"born_again": AGAIN}).networks
    base = spec_of({"born_again": AGAIN})
    taught = lineup.lay_out(base, lambda choice: {"params": 1}).parts[1]
    own = teachers.with_network(base, taught.network)
    above = whole["generation 0"]
    key = teachers.content_key(own, data)
    _, state = next(teachers.train(own, data, above=above, state_every_s=0))
    teachers.save_partial(key, state, tmp_path)
    again = teachers.prepare(own, data, tmp_path, above=above)
    assert again.report["curve"] == whole["generation 1"].report["curve"]


def test_an_assistant_is_taught_by_the_chain_above_it(faculty, data):
    found = faculty({"assistants": {"resnet": {"depth": 8, "width": 2.0, "train": TRAIN}, "steps": 1}})
    names = [name for name in found.networks if name]
    chain = Choice("", {"assistants": names[0]})
    assert found.names(chain) == [names[0]]
    assert found.names(Choice("")) == [""]
    assert Classroom(found, "cpu").teacher(chain).architecture.options["width"] == float(names[0])
    assert not list(found.wholes(data))
