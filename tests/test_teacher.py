"""The teacher on scikit-learn's digits: trained once, kept, found again; foreign weights too."""

import copy
import dataclasses
import json
import logging
import math
import pickle
from unittest import mock

import numpy as np
import pytest
import safetensors.torch
import torch

from kdsearch import data as datasets
from kdsearch import spec as specs
from kdsearch import teacher as teachers
from kdsearch.calibration import expected_calibration_error, mean_entropy, quality
from kdsearch.models.build import build, save_student
from kdsearch.records import EpochResult
from kdsearch.teacher import TeacherError, still_improving
from kdsearch.weights import fitted, to_arrays

SPEC = """
name: digits
data: {dataset: digits, augment: [{crop: {padding: 1}}]}
teacher: {resnet: {depth: 8, width: 0.25, train: {epochs: 3, batch_size: 64, lr: 0.1}}}
student: {resnet: {depth: 8, width: 0.125}}
distill: {response: kd}
train: {epochs: 2}
search: {trials: 1}
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "digits.yaml"
    path.write_text(SPEC)
    return specs.load(path)


@pytest.fixture(scope="module")
def data(spec):
    return datasets.load(spec.data)


@pytest.fixture(scope="module")
def trained(spec, data, tmp_path_factory):
    """A trained teacher and the store that keeps it."""
    store = tmp_path_factory.mktemp("store")
    return teachers.prepare(spec, data, store), store


@pytest.fixture
def store(trained, tmp_path):
    """A store of one's own with the trained teacher in it."""
    teachers.save(trained[0], tmp_path)
    return tmp_path


def with_teacher(spec, **changes):
    return dataclasses.replace(spec, teacher=dataclasses.replace(spec.teacher, **changes))


def foreign(spec, path, **options):
    return with_teacher(spec, checkpoint=str(path), options={**spec.teacher.options, **options}, train={})


def own(spec, path):
    return with_teacher(spec, checkpoint=str(path), family=None, options={}, train={})


def network(spec, num_classes=10, in_channels=1):
    torch.manual_seed(5)
    return build(spec.teacher.family, spec.teacher.options, num_classes, in_channels, 8)


def folder_of(teacher, store):
    return store / "teachers" / teacher.key


def images(data, count=16):
    return torch.randn(count, data.in_channels, data.image_size, data.image_size)


def outputs(model, data):
    torch.manual_seed(0)
    with torch.no_grad():
        return model.eval()(images(data))


def test_the_trained_teacher_is_measured(trained, data):
    report = trained[0].report
    assert report["accuracy"] > 0.5
    assert report["accuracy"] == report["curve"][-1]
    assert len(report["curve"]) == report["epochs"] == 3
    assert 0 < report["ece"] < 1
    assert list(report["entropy"]) == ["1", "2", "4", "8", "16"]
    assert sorted(report["entropy"].values()) == list(report["entropy"].values())
    assert report["entropy"]["16"] < math.log(10)
    assert report["params"] == sum(parameter.numel() for parameter in trained[0].build().parameters())
    assert report["source"] == "trained"
    assert report["time_s"] > 0


def test_the_report_is_plain_json(trained):
    assert json.loads(json.dumps(trained[0].report)) == trained[0].report


def test_a_second_sweep_finds_the_stored_teacher(trained, spec, data):
    teacher, store = trained

    def no_training(*arguments):
        raise AssertionError("a stored teacher is trained again")

    found = teachers.prepare(spec, data, store, trainer=no_training)
    assert found.report == {**teacher.report, "source": "stored"}
    assert found.weights.keys() == teacher.weights.keys()
    assert all(np.array_equal(found.weights[name], array) for name, array in teacher.weights.items())
    assert torch.equal(outputs(found.build(), data), outputs(teacher.build(), data))


def test_nothing_but_the_teacher_is_left_in_the_store(trained):
    teacher, store = trained
    assert [path.name for path in (store / "teachers").iterdir()] == [teacher.key]
    assert sorted(path.name for path in folder_of(teacher, store).iterdir()) == [
        "teacher.json",
        "teacher.safetensors",
    ]


def test_progress_hears_every_epoch(spec, data, tmp_path):
    heard = []
    teachers.prepare(spec, data, tmp_path, progress=lambda result, total: heard.append((result.epoch, total)))
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_the_built_teacher_never_learns(trained, data):
    model = trained[0].build()
    before = copy.deepcopy(model.state_dict())
    model.train()
    model.requires_grad_(True)
    outputs = model.outputs(images(data))
    assert not outputs.logits.requires_grad
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [stage.name for stage in model.stages] == list(outputs.features)
    assert outputs.embedding.shape == (16, model.num_features)


def test_building_leaves_the_global_generator_alone(trained):
    before = torch.get_rng_state()
    trained[0].build()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_teacher_travels_by_pickle(trained, data):
    copied = pickle.loads(pickle.dumps(trained[0]))
    assert torch.equal(outputs(copied.build(), data), outputs(trained[0].build(), data))


def test_a_read_only_array_is_enough_to_build(trained, data):
    frozen = {name: array.copy() for name, array in trained[0].weights.items()}
    for array in frozen.values():
        array.setflags(write=False)
    shared = dataclasses.replace(trained[0], weights=frozen)
    assert torch.equal(outputs(shared.build(), data), outputs(trained[0].build(), data))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "teacher.safetensors").unlink(),
        lambda folder: (folder / "teacher.safetensors").write_bytes(b"short"),
        lambda folder: (folder / "teacher.json").unlink(),
        lambda folder: (folder / "teacher.json").write_text("{"),
        lambda folder: (folder / "teacher.json").write_text("[1]"),
        lambda folder: flip_last_byte(folder / "teacher.safetensors"),
        lambda folder: edit_json(folder / "teacher.json", key="0" * 64),
        lambda folder: edit_json(folder / "teacher.json", surprise=1),
        lambda folder: edit_json(folder / "teacher.json", sha256="0" * 64),
    ],
    ids=[
        *("no weights", "short weights", "no json", "torn json", "json list", "one byte", "another key"),
        *("unknown field", "wrong sha256"),
    ],
)
def test_a_damaged_stored_teacher_is_reported_and_replaced(trained, store, caplog, damage):
    teacher = trained[0]
    damage(folder_of(teacher, store))
    with caplog.at_level(logging.WARNING):
        assert teachers.find(teacher.key, store) is None
    assert "the stored teacher is damaged and will be trained again" in caplog.text
    teachers.save(teacher, store)
    assert teachers.find(teacher.key, store).report["accuracy"] == teacher.report["accuracy"]


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_unknown_key_is_no_teacher_and_no_warning(tmp_path, caplog):
    assert teachers.find("0" * 64, tmp_path) is None
    assert caplog.text == ""


def test_a_sound_teacher_under_the_same_key_stays(trained, store):
    file = folder_of(trained[0], store) / "teacher.safetensors"
    before = file.stat().st_mtime_ns
    teachers.save(trained[0], store)
    assert file.stat().st_mtime_ns == before
    assert [path.name for path in (store / "teachers").iterdir()] == [trained[0].key]


def test_a_store_that_cannot_be_written_costs_no_teacher(spec, data, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the store's folder should be")
    teacher = teachers.prepare(spec, data, blocked)
    assert teacher.report["source"] == "trained"
    assert "the teacher could not be kept" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: with_teacher(spec, seed=1),
        lambda spec: with_teacher(spec, options={**spec.teacher.options, "width": 0.5}),
        lambda spec: with_teacher(spec, family="wrn", options={"depth": 10, "width": 1.0}),
        lambda spec: with_teacher(spec, train={**spec.teacher.train, "lr": 0.05}),
        lambda spec: with_teacher(spec, train={**spec.teacher.train, "epochs": 4}),
        lambda spec: dataclasses.replace(spec, data=dataclasses.replace(spec.data, augment=())),
    ],
    ids=["seed", "options", "family", "lr", "epochs", "augment"],
)
def test_the_key_changes_with_each_ingredient_of_the_spec(spec, data, change):
    assert teachers.content_key(change(spec), data) != teachers.content_key(spec, data)


def test_the_key_changes_with_the_data_and_the_version_of_the_training(spec, data, monkeypatch):
    key = teachers.content_key(spec, data)
    assert teachers.content_key(spec, dataclasses.replace(data, key="other")) != key
    monkeypatch.setattr(teachers, "TRAINING_VERSION", -1)
    assert teachers.content_key(spec, data) != key


def test_the_key_does_not_change_with_what_does_not_matter(spec, data):
    other = dataclasses.replace(with_teacher(spec, min_accuracy=0.9), name="another")
    reordered = with_teacher(other, options=dict(reversed(spec.teacher.options.items())))
    assert teachers.content_key(reordered, data) == teachers.content_key(spec, data)


def test_an_interrupted_training_goes_on_and_ends_in_the_same_teacher(trained, spec, data, tmp_path):
    key = teachers.content_key(spec, data)
    epochs = teachers.train(spec, data, state_every_s=0)
    teachers.save_partial(key, next(epochs)[1], tmp_path)
    heard = []
    teacher = teachers.prepare(
        spec, data, tmp_path, progress=lambda result, total: heard.append(result.epoch)
    )
    assert heard == [2, 3]
    assert teacher.report["curve"] == trained[0].report["curve"]
    assert all(np.array_equal(teacher.weights[name], array) for name, array in trained[0].weights.items())
    assert teachers.find_partial(key, tmp_path) is None


def test_only_the_last_kept_state_stays(spec, data, tmp_path):
    for _, state in teachers.train(spec, data, state_every_s=0):
        teachers.save_partial("key", state, tmp_path)
    names = sorted(path.name for path in (tmp_path / "teachers" / "key.partial").iterdir())
    assert names == ["epoch-3.pt", "state.json"]
    assert teachers.find_partial("key", tmp_path)["training"]["epoch"] == 3


def test_a_damaged_kept_state_is_reported_and_training_begins_again(spec, data, tmp_path, caplog):
    _, state = next(teachers.train(spec, data, state_every_s=0))
    teachers.save_partial("key", state, tmp_path)
    flip_last_byte(tmp_path / "teachers" / "key.partial" / "epoch-1.pt")
    assert teachers.find_partial("key", tmp_path) is None
    assert "begins again, its kept state is damaged" in caplog.text


def in_another_process(spec, data, state, above):
    """Nothing that it logs is seen, as in a Ray task."""
    with mock.patch.object(teachers, "logger"):
        epochs = list(teachers.train(spec, data, "cpu", state, above))
    yield from epochs


def test_a_kept_state_of_another_training_is_reported_and_training_begins_again(
    trained, spec, data, tmp_path, caplog
):
    """As an older version may have left it: its networks load, and what comes after them does not."""
    key = teachers.content_key(spec, data)
    _, state = next(teachers.train(spec, data, state_every_s=0))
    state["training"]["optimizer"]["param_groups"].pop()
    teachers.save_partial(key, state, tmp_path)
    teacher = teachers.prepare(spec, data, tmp_path, trainer=in_another_process)
    assert "the teacher's training begins again, its kept state is of another version" in caplog.text
    assert teacher.report["curve"] == trained[0].report["curve"]
    assert all(np.array_equal(teacher.weights[name], array) for name, array in trained[0].weights.items())


def test_states_come_now_and_then_and_with_the_last_epoch(spec, data):
    epochs = list(teachers.train(spec, data, state_every_s=1e9))
    assert all(isinstance(result, EpochResult) for result, _ in epochs)
    assert [state is None for _, state in epochs] == [True, True, False]


def test_a_diverging_teacher_says_what_to_change(spec, data):
    wild = with_teacher(spec, train={**spec.teacher.train, "lr": float("inf")})
    expected = r"diverged \(not finite in epoch 1, batch .*lower the lr \(inf\) .* family: resnet: \{train: "
    with pytest.raises(TeacherError, match=expected):
        list(teachers.train(wild, data))


def test_a_teacher_that_cannot_train_says_so(spec, data):
    single = with_teacher(spec, train={**spec.teacher.train, "batch_size": 1})
    with pytest.raises(TeacherError, match="the teacher cannot be trained: batch_size 1"):
        list(teachers.train(single, data))


@pytest.mark.parametrize("file", ["", "teacher.safetensors"], ids=["folder", "file"])
def test_a_teacher_of_ones_own_is_loaded_by_folder_or_file(trained, spec, data, file):
    teacher, store = trained
    loaded = teachers.load_checkpoint_teacher(own(spec, folder_of(teacher, store) / file), data)
    assert (loaded.family, loaded.options) == (teacher.family, teacher.options)
    assert loaded.report["accuracy"] == teacher.report["accuracy"]
    assert loaded.report["source"] == "loaded"
    assert torch.equal(outputs(loaded.build(), data), outputs(teacher.build(), data))


def test_a_saved_student_can_teach(spec, data, tmp_path):
    student = network(spec)
    save_student(tmp_path / "t0001", student, {"student_id": "t0001"})
    loaded = teachers.prepare(own(spec, tmp_path / "t0001"), data)
    assert torch.equal(outputs(loaded.build(), data), outputs(student, data))


def save_torch(model, path, nested=None, prefix=""):
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({nested: state, "epoch": 3} if nested else state, path)


@pytest.mark.parametrize("nested", [None, "state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_foreign_torch_weights_are_loaded_however_they_were_wrapped(spec, data, tmp_path, nested, prefix):
    model = network(spec)
    save_torch(model, tmp_path / "net.pth", nested, prefix)
    loaded = teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.pth"), data)
    assert torch.equal(outputs(loaded.build(), data), outputs(model, data))


def test_foreign_safetensors_are_loaded(spec, data, tmp_path):
    model = network(spec)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "net.safetensors")
    loaded = teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.safetensors"), data)
    assert torch.equal(outputs(loaded.build(), data), outputs(model, data))


def test_half_precision_weights_become_float32(spec, data, tmp_path):
    model = network(spec)
    save_torch(copy.deepcopy(model).bfloat16(), tmp_path / "net.pt")
    loaded = teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.pt"), data)
    assert {array.dtype.name for array in loaded.weights.values()} == {"float32", "int64"}
    torch.testing.assert_close(outputs(loaded.build(), data), outputs(model, data), atol=0.1, rtol=0.1)


def test_old_checkpoints_without_batch_counters_are_loaded(spec, data, tmp_path):
    model = network(spec)
    kept = {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    torch.save(kept, tmp_path / "net.pt")
    loaded = teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.pt"), data)
    assert torch.equal(outputs(loaded.build(), data), outputs(model, data))


def test_fitting_leaves_the_given_weights_as_they_are(spec, tmp_path):
    model = network(spec)
    given = {
        name: array for name, array in to_arrays(model.state_dict()).items() if "num_batches" not in name
    }
    names = list(given)
    assert len(fitted(given, model, tmp_path)) > len(names)
    assert list(given) == names


def test_the_key_of_loaded_weights_follows_their_content(spec, data, tmp_path):
    save_torch(network(spec), tmp_path / "one.pt")
    other = network(spec)
    with torch.no_grad():
        other.classifier.bias.add_(1)
    save_torch(other, tmp_path / "other.pt")
    one, two = (
        teachers.load_checkpoint_teacher(foreign(spec, tmp_path / name), data)
        for name in ("one.pt", "other.pt")
    )
    assert one.key != two.key


def test_another_number_of_classes_is_said_in_words(spec, data, tmp_path):
    save_torch(network(spec, num_classes=100), tmp_path / "net.pt")
    with pytest.raises(TeacherError, match="the checkpoint has 100 classes, the data have 10$"):
        teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.pt"), data)


def test_another_number_of_channels_is_said_in_words(spec, data, tmp_path):
    save_torch(network(spec, in_channels=3), tmp_path / "net.pt")
    with pytest.raises(TeacherError, match="the checkpoint takes 3 input channels, the data have 1$"):
        teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.pt"), data)


def test_ones_own_student_of_another_task_is_refused_by_its_description(spec, data, tmp_path):
    save_student(tmp_path / "t0001", network(spec, num_classes=100), {})
    with pytest.raises(TeacherError, match="the checkpoint has 100 classes, the data have 10"):
        teachers.load_checkpoint_teacher(own(spec, tmp_path / "t0001"), data)


def test_another_width_names_the_first_parameter_that_differs(spec, data, tmp_path):
    save_torch(network(spec), tmp_path / "net.pt")
    with pytest.raises(
        TeacherError, match=r"not the weights of resnet \(depth 8.*\): .* is \(4,.*\) in the check"
    ):
        teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.pt", width=0.5), data)


def test_missing_and_unexpected_parameters_are_counted_and_named(spec, data, tmp_path):
    state = network(spec).state_dict()
    state["head.bias"] = state.pop("classifier.bias")
    torch.save(state, tmp_path / "net.pt")
    expected = r"1 parameter missing \(classifier.bias\), 1 parameter unexpected \(head.bias\)"
    with pytest.raises(TeacherError, match=expected):
        teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.pt"), data)


def test_another_family_shows_only_the_first_three_names(spec, data, tmp_path):
    torch.save(build("vgg", {"width": 0.1}, 10, 1, 8).state_dict(), tmp_path / "net.pt")
    three = r"\(([^,]+, ){3}\.\.\.\)"
    expected = rf"\d+ parameters missing {three}, \d+ parameters unexpected {three}; torchvision's names fit"
    with pytest.raises(TeacherError, match=expected):
        teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.pt"), data)


def test_nan_weights_are_refused(spec, data, tmp_path):
    model = network(spec)
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    save_torch(model, tmp_path / "net.pt")
    with pytest.raises(TeacherError, match=r"1 parameter with infinite or NaN values \(classifier.bias\)"):
        teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.pt"), data)


def test_a_pickled_model_is_refused_and_not_executed(spec, data, tmp_path):
    torch.save(network(spec), tmp_path / "net.pt")
    with pytest.raises(
        TeacherError, match=r"refused: .* pickled objects besides weights.*torch.save\(model.state"
    ):
        teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.pt"), data)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", bytes(1000)], ids=["empty", "text", "zeros"])
def test_a_damaged_foreign_file_is_refused_in_words(spec, data, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TeacherError, match="damaged"):
        teachers.load_checkpoint_teacher(foreign(spec, tmp_path / name), data)


def test_a_file_without_weights_is_refused(spec, data, tmp_path):
    torch.save({"epoch": 3}, tmp_path / "net.pt")
    with pytest.raises(
        TeacherError,
        match="no weights in it, neither at the top nor under state_dict, model_state_dict, model, net",
    ):
        teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "net.pt"), data)


def test_a_missing_file_is_named(spec, data, tmp_path):
    with pytest.raises(TeacherError, match=r"gone\.pt: cannot be read: No such file"):
        teachers.load_checkpoint_teacher(foreign(spec, tmp_path / "gone.pt"), data)


def test_a_file_alone_needs_its_family_in_the_spec(spec, data, tmp_path):
    safetensors.torch.save_file(network(spec).state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(TeacherError, match=r"no net\.json beside it .*name their family and options"):
        teachers.load_checkpoint_teacher(own(spec, tmp_path / "net.safetensors"), data)


def test_an_empty_folder_is_said_to_be_empty(spec, data, tmp_path):
    with pytest.raises(TeacherError, match="holds neither teacher.safetensors nor student.safetensors"):
        teachers.load_checkpoint_teacher(own(spec, tmp_path), data)


def test_other_image_sizes_are_reported(trained, spec, tmp_path, caplog):
    larger = datasets.load(dataclasses.replace(spec.data, resize=16))
    teachers.load_checkpoint_teacher(own(spec, folder_of(*trained)), larger)
    assert "was trained on images 8 pixels wide, the data's have 16" in caplog.text


def test_torchvisions_own_names_fit_its_families(tmp_path):
    with torch.device("meta"):
        model = build("torchvision/squeezenet1_1", {}, 10, 3, 32)
    own_names = {name: np.zeros(tensor.shape) for name, tensor in model.model.state_dict().items()}
    assert fitted(own_names, model, tmp_path).keys() == model.state_dict().keys()


def test_a_converged_teacher_passes(trained):
    teachers.check_converged(trained[0], None)
    teachers.check_converged(trained[0], trained[0].report["accuracy"])


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"still_improving": True}, r"it was still improving: raise teacher\.resnet\.train\.epochs \(3\)"),
        ({"still_improving": False}, "it had stopped improving: change teacher.resnet.train.lr or choose"),
        ({"source": "loaded"}, "check that its classes are in the data's order"),
        ({"source": "combined"}, "train its networks for longer or choose larger ones"),
    ],
    ids=["still improving", "stopped improving", "loaded", "combined"],
)
def test_an_unconverged_teacher_says_what_was_reached_what_was_asked_and_what_to_do(trained, changes, advice):
    poor = dataclasses.replace(trained[0], report={**trained[0].report, "accuracy": 0.25, **changes})
    expected = rf"reached 0\.2500 validation accuracy, teacher\.min_accuracy asks for 0\.9; {advice}"
    with pytest.raises(TeacherError, match=expected):
        teachers.check_converged(poor, 0.9, "teacher.resnet.train")


def test_the_description_says_what_a_person_asks(trained):
    text = "\n".join(teachers.describe(trained[0]))
    report = trained[0].report
    assert "resnet (depth 8, " in text
    assert f"{report['params']:,} parameters" in text
    assert f"validation accuracy {report['accuracy']:.4f} (trained, 3 epochs in " in text
    assert f"of at most 2.30 nats: T=1 {report['entropy']['1']:.2f}, T=2" in text
    assert f"compression 10 means {report['params'] // 10:,} parameters" in text


def test_the_description_warns_of_chance_and_of_a_short_training(trained):
    poor = dataclasses.replace(
        trained[0], report={**trained[0].report, "accuracy": 0.11, "still_improving": True}
    )
    text = "\n".join(teachers.describe(poor))
    assert "close to chance" in text
    assert "still improving when its training ended" in text


def test_the_store_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("KDSEARCH_HOME", str(tmp_path))
    assert teachers.default_store() == tmp_path
    monkeypatch.delenv("KDSEARCH_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert teachers.default_store() == tmp_path / ".cache" / "kdsearch"


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.5], True),
        ([0.5, 0.7], True),
        ([0.9, 0.901], False),
        ([0.1] * 10 + [0.5] * 9 + [0.4], False),
        ([0.1 + 0.04 * epoch for epoch in range(20)], True),
    ],
    ids=["one epoch", "rising", "within the noise", "falling", "rising to the end"],
)
def test_still_improving_needs_more_than_a_standard_error(curve, expected):
    assert still_improving(curve, num_validation=1000) is expected


def test_calibration_error_by_hand():
    # bins (0.6, 0.667]: |1/2 - 0.65| * 2/4; (0.867, 0.933]: |1 - 0.9| * 1/4; (0.933, 1]: |0 - 1.0| * 1/4
    confidence = torch.tensor([0.65, 0.65, 0.9, 1.0], dtype=torch.float64)
    correct = torch.tensor([True, False, True, False])
    expected = (0.15 * 2 + 0.1 + 1.0) / 4
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)


def test_calibration_bins_include_their_upper_edge():
    # with 2 bins, 0.5 is in the lower one: |1 - 0.5| / 2 + |0 - 0.6| / 2, not |1 - 1.1| / 2
    confidence = torch.tensor([0.5, 0.6], dtype=torch.float64)
    assert expected_calibration_error(confidence, torch.tensor([True, False]), num_bins=2) == pytest.approx(
        0.55
    )


def test_quality_of_a_flat_output():
    flat = quality(torch.zeros(4, 10), torch.tensor([0, 0, 1, 2]))
    assert flat["accuracy"] == 0.5
    assert flat["nll"] == pytest.approx(math.log(10))
    assert flat["entropy"] == pytest.approx(dict.fromkeys(("1", "2", "4", "8", "16"), math.log(10)))
    assert flat["ece"] == pytest.approx(0.4)


def test_a_higher_temperature_softens_the_output():
    softened = quality(torch.tensor([[4.0, 0.0]]), torch.tensor([0]))["entropy"]
    expected = [mean_entropy(torch.tensor([[4.0 / temperature, 0.0]])) for temperature in (1, 2, 4, 8, 16)]
    assert list(softened.values()) == pytest.approx(expected)
    assert expected == sorted(set(expected))


def test_the_entropy_of_a_certain_output_is_0():
    assert mean_entropy(torch.tensor([[1e4, 0.0, 0.0]], dtype=torch.float64)) == 0
