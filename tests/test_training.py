"""Training on scikit-learn's digits: it learns, repeats to the last digit, resumes, and says why it fails."""

import copy
import dataclasses
import hashlib
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from few_images import shortened

from kdsearch import data as datasets
from kdsearch.data.views import Views, order
from kdsearch.device import NARROWEST_CHANNELS_LAST, device_policy, narrowest_layer, num_threads
from kdsearch.losses import METHODS
from kdsearch.models.build import build
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import DataSpec
from kdsearch.spec_methods import unmet
from kdsearch.training import (
    CheckpointError,
    NonFiniteLoss,
    Training,
    learning_rate,
    load_checkpoint,
    predict,
    save_checkpoint,
)

RECIPE = TrainConfig(epochs=3, batch_size=64, lr=0.1, schedule="cosine", warmup_epochs=1)
STUDENT = Choice("resnet", {"depth": 8, "width": 0.25})
CONTROL = TrialConfig(STUDENT, RECIPE, seed=3)
KD = dataclasses.replace(CONTROL, distill={"response": Choice("kd")}, alpha=0.9, temperature=4.0)
FITNET = Choice("fitnet", {"weight": 10.0, "layer_map": "stage2>stage2"})
EVERYTHING = dataclasses.replace(
    KD,
    distill={
        "response": Choice("kd"),
        "feature": FITNET,
        "relation": Choice("rkd", {"weight": 0.1, "distance_weight": 25.0, "angle_weight": 50.0}),
    },
)
AUGMENT = (("crop", {"padding": 1}),)


@pytest.fixture(scope="module")
def data():
    return datasets.load(DataSpec(dataset="digits"))


@pytest.fixture(scope="module")
def small(data):
    """Two batches and a few images: enough where only equality counts."""
    return shortened(data, 160, 50)


def teacher_of(data, seed=1):
    torch.manual_seed(seed)
    return build("resnet", {"depth": 8, "width": 0.5}, data.num_classes, data.in_channels, data.image_size)


def run(training):
    """Every number of the epochs that are left, without the times."""
    epochs = []
    while not training.finished:
        result = training.run_epoch()
        epochs.append((result.epoch, dict(result.metrics), dict(result.terms)))
    return epochs


def equal_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def with_train(config, **changes):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def test_a_tiny_resnet_learns_digits(data):
    training = Training(with_train(CONTROL, epochs=6, weight_decay=5e-4), data)
    epochs = run(training)
    assert epochs[-1][1]["val_accuracy"] > 0.8
    assert epochs[-1][1]["train_loss"] < epochs[0][1]["train_loss"] / 4
    assert training.evaluate() == epochs[-1][1]["val_accuracy"]


def test_a_student_learns_from_its_teacher_alone(data):
    teacher_training = Training(with_train(CONTROL, epochs=4), data)
    run(teacher_training)
    student = with_train(dataclasses.replace(KD, alpha=1.0, seed=8), epochs=5)
    assert run(Training(student, data, teacher=teacher_training.student))[-1][1]["val_accuracy"] > 0.8


@pytest.mark.parametrize("config", [CONTROL, KD, EVERYTHING], ids=["control", "kd", "everything"])
def test_the_same_seed_gives_the_same_losses_to_the_last_digit(small, config):
    first = Training(config, small, AUGMENT, teacher_of(small))
    second_in_the_same_process = Training(config, small, AUGMENT, teacher_of(small))
    assert run(first) == run(second_in_the_same_process)
    assert equal_weights(first.student.state_dict(), second_in_the_same_process.student.state_dict())


def test_the_global_generator_neither_matters_nor_moves(small):
    torch.manual_seed(1)
    expected = run(Training(EVERYTHING, small, AUGMENT, teacher_of(small)))
    teacher = teacher_of(small)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert run(Training(EVERYTHING, small, AUGMENT, teacher)) == expected
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("change", [{"seed": 4}, {"stream": 1}], ids=["seed", "stream"])
def test_another_seed_or_stream_gives_other_losses(small, change):
    assert run(Training(CONTROL, small, AUGMENT)) != run(
        Training(dataclasses.replace(CONTROL, **change), small, AUGMENT)
    )


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_resumed_in_the_middle_equals_uninterrupted(small, tmp_path, optimizer):
    config = with_train(EVERYTHING, optimizer=optimizer, lr=0.01)
    whole = Training(config, small, AUGMENT, teacher_of(small))
    expected = run(whole)

    interrupted = Training(config, small, AUGMENT, teacher_of(small))
    interrupted.run_epoch()
    sha256 = save_checkpoint(tmp_path / "epoch-1.pt", interrupted)
    resumed = Training(config, small, AUGMENT, teacher_of(small))
    resumed.load_state_dict(load_checkpoint(tmp_path / "epoch-1.pt", sha256))

    assert run(resumed) == expected[1:]
    assert equal_weights(resumed.student.state_dict(), whole.student.state_dict())


def test_dropout_resumes_too(small, monkeypatch):
    plain = run(Training(CONTROL, small))

    def build_with_dropout(*arguments):
        model = build(*arguments)
        model.classifier = torch.nn.Sequential(torch.nn.Dropout(0.5), model.classifier)
        return model

    monkeypatch.setattr("kdsearch.training.build", build_with_dropout)
    expected = run(Training(CONTROL, small))
    interrupted = Training(CONTROL, small)
    interrupted.run_epoch()
    resumed = Training(CONTROL, small)
    resumed.load_state_dict(interrupted.state_dict())
    assert run(resumed) == expected[1:]
    assert expected != plain


def test_a_state_is_a_copy_that_training_on_does_not_change(small):
    training = Training(EVERYTHING, small, teacher=teacher_of(small))
    training.run_epoch()
    state = training.state_dict()
    before = copy.deepcopy(state)
    training.load_state_dict(state)
    training.run_epoch()
    assert equal_weights(state["student"], before["student"])
    assert torch.equal(
        state["optimizer"]["state"][0]["momentum_buffer"], before["optimizer"]["state"][0]["momentum_buffer"]
    )


def test_a_control_and_its_partner_share_initial_weights_whatever_the_losses_learn(small):
    control = Training(CONTROL, small)
    partner = Training(EVERYTHING, small, teacher=teacher_of(small))
    assert equal_weights(control.student.state_dict(), partner.student.state_dict())


def test_initial_weights_depend_on_the_seed(small):
    other = Training(dataclasses.replace(CONTROL, seed=4), small)
    assert not equal_weights(Training(CONTROL, small).student.state_dict(), other.student.state_dict())


def test_learned_loss_parts_move_but_are_not_the_students(small):
    training = Training(EVERYTHING, small, teacher=teacher_of(small))
    before = training.state_dict()
    training.run_epoch()
    after = training.state_dict()
    assert not equal_weights(before["learned"], after["learned"])
    assert after["student"].keys() == Training(CONTROL, small).student.state_dict().keys()


def test_the_teacher_gets_no_gradient_and_its_statistics_do_not_move(small):
    teacher = teacher_of(small).train()
    before = copy.deepcopy(teacher.state_dict())
    run(Training(EVERYTHING, small, AUGMENT, teacher))
    assert equal_weights(teacher.state_dict(), before)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teachers_pass_is_not_recorded_for_gradients(small):
    recorded = []
    teacher = teacher_of(small)
    outputs = teacher.outputs

    def outputs_and_note(images, detailed, until):
        result = outputs(images)
        recorded.append(result.logits.requires_grad or torch.is_grad_enabled())
        return result

    teacher.outputs = outputs_and_note
    Training(KD, small, teacher=teacher).run_epoch()
    assert recorded == [False, False, False]


def test_a_control_never_touches_the_teacher(small):
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"a control asked the teacher for {name}")

    assert run(Training(CONTROL, small, teacher=Untouchable())) == run(Training(CONTROL, small))


def test_distillation_without_a_teacher_is_refused(small):
    with pytest.raises(ValueError, match="response needs a teacher"):
        Training(KD, small)


def networks_for(method, data):
    """A student and a teacher of three stages or more that publish what the method reads."""
    if not unmet(method, [("student", "resnet"), ("teacher", "resnet")]):
        return STUDENT, teacher_of(data)
    student = Choice("vit", {"patch": 4, "dim": 12, "depth": 3, "heads": 2})
    torch.manual_seed(1)
    teacher = {"patch": 2, "dim": 18, "depth": 4, "heads": 3}
    return student, build("vit", teacher, data.num_classes, data.in_channels, data.image_size)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains(small, name):
    method = METHODS[name]
    options = {key: option.default for key, option in method.options.items()}
    options |= {"layer_map": "stage1>stage1,stage3>stage3"} if "layer_map" in options else {}
    distill = {method.slot: Choice(name, options)}
    student, teacher = networks_for(name, small)
    config = dataclasses.replace(CONTROL, student=student, distill=distill, alpha=0.5, temperature=4.0)
    training = Training(with_train(config, lr=0.001), small, AUGMENT, teacher)
    before = training.state_dict()["student"]
    result = training.run_epoch()
    assert len(result.terms) >= 2
    assert all(math.isfinite(value) for value in (*result.terms.values(), result.metrics["train_loss"]))
    assert not equal_weights(before, training.state_dict()["student"])


def test_train_loss_is_the_weighted_sum_of_the_terms(small):
    result = Training(KD, small, teacher=teacher_of(small)).run_epoch()
    expected = 0.1 * result.terms["label"] + 0.9 * result.terms["kd"]
    assert result.metrics["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_every_sample_counts_alike_in_the_means(small):
    still = with_train(CONTROL, lr=0.0)
    result = Training(still, small).run_epoch()
    student, views = Training(still, small).student, Views(small.train, small.mean, small.std)
    batches = torch.split(order(160, seed=3, epoch=1), 64)
    sums = [
        F.cross_entropy(student(views.plain(indices).images), views.labels[indices], reduction="sum").item()
        for indices in batches
    ]
    assert result.terms["label"] == pytest.approx(sum(sums) / 160, rel=1e-5)


def test_with_alpha_1_the_labels_do_not_matter(small):
    shuffled = dataclasses.replace(
        small, train=dataclasses.replace(small.train, labels=small.train.labels[::-1].copy())
    )
    config = dataclasses.replace(KD, alpha=1.0)
    true, wrong = (Training(config, labels, teacher=teacher_of(small)) for labels in (small, shuffled))
    true.run_epoch()
    wrong.run_epoch()
    assert equal_weights(true.student.state_dict(), wrong.student.state_dict())


def test_label_weight_0_without_response_leaves_the_labels_out(small):
    shuffled = dataclasses.replace(
        small, train=dataclasses.replace(small.train, labels=small.train.labels[::-1].copy())
    )
    config = dataclasses.replace(CONTROL, distill={"feature": FITNET}, label_weight=0.0)
    true, wrong = (Training(config, labels, teacher=teacher_of(small)) for labels in (small, shuffled))
    true.run_epoch()
    wrong.run_epoch()
    assert equal_weights(true.student.state_dict(), wrong.student.state_dict())


def test_mixup_trains_on_mixed_labels(small):
    mixed = Training(KD, small, (("mixup", {"alpha": 1.0}),), teacher_of(small)).run_epoch()
    plain = Training(KD, small, (), teacher_of(small)).run_epoch()
    assert math.isfinite(mixed.metrics["train_loss"])
    assert mixed.terms["label"] != plain.terms["label"]


def test_label_smoothing_raises_the_floor_of_the_label_term(data):
    smoothed = run(Training(with_train(CONTROL, label_smoothing=0.2), data))
    plain = run(Training(CONTROL, data))
    assert smoothed[-1][2]["label"] > plain[-1][2]["label"] + 0.2


@pytest.mark.parametrize("lr", [float("nan"), float("inf")])
def test_a_diverging_training_names_epoch_batch_and_terms(small, lr):
    training = Training(with_train(KD, lr=lr, warmup_epochs=0), small, teacher=teacher_of(small))
    with pytest.raises(NonFiniteLoss, match="epoch 1, batch 2: total = nan, label = nan, kd = nan"):
        training.run_epoch()
    assert training.epoch == 0


def test_the_error_names_only_the_terms_that_are_not_finite(small):
    teacher = teacher_of(small)
    with torch.no_grad():
        next(iter(reversed(list(teacher.parameters())))).fill_(float("nan"))
    training = Training(KD, small, teacher=teacher)
    before = [parameter.detach().clone() for parameter in training.student.parameters()]
    with pytest.raises(NonFiniteLoss) as caught:
        training.run_epoch()
    assert (caught.value.epoch, caught.value.batch, set(caught.value.terms)) == (1, 1, {"total", "kd"})
    assert all(map(torch.equal, training.student.parameters(), before))


def test_checking_rarely_still_finds_the_first_bad_batch(small):
    training = Training(with_train(CONTROL, lr=float("inf"), warmup_epochs=0), small)
    training.policy = dataclasses.replace(training.policy, check_every=50)
    with pytest.raises(NonFiniteLoss, match="epoch 1, batch 2"):
        training.run_epoch()


def test_weights_that_break_in_the_last_step_are_no_accuracy(small):
    one_batch = with_train(CONTROL, lr=float("inf"), warmup_epochs=0, batch_size=160)
    with pytest.raises(NonFiniteLoss, match="epoch 1, batch 1: validation logits"):
        Training(one_batch, small).run_epoch()


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(NonFiniteLoss(3, 7, {"kd": float("inf")})))
    assert str(error) == "not finite in epoch 3, batch 7: kd = inf"


@pytest.mark.parametrize(("num_samples", "expected"), [(128, 2), (129, 2), (130, 3), (66, 2)])
def test_a_last_batch_of_one_is_left_out_and_any_longer_one_is_kept(data, num_samples, expected):
    training = Training(with_train(CONTROL, epochs=1, warmup_epochs=0), shortened(data, num_samples))
    training.run_epoch()
    batches_of_norm = {
        int(value)
        for name, value in training.student.state_dict().items()
        if name.endswith("num_batches_tracked")
    }
    assert batches_of_norm == {expected}


def test_batches_of_one_are_refused_in_words(small):
    with pytest.raises(ValueError, match="batch_size 1 on 160 training images leaves no batch of 2 or more"):
        Training(with_train(CONTROL, batch_size=1), small)


def test_evaluation_does_not_depend_on_its_batch_size(small):
    training = Training(CONTROL, small)
    training.run_epoch()
    views = Views(small.validation, small.mean, small.std)
    in_sevens = predict(training.student, views, dataclasses.replace(training.policy, eval_batch_size=7))
    assert in_sevens.shape == (50, 10)
    torch.testing.assert_close(in_sevens, predict(training.student, views, training.policy))


def test_warm_up_rises_to_the_peak_and_cosine_falls_to_0():
    recipe = TrainConfig(epochs=5, lr=0.4, schedule="cosine", warmup_epochs=1)
    rates = [learning_rate(recipe, step, steps_per_epoch=4) for step in range(20)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert rates[12] == pytest.approx(0.2)
    assert rates[-1] == pytest.approx(0.2 * (1 + math.cos(math.pi * 15 / 16)))


def test_linear_falls_in_equal_steps():
    recipe = TrainConfig(epochs=2, lr=0.4, schedule="linear")
    assert [learning_rate(recipe, step, 2) for step in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_step_multiplies_at_each_milestone():
    recipe = TrainConfig(epochs=4, lr=1.0, schedule="step", milestones=(1, 3), gamma=0.1)
    assert [learning_rate(recipe, 2 * epoch, 2) for epoch in range(4)] == pytest.approx([1, 0.1, 0.1, 0.01])
    assert learning_rate(recipe, 1, 2) == 1.0


def test_constant_stays_also_when_all_is_warm_up():
    assert learning_rate(TrainConfig(epochs=2, lr=0.3, schedule="constant"), 5, 4) == 0.3
    assert learning_rate(TrainConfig(epochs=2, lr=0.3, warmup_epochs=2), 7, 4) == pytest.approx(0.3)


def test_unknown_words_in_the_recipe_are_refused(small):
    with pytest.raises(ValueError, match="optimizer must be one of adam, adamw, sgd: 'lion'"):
        Training(with_train(CONTROL, optimizer="lion"), small)
    with pytest.raises(ValueError, match=r"schedule must be one of .*: 'exp'"):
        learning_rate(TrainConfig(epochs=1, schedule="exp"), 0, 1)


def test_the_reported_learning_rate_is_the_last_steps(small):
    results = run(Training(CONTROL, small))
    assert [metrics["lr"] for _, metrics, _ in results] == pytest.approx(
        [learning_rate(CONTROL.train, step, 3) for step in (2, 5, 8)]
    )


@pytest.mark.parametrize("position", [0, 0.5, -1], ids=["start", "middle", "end"])
def test_a_checkpoint_with_one_changed_byte_is_refused(small, tmp_path, position):
    path = tmp_path / "epoch-0.pt"
    sha256 = save_checkpoint(path, Training(CONTROL, small))
    content = bytearray(path.read_bytes())
    content[int(position * len(content)) if position >= 0 else -1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"epoch-0\.pt: the checkpoint is damaged: sha256"):
        load_checkpoint(path, sha256)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pt: the checkpoint cannot be read: No such file"):
        load_checkpoint(tmp_path / "gone.pt", "")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"state": print}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of tensors and plain values"):
        load_checkpoint(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_checkpoint_of_another_training_is_refused_in_one_line(small, tmp_path):
    path = tmp_path / "epoch-0.pt"
    sha256 = save_checkpoint(path, Training(CONTROL, small))
    wider = dataclasses.replace(CONTROL, student=Choice("resnet", {"depth": 8, "width": 0.5}))
    with pytest.raises(CheckpointError, match=r"of another training: .* size mismatch .*") as refused:
        Training(wider, small).load_state_dict(load_checkpoint(path, sha256))
    assert "\n" not in str(refused.value)


def test_a_state_whose_optimizer_is_another_is_of_another_training(small):
    state = Training(CONTROL, small).state_dict()
    state["optimizer"]["param_groups"].append(state["optimizer"]["param_groups"][0])
    with pytest.raises(
        CheckpointError, match="of another training: loaded state dict has a different number"
    ):
        Training(CONTROL, small).load_state_dict(state)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(small, tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    training = Training(CONTROL, small)
    sha256 = save_checkpoint(path, training)
    training.run_epoch()
    monkeypatch.setattr("os.replace", raise_full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, training)
    assert load_checkpoint(path, sha256)["epoch"] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def raise_full_disk(*arguments):
    raise OSError(28, "No space left on device")


def test_channels_last_is_kept_from_narrow_layers(small):
    narrow, wide = teacher_of(small), build("resnet", {"depth": 8, "width": 1.0}, 10, 1, 8)
    assert narrowest_layer(narrow) == 8
    assert narrowest_layer(wide) == 16
    assert narrowest_layer(build("mlp", {}, 10, 1, 8)) == 0
    assert device_policy("cpu", narrowest_layer=64).memory_format == torch.contiguous_format
    assert (
        device_policy("cpu", narrowest_layer=8, layout="channels_last").memory_format == torch.channels_last
    )
    on_the_cpu = device_policy("cpu", narrowest_layer=7, layout="channels_last")
    assert on_the_cpu.memory_format == torch.contiguous_format
    assert device_policy("cuda", narrowest_layer=64).memory_format == torch.channels_last
    too_narrow = device_policy("cuda", narrowest_layer=NARROWEST_CHANNELS_LAST - 1)
    assert too_narrow.memory_format == torch.contiguous_format


def test_a_student_in_channels_last_resumes_bit_for_bit_and_has_a_teacher_in_nchw(small):
    wide = dataclasses.replace(EVERYTHING, student=Choice("resnet", {"depth": 8, "width": 0.5}))
    teacher = teacher_of(small)
    whole = Training(wide, small, teacher=teacher, layout="channels_last")
    whole.run_epoch()
    state, expected = whole.state_dict(), run(whole)
    resumed = Training(wide, small, teacher=teacher, layout="channels_last")
    resumed.load_state_dict(state)
    assert run(resumed) == expected
    kernels = [p for p in resumed.student.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert all(parameter.is_contiguous() for parameter in teacher.parameters())


def test_the_policy_of_a_gpu_trains_in_float32_weights(small, monkeypatch):
    gpu = dataclasses.replace(
        device_policy("cpu"), memory_format=torch.channels_last, autocast=torch.bfloat16, check_every=50
    )
    monkeypatch.setattr("kdsearch.training.device_policy", lambda *arguments, **keywords: gpu)
    wide = dataclasses.replace(EVERYTHING, student=Choice("resnet", {"depth": 8, "width": 1.0}))
    expected = run(Training(wide, small, teacher=teacher_of(small)))
    training = Training(wide, small, teacher=teacher_of(small))
    training.run_epoch()
    resumed = Training(wide, small, teacher=teacher_of(small))
    resumed.load_state_dict(training.state_dict())
    assert run(resumed) == expected[1:]
    assert {parameter.dtype for parameter in resumed.student.parameters()} == {torch.float32}


@pytest.mark.parametrize(("cpus", "expected"), [(0.25, 1), (1, 1), (1.9, 1)])
def test_a_share_of_a_core_is_one_thread(cpus, expected):
    assert num_threads(cpus) == expected


def test_there_are_never_more_threads_than_cores():
    assert num_threads(10_000) < 10_000
