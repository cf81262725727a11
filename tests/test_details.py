"""What a model publishes when it is asked in detail: the maps in front of the last ReLUs, and the stem's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdsearch.models import FAMILIES
from kdsearch.models.build import Classifier, Outputs, build

# One small model for every family, and torchvision models whose first ReLU overwrites the stem or not.
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"width": 0.25},
    "mobilenetv2": {"width": 0.1},
    "resnet": {"depth": 14, "width": 0.5},
    "shufflenetv2": {"width": 0.2},
    "vgg": {"width": 0.1},
    "vit": {"depth": 2, "dim": 8, "heads": 2, "patch": 4},
    "wrn": {"depth": 16, "width": 0.5},
    "torchvision/resnet18": {},
    "torchvision/squeezenet1_1": {},
}
RECTIFIED = ("mlp", "resnet", "shufflenetv2", "vgg")
LINEAR = ("mobilenetv2", "vit", "torchvision/resnet18", "torchvision/squeezenet1_1")
every_model = pytest.mark.parametrize("name", MODELS)
# vit's attention scores take another path to the same numbers: tests/test_vit.py compares those.
every_cnn_and_mlp = pytest.mark.parametrize("name", [name for name in MODELS if name != "vit"])


def make(name: str) -> Classifier:
    torch.manual_seed(0)
    return build(name, MODELS[name], num_classes=5, in_channels=3, image_size=16)


def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def leaves(outputs: Outputs) -> list[Tensor]:
    return [outputs.logits, outputs.embedding, *outputs.features.values()]


def test_no_family_is_left_out() -> None:
    assert set(FAMILIES) <= set(MODELS)


@every_model
def test_details_are_there_only_where_they_are_asked_for(name: str) -> None:
    model = make(name)
    assert not model.outputs(images()).details
    assert {"before", "stem"} <= set(model.outputs(images(), detailed=True).details)


@every_model
def test_before_has_the_shapes_of_the_features(name: str) -> None:
    outputs = make(name).outputs(images(), detailed=True)
    assert [(stage, maps.shape) for stage, maps in outputs.details["before"].items()] == [
        (stage, maps.shape) for stage, maps in outputs.features.items()
    ]


@every_model
def test_the_stem_has_the_channels_that_the_model_says(name: str) -> None:
    model = make(name)
    stem = model.outputs(images(), detailed=True).details["stem"]["stem"]
    assert stem.shape[:2] == (4, model.stem_channels)
    assert stem.shape[2] == stem.shape[3] >= model.stages[0].size


@every_cnn_and_mlp
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_asking_changes_neither_outputs_nor_statistics(name: str, training: bool) -> None:
    plain = make(name).train(training)
    detailed = copy.deepcopy(plain)
    without, with_details = plain.outputs(images()), detailed.outputs(images(), detailed=True)
    assert all(map(torch.equal, leaves(without), leaves(with_details)))
    assert all(map(torch.equal, plain.state_dict().values(), detailed.state_dict().values()))


@every_cnn_and_mlp
def test_asking_changes_no_gradient(name: str) -> None:
    plain = make(name)
    detailed = copy.deepcopy(plain)
    plain.outputs(images()).logits.square().sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    detailed.outputs(images(), detailed=True).logits.square().sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for one, other in zip(plain.parameters(), detailed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]  # None would be an error here too


@pytest.mark.parametrize("name", RECTIFIED)
def test_the_relu_of_before_is_the_feature(name: str) -> None:
    outputs = make(name).outputs(images(), detailed=True)
    for stage, before in outputs.details["before"].items():
        assert before.min() < 0
        assert torch.equal(F.relu(before), outputs.features[stage])


def test_wrns_before_is_the_next_batch_norm_of_the_sum() -> None:
    model = make("wrn").eval()
    for norm in model.norms().values():
        torch.nn.init.uniform_(norm.bias)  # type: ignore[union-attr]  # wrn has one for every stage
    outputs = model.outputs(images(), detailed=True)
    for stage, norm in model.norms().items():
        assert norm is not None
        assert torch.equal(norm(outputs.features[stage]), outputs.details["before"][stage])


@pytest.mark.parametrize("name", LINEAR)
def test_before_is_the_map_itself_where_no_relu_is_known(name: str) -> None:
    outputs = make(name).outputs(images(), detailed=True)
    assert all(before is outputs.features[stage] for stage, before in outputs.details["before"].items())


@pytest.mark.parametrize("name", RECTIFIED)
def test_before_carries_a_gradient_to_the_stem(name: str) -> None:
    model = make(name)
    last = list(model.outputs(images(), detailed=True).details["before"].values())[-1]
    last.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    first = next(model.parameters())
    assert first.grad is not None
    assert first.grad.isfinite().all()


@every_model
def test_norms_are_as_wide_as_their_stages(name: str) -> None:
    model = make(name)
    assert list(model.norms()) == [stage.name for stage in model.stages]
    for stage in model.stages:
        norm = model.norms()[stage.name]
        assert norm is None or norm.num_features == stage.channels


@pytest.mark.parametrize("name", ["mlp", "mobilenetv2", "resnet", "vgg", "wrn"])
def test_the_norm_is_the_one_in_front_of_the_relu(name: str) -> None:
    """What it puts out moves `before` by as much, and nothing that comes earlier."""
    model = make(name).eval()
    reference = model.outputs(images(), detailed=True).details["before"]
    for stage, norm in model.norms().items():
        assert norm is not None
        torch.nn.init.constant_(norm.bias, 0.5)
        moved = model.outputs(images(), detailed=True).details["before"][stage]
        torch.nn.init.constant_(norm.bias, 0.0)
        torch.testing.assert_close(moved - reference[stage], torch.full_like(moved, 0.5))


@pytest.mark.parametrize("name", ["shufflenetv2", "torchvision/resnet18"])
def test_no_norm_where_no_single_one_feeds_the_relu(name: str) -> None:
    assert not any(make(name).norms().values())
