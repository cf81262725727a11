"""Contract suite over the model families, their published sizes, and the torchvision adapter's promises."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn

from kdsearch.models import FAMILIES, TORCHVISION, family
from kdsearch.models.build import (
    Architecture,
    Classifier,
    build,
    cost,
    load_student,
    load_weights,
    measure,
    save_student,
    weightless,
)
from kdsearch.models.layers import BatchNorm, scaled
from kdsearch.models.shapes import Weightless, shadow

NUM_CLASSES = 10
Case = tuple[str, dict[str, Any], int, int]  # family, options, in_channels, image_size

MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("mlp", {}),
    ("mlp", {"depth": 3, "width": 0.25}),
    ("mobilenetv2", {"width": 0.25}),
    ("mobilenetv2", {"width": 0.1, "head_ratio": 2.0, "stem_stride": 2}),
    ("resnet", {"depth": 8}),
    ("resnet", {"depth": 14, "width": 0.3, "stem_ratio": 0.5}),
    ("shufflenetv2", {"width": 0.5}),
    ("shufflenetv2", {"width": 0.11, "head_ratio": 0.5}),
    ("torchvision/shufflenet_v2_x0_5", {}),
    ("torchvision/squeezenet1_1", {}),
    ("vgg", {"width": 0.25}),
    ("vgg", {"depth": 19, "width": 0.1}),
    ("vit", {"patch": 2, "dim": 24, "depth": 2}),
    ("vit", {"patch": 2, "dim": 24, "depth": 3, "heads": 4, "mlp_ratio": 1.5, "width": 0.6, "token": True}),
    ("wrn", {"depth": 10}),
    ("wrn", {"depth": 16, "width": 0.4}),
)
SMALLEST: tuple[tuple[str, dict[str, Any]], ...] = tuple(
    (name, {key: option.low for key, option in entry.options.items()}) for name, entry in FAMILIES.items()
)
LARGE_MODELS = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_16",
)


def ids(cases: list[Case]) -> list[str]:
    return [f"{name} {options} {channels}x{size}x{size}" for name, options, channels, size in cases]


CASES = [(name, options, *shape) for name, options in MODELS for shape in ((1, 8), (3, 32))]
SMALLEST_CASES = [(name, options, *shape) for name, options in SMALLEST for shape in ((1, 8), (3, 32))]
LARGE_CASES: list[Case] = [(f"torchvision/{name}", {}, 3, 32) for name in LARGE_MODELS]

every_model = pytest.mark.parametrize("case", CASES, ids=ids(CASES))
every_smallest_model = pytest.mark.parametrize("case", SMALLEST_CASES, ids=ids(SMALLEST_CASES))
every_large_model = pytest.mark.parametrize("case", LARGE_CASES, ids=ids(LARGE_CASES))


def make(case: Case, seed: int = 0) -> Classifier:
    name, options, in_channels, image_size = case
    torch.manual_seed(seed)
    return build(name, options, NUM_CLASSES, in_channels, image_size)


def images_for(case: Case, batch_size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch_size, case[2], case[3], case[3], generator=generator)


def expect_the_contract(case: Case) -> None:
    """Outputs have the published shapes, and `forward` gives the same logits."""
    model, images = make(case).eval(), images_for(case, batch_size=2)
    outputs = model.outputs(images)
    assert tuple(outputs.features) == tuple(stage.name for stage in model.stages)
    assert tuple(outputs.features) == family(case[0]).stages(case[1])
    assert [tuple(maps.shape) for maps in outputs.features.values()] == [
        (2, stage.channels, stage.size, stage.size) for stage in model.stages
    ]
    assert outputs.logits.shape == (2, NUM_CLASSES)
    assert outputs.embedding.shape == (2, model.num_features)
    assert torch.isfinite(outputs.logits).all()
    assert torch.equal(model(images), outputs.logits)


@every_model
def test_outputs_have_the_published_shapes_and_forward_agrees(case: Case) -> None:
    expect_the_contract(case)


@every_smallest_model
def test_the_smallest_model_of_each_family_works(case: Case) -> None:
    expect_the_contract(case)


@pytest.mark.slow
@every_large_model
def test_large_torchvision_models_keep_the_contract(case: Case) -> None:
    expect_the_contract(case)


@pytest.mark.parametrize("name", ["regnet_y_400mf", "swin_t"])
def test_a_weightless_model_has_shapes_only(name: str) -> None:
    model = weightless(Architecture(f"torchvision/{name}", {"pretrained": True}, NUM_CLASSES, 3, 32))
    assert model.architecture.options == {"pretrained": True}
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize("image_size", [14, 28, 64])
@pytest.mark.parametrize(("name", "options"), MODELS)
def test_stages_are_right_at_any_image_size(name: str, options: dict[str, Any], image_size: int) -> None:
    with Weightless():
        model = build(name, options, NUM_CLASSES, 3, image_size)
    twin = shadow(model)
    assert isinstance(twin, Classifier)
    features = twin.outputs(torch.empty(1, 3, image_size, image_size, device="meta")).features
    expected = {stage.name: (1, stage.channels, stage.size, stage.size) for stage in model.stages}
    assert {name: tuple(maps.shape) for name, maps in features.items()} == expected


@every_model
def test_gradient_reaches_every_parameter(case: Case) -> None:
    model = make(case)
    loss = nn.functional.cross_entropy(model(images_for(case)), torch.arange(4))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    names = [name for name, _ in model.named_parameters()]
    assert [n for n, gradient in zip(names, gradients, strict=True) if not gradient.abs().sum() > 0] == []


def expect_gradient_from_every_stage(case: Case) -> None:
    """A term on a stage's map, or on the embedding, trains what is before it."""
    images = images_for(case).requires_grad_()
    outputs = make(case).outputs(images)
    for maps in (*outputs.features.values(), outputs.embedding):
        loss = (maps * torch.arange(maps.numel()).view(maps.shape)).mean()
        (gradient,) = torch.autograd.grad(loss, images, retain_graph=True)
        assert gradient.abs().sum() > 0


@every_model
def test_gradient_flows_from_every_stage(case: Case) -> None:
    expect_gradient_from_every_stage(case)


@pytest.mark.slow
@every_large_model
def test_gradient_flows_from_every_stage_of_large_torchvision_models(case: Case) -> None:
    expect_gradient_from_every_stage(case)


@every_model
def test_one_image_with_one_value_per_channel_can_be_trained_on(case: Case) -> None:
    logits = make(case).train()(images_for(case, batch_size=1))
    assert torch.isfinite(logits).all()


@every_model
def test_initial_weights_depend_on_the_seed_alone(case: Case) -> None:
    first, same, other = (make(case, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@every_model
def test_a_saved_student_is_loaded_bit_for_bit(case: Case, tmp_path: Path) -> None:
    model, images = make(case), images_for(case)
    model(images)  # moves the running statistics
    description = {"trial_id": "t0007", "val_accuracy": 0.875}
    save_student(tmp_path / "students" / "t0007", model, description)
    state_of_the_generator = torch.get_rng_state()

    loaded, loaded_description = load_student(tmp_path / "students" / "t0007")

    assert loaded_description == description
    assert loaded.architecture == model.architecture
    assert loaded.stages == model.stages
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())
    assert torch.equal(loaded(images), model.eval()(images))
    assert torch.equal(torch.get_rng_state(), state_of_the_generator)


@every_model
def test_cost_is_what_measure_says_of_the_built_model(case: Case) -> None:
    name, options, in_channels, image_size = case
    measured = measure(make(case), in_channels, image_size)
    assert measured == cost(name, options, NUM_CLASSES, in_channels, image_size)
    assert isinstance(measured["params"], int)
    assert isinstance(measured["macs"], int)
    assert measured["macs"] > 0
    assert measured["size_mb"] >= 4 * measured["params"] / 1e6


@pytest.mark.parametrize(
    ("name", "options", "params"),
    [
        ("resnet", {"depth": 20}, 278_324),
        ("resnet", {"depth": 32}, 472_756),
        ("resnet", {"depth": 56}, 861_620),
        ("resnet", {"depth": 110}, 1_736_564),
        ("resnet", {"depth": 8, "width": 4.0, "stem_ratio": 0.5}, 1_233_540),  # resnet8x4
        ("resnet", {"depth": 32, "width": 4.0, "stem_ratio": 0.5}, 7_433_860),  # resnet32x4
        ("wrn", {"depth": 16, "width": 2.0}, 703_284),
        ("wrn", {"depth": 40, "width": 1.0}, 569_780),
        ("wrn", {"depth": 40, "width": 2.0}, 2_255_156),
    ],
)
def test_published_models_have_their_published_number_of_parameters(
    name: str, options: dict[str, Any], params: int
) -> None:
    assert cost(name, options, num_classes=100, in_channels=3, image_size=32)["params"] == params


def test_macs_and_size_of_resnet8_counted_by_hand() -> None:
    stem = 64 * 9 * 1 * 16
    stage1 = 64 * 9 * (16 * 16 + 16 * 16)
    stage2 = 16 * (9 * (16 * 32 + 32 * 32) + 16 * 32)
    stage3 = 4 * (9 * (32 * 64 + 64 * 64) + 32 * 64)
    weights = 9 * 16 + stage1 // 64 + stage2 // 16 + stage3 // 4 + 64 * 10
    norm_channels = 3 * 16 + 3 * 32 + 3 * 64
    params = weights + 10 + 2 * norm_channels
    num_norms = 9
    measured = cost("resnet", {"depth": 8}, NUM_CLASSES, in_channels=1, image_size=8)
    assert measured["macs"] == stem + stage1 + stage2 + stage3 + 64 * 10
    assert measured["params"] == params
    assert measured["size_mb"] == (4 * (params + 2 * norm_channels) + 8 * num_norms) / 1e6


def test_macs_of_torchvision_resnet18_are_the_published_ones() -> None:
    measured = cost("torchvision/resnet18", {}, num_classes=1000, in_channels=3, image_size=224)
    assert measured["params"] == 11_689_512
    assert measured["macs"] == 1_814_073_344


def test_measuring_leaves_the_model_alone() -> None:
    model = build("resnet", {"depth": 8, "width": 0.5}, NUM_CLASSES, 3, 32).requires_grad_(False).train()
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    measure(model, 3, 32)
    assert model.training
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_changing_a_returned_cost_does_not_change_the_next_one() -> None:
    first = cost("mlp", {}, NUM_CLASSES, 1, 8)
    first["params"] = -1
    assert cost("mlp", {}, NUM_CLASSES, 1, 8)["params"] == 64 * 128 + 128 * 128 + 2 * 256 + 1290


# The table.


def test_the_table_is_sorted_and_its_builders_exist() -> None:
    assert list(FAMILIES) == sorted(FAMILIES)
    modules = {name: entry.build.split(":") for name, entry in FAMILIES.items()}
    assert all(hasattr(importlib.import_module(module), function) for module, function in modules.values())


def test_the_table_needs_no_torch() -> None:
    code = "import sys, kdsearch.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_torchvision_names_are_torchvisions() -> None:
    assert sorted(TORCHVISION) == torchvision.models.list_models(module=torchvision.models)


@pytest.mark.parametrize("name", ["deit", "torchvision/resnet19", "torchvision", "resnet/"])
def test_an_unknown_family_is_a_key_error(name: str) -> None:
    with pytest.raises(KeyError):
        family(name)


@pytest.mark.parametrize("entry", FAMILIES.values(), ids=FAMILIES)
def test_defaults_go_together(entry: Any) -> None:
    defaults = {name: option.default for name, option in entry.options.items()}
    assert entry.check({}) is None
    assert entry.check(defaults) is None
    assert entry.stages({}) == entry.stages(defaults)


@pytest.mark.parametrize(
    ("name", "depth", "nearest"),
    [
        ("resnet", 18, 20),
        ("resnet", 17, 14),
        ("resnet", 7, 8),
        ("vgg", 12, 11),
        ("vgg", 18, 19),
        ("wrn", 28 + 1, 28),
        ("wrn", 4, 10),
    ],
)
def test_a_depth_that_does_not_exist_is_answered_with_the_nearest(
    name: str, depth: int, nearest: int
) -> None:
    complaint = FAMILIES[name].check({"depth": depth})
    assert complaint is not None
    assert complaint.endswith(f": {depth} is not; nearest: {nearest}")
    assert FAMILIES[name].check({"depth": nearest}) is None


@pytest.mark.parametrize(
    ("base", "width", "multiple", "expected"),
    [
        (16, 1.0, 1, 16),
        (16, 0.01, 1, 1),
        (32, 0.25, 1, 8),
        (10, 0.25, 1, 3),
        (116, 0.5, 2, 58),
        (4, 0.1, 2, 2),
    ],
)
def test_widths_are_rounded_half_up_and_never_to_zero(
    base: int, width: float, multiple: int, expected: int
) -> None:
    assert scaled(base, width, multiple) == expected


# What building refuses.


@pytest.mark.parametrize(
    ("name", "options", "image_size", "words"),
    [
        ("resnext", {}, 32, "no model family is called 'resnext'"),
        ("resnet", {"dpeth": 20}, 32, "resnet has no option 'dpeth'; it has depth, stem_ratio, width"),
        ("resnet", {"depth": 18}, 32, "resnet: depth must be 6n.2 .*: 18 is not; nearest: 20"),
        ("vgg", {}, 7, "needs 8x8 at least, not 7x7"),
        ("torchvision/resnet18", {}, 4, "needs 8x8 at least, not 4x4"),
        ("torchvision/vgg11", {}, 8, "vgg11 does not fit 8x8 images: "),
        ("torchvision/vit_b_16", {}, 28, "patches of 16: 28x28 is not a multiple"),
        ("torchvision/maxvit_t", {}, 32, "needs a multiple of 224x224"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(
    name: str, options: dict[str, Any], image_size: int, words: str
) -> None:
    with Weightless(), pytest.raises(ValueError, match=words):
        build(name, options, NUM_CLASSES, 3, image_size)


# Where the stages are.


@pytest.mark.parametrize("name", ["wrn", "mobilenetv2"])
def test_stages_of_wrn_and_mobilenetv2_are_taken_before_an_activation(name: str) -> None:
    features = make((name, {}, 1, 8)).outputs(images_for((name, {}, 1, 8))).features
    assert all(maps.min() < 0 for maps in features.values())


@pytest.mark.parametrize("name", ["mlp", "resnet", "vgg"])
def test_stages_of_mlp_resnet_and_vgg_are_taken_after_a_relu(name: str) -> None:
    features = make((name, {}, 1, 8)).outputs(images_for((name, {}, 1, 8))).features
    assert all(maps.min() >= 0 for maps in features.values())


def test_the_embedding_is_what_the_last_linear_layer_sees() -> None:
    model = make(("wrn", {"depth": 10}, 1, 8)).eval()
    outputs = model.outputs(images_for(("wrn", {}, 1, 8)))
    assert torch.equal(model.get_submodule("classifier")(outputs.embedding), outputs.logits)


# One value per channel.


def test_a_lone_value_is_normalised_with_the_running_statistics() -> None:
    norm = BatchNorm(3)
    norm(torch.randn(8, 3, 2, 2))
    mean, value = norm.running_mean, torch.randn(1, 3, 1, 1)
    assert mean is not None
    before = mean.clone()
    in_training = norm.train()(value)
    assert torch.equal(in_training, norm.eval()(value))
    assert torch.equal(mean, before)


# Saving and loading.


def saved(folder: Path) -> Path:
    save_student(folder, build("resnet", {"depth": 8, "width": 0.25}, 10, 1, 8), {"note": "first"})
    return folder


def test_a_student_is_two_files_and_no_pickle(tmp_path: Path) -> None:
    saved(tmp_path / "s")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["s", "student.json", "student.safetensors"]


def test_the_description_file_says_what_was_built(tmp_path: Path) -> None:
    record = json.loads((saved(tmp_path / "s") / "student.json").read_text())
    assert record == {
        "format": 1,
        "family": "resnet",
        "options": {"depth": 8, "stem_ratio": 1.0, "width": 0.25},
        "num_classes": 10,
        "in_channels": 1,
        "image_size": 8,
        "description": {"note": "first"},
    }


def test_saving_again_replaces_the_student(tmp_path: Path) -> None:
    folder = saved(tmp_path / "s")
    save_student(folder, build("mlp", {}, 10, 1, 8), {"note": "second"})
    model, description = load_student(folder)
    assert (model.architecture.family, description) == ("mlp", {"note": "second"})
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_an_interrupted_save_leaves_the_old_student(tmp_path: Path) -> None:
    folder = saved(tmp_path / "s")
    with pytest.raises(TypeError):
        save_student(folder, build("mlp", {}, 10, 1, 8), {"note": object()})
    assert load_student(folder)[1] == {"note": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_channels_last_weights_are_saved_too(tmp_path: Path) -> None:
    model = build("resnet", {"depth": 8}, 10, 3, 32).to(memory_format=torch.channels_last)
    save_student(tmp_path / "s", model, {})
    loaded, _ = load_student(tmp_path / "s")
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


def edit_record(folder: Path, **changes: Any) -> None:
    path = folder / "student.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 100}, r"100 classes.*classifier\.weight has shape \(10, 16\), not \(100, 16\)"),
        ({"in_channels": 3}, r"3x8x8 images.*stem\.0\.weight has shape \(4, 1, 3, 3\), not \(4, 3, 3, 3\)"),
        ({"options": {"depth": 14, "width": 0.25}}, r"it has no 'body\.stage1\.1\."),
        ({"family": "resnext"}, "no model family is called 'resnext'"),
        ({"family": None}, r"student\.json does not describe a student: .*family is None"),
        ({"description": 3}, r"student\.json does not describe a student"),
        ({"format": 2}, "has format 2; this version reads 1"),
    ],
)
def test_a_record_that_does_not_fit_the_weights_is_refused_in_words(
    changes: Mapping[str, Any], words: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "s")
    edit_record(folder, **changes)
    with pytest.raises(ValueError, match=words):
        load_student(folder)


def test_a_cut_off_weights_file_is_refused_in_words(tmp_path: Path) -> None:
    path = saved(tmp_path / "s") / "student.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"student\.safetensors is damaged"):
        load_student(tmp_path / "s")


def test_a_broken_record_is_refused_in_words(tmp_path: Path) -> None:
    (saved(tmp_path / "s") / "student.json").write_text("{")
    with pytest.raises(ValueError, match=r"student\.json does not describe a student"):
        load_student(tmp_path / "s")


@pytest.mark.parametrize("missing", ["student.json", "student.safetensors"])
def test_a_folder_without_one_of_the_files_is_refused_in_words(missing: str, tmp_path: Path) -> None:
    (saved(tmp_path / "s") / missing).unlink()
    with pytest.raises(ValueError, match=rf"not a saved student: .*{missing} is missing"):
        load_student(tmp_path / "s")


def test_weights_of_another_model_are_refused_with_their_source() -> None:
    model = build("mlp", {}, 10, 1, 8)
    weights = build("mlp", {"depth": 3}, 10, 1, 8).state_dict()
    with pytest.raises(ValueError, match=r"teacher\.pt is not a mlp for 10 classes.*it has 'body\.stage3"):
        load_weights(model, weights, source="teacher.pt")


def test_given_weights_are_copied_in_the_models_own_dtype() -> None:
    model = build("mlp", {}, 10, 1, 8)
    weights = {name: tensor.double() for name, tensor in build("mlp", {}, 10, 1, 8).state_dict().items()}
    load_weights(model, weights, source="weights")
    weights["classifier.bias"].zero_()
    bias = model.state_dict()["classifier.bias"]
    assert bias.dtype == torch.float32
    assert bias.abs().sum() > 0


# torchvision.


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def build_weightless(name: str, image_size: int, in_channels: int = 3, **options: Any) -> Classifier:
    with Weightless():
        return build(f"torchvision/{name}", options, NUM_CLASSES, in_channels, image_size)


@pytest.mark.parametrize(
    ("name", "last_size"),
    [
        ("resnet18", 4),
        ("densenet121", 4),
        ("convnext_tiny", 4),
        ("swin_t", 4),
        ("mobilenet_v2", 2),
        ("vgg11", 4),
    ],
)
def test_small_images_keep_a_map_to_the_end(name: str, last_size: int) -> None:
    model = build_weightless(name, image_size=32)
    assert convolutions(model)[0].stride == (1, 1)
    assert model.stages[-1].size == last_size


def test_large_images_keep_the_published_stem() -> None:
    model = build_weightless("resnet18", image_size=96)
    assert convolutions(model)[0].stride == (2, 2)
    assert [stage.size for stage in model.stages] == [24, 12, 6, 3]


def test_the_first_convolution_takes_any_number_of_channels() -> None:
    assert convolutions(build_weightless("resnet18", image_size=32, in_channels=5))[0].weight.shape[1] == 5


@pytest.mark.parametrize(("options", "expected"), [({}, 0.0), ({"dropout": True}, 0.2)])
def test_dropout_is_off_unless_asked_for(options: dict[str, Any], expected: float) -> None:
    model = build_weightless("mobilenet_v2", image_size=32, **options)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [expected]


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_every_torchvision_model_has_four_stages_at_224(name: str) -> None:
    model = build_weightless(name, image_size=224)
    sizes = [stage.size for stage in model.stages]
    assert [stage.name for stage in model.stages] == ["stage1", "stage2", "stage3", "stage4"]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 1


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What stands in for the download: `state` is handed out, `urls` keeps what was asked for."""
    source = SimpleNamespace(state={}, urls=[])

    def load(url: str, *, weights_only: bool, check_hash: bool, **options: Any) -> dict[str, Tensor]:
        assert weights_only
        assert check_hash
        source.urls.append(url)
        return copy.copy(source.state)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load)
    return source


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mnasnet0_5", "squeezenet1_1"])
def test_pretrained_weights_fill_everything_but_the_head(name: str, published: SimpleNamespace) -> None:
    published.state = torchvision.models.get_model(name).state_dict()
    model = build(f"torchvision/{name}", {"pretrained": True}, NUM_CLASSES, 3, 32).get_submodule("model")
    different = [n for n, v in model.state_dict().items() if not torch.equal(v, published.state[n])]
    assert [model.state_dict()[n].shape[0] for n in different] == [NUM_CLASSES] * 2
    assert published.urls[0].endswith(".pth")


def test_a_grey_image_answers_as_its_colour_copy(published: SimpleNamespace) -> None:
    published.state = torchvision.models.get_model("shufflenet_v2_x0_5").state_dict()
    options = {"pretrained": True}
    name = "torchvision/shufflenet_v2_x0_5"
    grey, colour = (build(name, options, NUM_CLASSES, channels, 32).eval() for channels in (1, 3))
    image = torch.randn(2, 1, 32, 32)
    expected = colour.outputs(image.expand(2, 3, 32, 32)).embedding
    torch.testing.assert_close(grey.outputs(image).embedding, expected)


@pytest.mark.slow
def test_densenet_weights_are_read_under_their_published_names(published: SimpleNamespace) -> None:
    state = torchvision.models.get_model("densenet121").state_dict()
    dotted = {"norm1": "norm.1", "norm2": "norm.2", "conv1": "conv.1", "conv2": "conv.2"}
    published.state = copy.copy(state)
    for key in [key for key in state if "denselayer" in key]:
        layer, part, rest = key.rsplit(".", 2)
        published.state[f"{layer}.{dotted[part]}.{rest}"] = published.state.pop(key)
    model = build("torchvision/densenet121", {"pretrained": True}, NUM_CLASSES, 3, 32)
    key = "features.denseblock1.denselayer2.conv1.weight"
    assert torch.equal(model.get_submodule("model").state_dict()[key], state[key])


@pytest.mark.slow
def test_vit_weights_are_interpolated_to_the_image(published: SimpleNamespace) -> None:
    published.state = torchvision.models.get_model("vit_b_32").state_dict()
    model = build("torchvision/vit_b_32", {"pretrained": True}, NUM_CLASSES, 3, 64)
    assert model.get_submodule("model").state_dict()["encoder.pos_embedding"].shape == (1, 5, 768)


def test_a_failed_download_says_which_file_to_put_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(url: str, **options: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    expected = (
        r"torchvision/resnet18 .*no network.*: download https://\S+/(\S+) and put it at .*/checkpoints/\1$"
    )
    with pytest.raises(ValueError, match=expected):
        build("torchvision/resnet18", {"pretrained": True}, NUM_CLASSES, 3, 32)


def test_cost_and_loading_of_a_pretrained_model_download_nothing(
    published: SimpleNamespace, tmp_path: Path
) -> None:
    published.state = torchvision.models.get_model("shufflenet_v2_x0_5").state_dict()
    options = {"pretrained": True}
    model = build("torchvision/shufflenet_v2_x0_5", options, NUM_CLASSES, 3, 32)
    save_student(tmp_path / "s", model, {})
    published.urls.clear()
    loaded, _ = load_student(tmp_path / "s")
    assert cost("torchvision/shufflenet_v2_x0_5", options, NUM_CLASSES, 3, 32)["params"] > 0
    assert loaded.architecture.options["pretrained"]
    assert published.urls == []
