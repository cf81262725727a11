"""A teacher runs as far as a term in force reads it: the whole way, up to a stage, or not at all."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from few_images import few_digits

from kdsearch.losses import METHODS
from kdsearch.losses.reading import reading, reads_maps
from kdsearch.models import CNN_DETAILS, TRANSFORMER_DETAILS
from kdsearch.models.build import build
from kdsearch.mutual import training_for
from kdsearch.output_cache import Shelf
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.teacher_model import Averaged, Frozen
from kdsearch.training import Training

STAGES = ["stem", "stage1", "stage2", "stage3"]
WHOLE = [*STAGES, "classifier"]
KD, RESNET = Choice("kd"), Choice("resnet", {"depth": 8, "width": 0.25})
VIT = {"patch": 4, "depth": 2, "heads": 2, "dim": 8}
TAUGHT = [key for key, method in METHODS.items() if method.teacher]
SUMMARISED = [key for key, method in METHODS.items() if method.summarises]


@pytest.fixture(scope="module")
def data():
    """Two batches of digits."""
    return few_digits(48, 16)


def config_of(epochs=1, student=RESNET, **distill):
    train = TrainConfig(epochs=epochs, batch_size=24, lr=0.01)
    return TrialConfig(student, train, distill=distill, alpha=0.5, temperature=4.0)


def network(seed=1, family="resnet", **options):
    torch.manual_seed(seed)
    options = options or {"depth": 8, "width": 0.5}
    return build(family, options, 10, 1, 8)


class Watched:
    """A frozen ResNet that notes which of its parts run."""

    def __init__(self, seed=1):
        model = network(seed)
        self.frozen, self.ran = Frozen(model), []
        parts = {"stem": model.stem, **model.body, "classifier": model.classifier}
        for name, part in parts.items():
            part.register_forward_pre_hook(lambda module, args, name=name: self.ran.append(name))

    def run_by(self, training):
        """The parts that run in the training's next epoch, each once a batch."""
        self.ran.clear()
        training.run_epoch()
        return self.ran


def parts_run(data, config):
    teacher = Watched()
    return teacher.run_by(Training(config, data, teacher=teacher.frozen))


def feature(name, layer_map="all", **options):
    return Choice(name, {"layer_map": layer_map, "weight": 1.0, **options})


def test_a_map_of_the_first_stage_needs_the_first_stage(data):
    assert parts_run(data, config_of(feature=feature("fitnet", "stage2>stage1"))) == 2 * STAGES[:2]


def test_the_deepest_of_several_stages_decides(data):
    choice = feature("fitnet", "stage1>stage1,stage3>stage2")
    assert parts_run(data, config_of(feature=choice)) == 2 * STAGES[:3]


def test_two_methods_need_what_the_deeper_one_reads(data):
    both = {"feature": feature("fitnet", "stage1>stage1"), "relation": feature("sp", "stage1>stage3")}
    assert parts_run(data, config_of(**both)) == 2 * STAGES


@pytest.mark.parametrize("further", [{"response": KD}, {"relation": Choice("pkt", {"weight": 1.0})}])
def test_an_answer_that_is_read_needs_all_of_it(data, further):
    config = config_of(feature=feature("fitnet", "stage1>stage1"), **further)
    assert parts_run(data, config) == 2 * WHOLE


def test_a_relation_of_stages_does_not_read_the_embedding(data):
    assert parts_run(data, config_of(relation=feature("rkd", "stage1>stage2"))) == 2 * STAGES[:3]


def test_further_views_are_for_the_answer_alone(data):
    config = dataclasses.replace(config_of(feature=feature("fitnet", "stage1>stage1")), teacher_views=3)
    assert parts_run(data, config) == 2 * STAGES[:2]


def test_further_views_are_for_the_logits_and_not_for_the_embedding(data):
    config = dataclasses.replace(config_of(relation=Choice("pkt", {"weight": 1.0})), teacher_views=3)
    assert parts_run(data, config) == 2 * WHOLE


@pytest.mark.parametrize("name", ["ab", "fsp"])
def test_what_trained_alone_needs_no_teacher_after(data, name):
    teacher = Watched()
    config = config_of(epochs=4, feature=feature(name, "stage1>stage1,stage2>stage2", alone=0.5))
    training = Training(config, data, teacher=teacher.frozen)
    assert [teacher.run_by(training)[:] for _ in range(4)] == [2 * STAGES[:3], 2 * STAGES[:3], [], []]


def test_answers_are_read_from_files_once_a_method_of_maps_has_trained_alone(data, tmp_path):
    config = config_of(epochs=3, response=KD, feature=feature("ab", "stage1>stage1", alone=0.3))
    runs = []
    for _ in range(2):
        teacher = Watched()
        training = Training(config, data, teacher=teacher.frozen, shelf=Shelf(tmp_path, "a", 1e9))
        runs.append([teacher.run_by(training)[:] for _ in range(3)])
    assert runs[0] == [2 * STAGES[:2], WHOLE, WHOLE]  # one batch of all images fills a file
    assert runs[1] == [2 * STAGES[:2], WHOLE, []]  # one of a few images verifies them
    assert {path.name for path in tmp_path.glob("outputs/*/*.f16")} == {
        "stream-0-epoch-2.f16",
        "stream-0-epoch-3.f16",
    }


def test_of_several_teachers_only_the_one_whose_maps_are_read_runs(data):
    first, leader = Watched(1), Watched(2)
    together = Averaged([first.frozen, leader.frozen], [0.5, 0.5], "logits", lead=1)
    Training(config_of(feature=feature("fitnet", "stage1>stage1")), data, teacher=together).run_epoch()
    assert first.ran == []
    assert leader.ran == 2 * STAGES[:2]


@pytest.mark.parametrize("family", ["resnet", "wrn", "vgg", "mobilenetv2", "shufflenetv2", "mlp", "vit"])
def test_a_network_that_stops_publishes_what_the_whole_one_does_up_to_there(family):
    options = VIT if family == "vit" else {"width": 0.25}
    model = network(family=family, **options).eval()
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        whole, part = model.outputs(images, True), model.outputs(images, True, "stage1")
    read = {kind: {name for name in values if name != "stage2"} for kind, values in part.details.items()}
    assert read.keys() == whole.details.keys()
    assert "stage1" in read["before"]
    assert "stage3" not in part.features
    assert torch.equal(part.features["stage1"], whole.features["stage1"])
    assert all(
        torch.equal(part.details[kind][name], whole.details[kind][name])
        for kind, names in read.items()
        for name in names
    )
    assert part.logits.numel() == part.embedding.numel() == 0


class ToItsEnd(Frozen):
    """A teacher that never stops early."""

    def outputs(self, images, detailed=False, until=None):
        return super().outputs(images, detailed)


@pytest.mark.parametrize("key", TAUGHT)
def test_stopping_early_changes_nothing(data, key):
    is_vit = METHODS[key].needs & (TRANSFORMER_DETAILS - CNN_DETAILS)
    student = Choice("vit", VIT) if is_vit else RESNET
    model = network(family="vit", **VIT) if is_vit else network()
    config = config_of(student=student, **{METHODS[key].slot: Choice(key)})
    results = [Training(config, data, teacher=kind(model)).run_epoch() for kind in (Frozen, ToItsEnd)]
    assert results[0].terms == results[1].terms


# What a method makes of maps is kept


def epochs_of(data, config, folder, teacher=None):
    shelf = None if folder is None else Shelf(folder, "a", 1e9)
    training = training_for(
        config, data, (("crop", {}), ("flip", {})), teacher or Frozen(network()), shelf=shelf
    )
    return [training.run_epoch().terms for _ in range(config.train.epochs)]


MAPS = ["all", "last", "stage1>stage1,stage2>stage3"]


@pytest.mark.parametrize("layer_map", MAPS)
@pytest.mark.parametrize("key", SUMMARISED)
def test_maps_that_are_kept_train_as_live_ones_do(data, tmp_path, key, layer_map):
    config = config_of(epochs=2, **{METHODS[key].slot: feature(key, layer_map)})
    live = epochs_of(data, config, None)
    assert [epochs_of(data, config, tmp_path) for _ in range(2)] == [live, live]


def test_a_second_training_of_kept_maps_asks_about_a_sample_alone(data, tmp_path):
    config, teacher = config_of(epochs=2, response=KD, feature=feature("at")), Watched()
    epochs_of(data, config, tmp_path)
    epochs_of(data, config, tmp_path, teacher.frozen)
    assert teacher.ran == WHOLE


def test_other_powers_and_stages_are_kept_apart(data, tmp_path):
    for options in ({"p": 2}, {"p": 4}, {"p": 2, "layer_map": "last"}, {"p": 2}):
        epochs_of(data, config_of(feature=feature("at", **options)), tmp_path)
    assert len(list(tmp_path.glob("outputs/*"))) == 3


def together(combine, weights=(0.25, 0.75)):
    return Averaged([Frozen(network(1)), Frozen(network(2))], weights, combine, lead=1)


@pytest.mark.parametrize("combine", ["logits", "probabilities"])
def test_several_teachers_are_kept_and_train_as_live_ones_do(data, tmp_path, combine):
    config = config_of(epochs=2, response=KD, relation=feature("rkd", "stage1>stage1"))
    live = epochs_of(data, config, None, together(combine))
    kept = [epochs_of(data, config, tmp_path, together(combine)) for _ in range(2)]
    assert kept == [live, live]


def test_the_kept_logits_of_members_serve_every_temperature_and_weight(data, tmp_path):
    hot, cold = (dataclasses.replace(config_of(response=KD), temperature=t) for t in (8.0, 1.0))
    epochs_of(data, hot, tmp_path, together("probabilities"))
    equal = together("probabilities", (0.5, 0.5))
    assert epochs_of(data, cold, tmp_path, equal) == epochs_of(data, cold, None, equal)
    assert len(list(tmp_path.glob("outputs/*/*.f16"))) == 1


def test_what_is_kept_of_members_is_close_to_their_exact_mean(data):
    mean = together("probabilities")
    mean.soften_at(4.0)
    outputs = mean.outputs(torch.randn(5, 1, 8, 8))
    assert torch.equal(mean.answer(outputs.details["members"]["logits"]), outputs.logits)


UNEQUAL = Choice("dml", {"peers": 2, "peer_width": 0.5})


def test_peers_of_different_widths_share_what_is_kept(data, tmp_path):
    config = dataclasses.replace(config_of(epochs=2, feature=feature("at")), online=UNEQUAL)
    live = epochs_of(data, config, None)
    assert [epochs_of(data, config, tmp_path) for _ in range(2)] == [live, live]


def test_peers_ask_in_every_epoch_for_what_its_terms_read(data):
    """First alone for a map, then for answers to strongly augmented views."""
    distill = {"response": Choice("mlkd"), "feature": feature("ab", "stage1>stage1", alone=0.5)}
    config = dataclasses.replace(config_of(epochs=2, **distill), online=UNEQUAL)
    stopping, whole = (epochs_of(data, config, None, kind(network())) for kind in (Frozen, ToItsEnd))
    assert "mlkd.s2" in stopping[1]
    assert stopping == whole


def test_maps_that_are_kept_are_close_to_exact_ones(data):
    """Beside a method of whole maps nothing is kept, and nothing rounded."""
    exact = config_of(relation=feature("rkd", "stage1>stage1"), feature=feature("fitnet", "last"))
    kept = config_of(relation=feature("rkd", "stage1>stage1"))
    ours, theirs = (epochs_of(data, one, None)[0]["rkd_distance"] for one in (kept, exact))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.2)


# The table


def test_what_is_kept_is_answers_and_summaries():
    kept = [key for key in TAUGHT if not reads_maps(Choice(key))]
    assert {"kd", "mlkd", "crd", "pkt", "rkd", "gram", "at"} <= set(kept)
    assert not {"fitnet", "ab", "sp", "reviewkd", "simkd", "tinybert"} & set(kept)


def test_methods_without_a_teacher_read_none_of_it():
    found = reading([Choice("tfkd")], 3, 3)
    assert (found.fields, found.deepest, found.is_kept) == (frozenset(), 0, False)


def test_a_method_without_a_layer_map_reads_every_stage():
    assert reading([Choice("semckd")], 3, 4).deepest == 4
