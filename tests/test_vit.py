"""Vision transformers: sizes counted by hand, published sizes, the two heads, stages and details."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdsearch.models import FAMILIES
from kdsearch.models.build import Classifier, Outputs, build, cost, load_student, save_student
from kdsearch.models.vit import VisionTransformer

SMALL = {"patch": 2, "dim": 12, "depth": 2, "heads": 3}
DEIT_TINY = {"patch": 16, "dim": 192, "depth": 12, "heads": 3, "mlp_ratio": 4.0}


def vit(seed: int = 0, **options: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    model = build("vit", {**SMALL, **options}, num_classes=10, in_channels=1, image_size=8)
    assert isinstance(model, VisionTransformer)
    return model


def images(batch_size: int = 4) -> Tensor:
    return torch.randn(batch_size, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def params_by_hand(patch: int, dim: int, depth: int, hidden: int, in_channels: int, size: int, k: int) -> int:
    patches = patch * patch * in_channels * dim + dim
    tokens = dim + (1 + (size // patch) ** 2) * dim
    attention = (dim * 3 * dim + 3 * dim) + (dim * dim + dim)
    mlp = (dim * hidden + hidden) + (hidden * dim + dim)
    return patches + tokens + depth * (attention + mlp + 2 * 2 * dim) + 2 * dim + dim * k + k


# Sizes.


@pytest.mark.parametrize(
    ("options", "hidden"),
    [
        ({"patch": 2, "dim": 12, "depth": 2, "heads": 3}, 48),
        ({"patch": 4, "dim": 32, "depth": 5, "heads": 8, "mlp_ratio": 1.5}, 48),
        ({"patch": 1, "dim": 1, "depth": 1, "heads": 1, "mlp_ratio": 1.0}, 1),
    ],
)
def test_params_are_those_of_the_formula(options: dict[str, Any], hidden: int) -> None:
    by_hand = params_by_hand(options["patch"], options["dim"], options["depth"], hidden, 3, 8, 10)
    assert cost("vit", options, 10, in_channels=3, image_size=8)["params"] == by_hand


def test_deit_tiny_has_its_published_5_7_million_params() -> None:
    params = cost("vit", DEIT_TINY, num_classes=1000, in_channels=3, image_size=224)["params"]
    assert params == params_by_hand(16, 192, 12, 768, 3, 224, 1000) == 5_717_416


def test_the_token_of_deit_tiny_adds_itself_its_position_and_a_linear_layer() -> None:
    options = {**DEIT_TINY, "token": True}
    params = cost("vit", options, num_classes=1000, in_channels=3, image_size=224)["params"]
    assert params == 5_717_416 + 192 + 192 + (192 * 1000 + 1000) == 5_910_800


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_macs_are_counted_with_the_attention(num_tokens: int) -> None:
    dim, length = 12, num_tokens + 16
    patches = 16 * (2 * 2) * dim
    linear = length * (dim * 3 * dim + dim * dim + 2 * dim * 4 * dim)
    scores_and_mixing = 2 * length * length * dim
    by_hand = patches + 2 * (linear + scores_and_mixing) + num_tokens * dim * 10
    measured = cost("vit", {**SMALL, "token": num_tokens == 2}, 10, in_channels=1, image_size=8)
    assert measured["macs"] == by_hand


@pytest.mark.parametrize(("width", "dim"), [(1.0, 12), (0.5, 6), (0.6, 6), (0.7, 9), (0.01, 3), (2.0, 24)])
def test_width_multiplies_dim_and_is_rounded_to_a_multiple_of_heads(width: float, dim: int) -> None:
    assert vit(width=width).num_features == dim


# Outputs.


def test_the_embedding_is_the_normed_class_token_that_the_classifier_sees() -> None:
    model = vit().eval()
    outputs = model.outputs(images(), detailed=True)
    assert torch.equal(outputs.embedding, model.norm(outputs.details["tokens"]["stage2"][:, 0]))
    assert torch.equal(outputs.logits, model.classifier(outputs.embedding))


@pytest.mark.parametrize("token", [False, True])
def test_stages_are_the_patches_tokens_as_a_map(token: bool) -> None:
    outputs = vit(token=token).outputs(images(), detailed=True)
    for stage, maps in outputs.features.items():
        patches = outputs.details["tokens"][stage][:, -16:]
        assert torch.equal(maps[:, :, 1, 2], patches[:, 4 * 1 + 2])


def test_a_patch_is_seen_at_its_place() -> None:
    model, blank = vit(depth=1).eval(), torch.zeros(1, 1, 8, 8)
    dotted = blank.clone()
    dotted[0, 0, 2, 5] = 5.0  # row 1, column 2 of the patches of 2x2
    with torch.no_grad():
        before, after = (
            model.outputs(x, detailed=True).details["tokens"]["embedding"] for x in (blank, dotted)
        )
    assert (before != after).any(dim=2).nonzero().tolist() == [[0, 1 + 4 * 1 + 2]]


def test_details_have_the_published_shapes_and_kinds() -> None:
    details = vit(token=True).outputs(images(), detailed=True).details
    assert details.keys() == FAMILIES["vit"].details | {"token"}
    assert {name: tuple(x.shape) for name, x in details["tokens"].items()} == {
        "embedding": (4, 18, 12),
        "stage1": (4, 18, 12),
        "stage2": (4, 18, 12),
    }
    assert {name: tuple(x.shape) for name, x in details["attention"].items()} == {
        "stage1": (4, 3, 18, 18),
        "stage2": (4, 3, 18, 18),
    }
    assert {name: tuple(x.shape) for name, x in details["qkv"].items()} == {
        "stage1": (3, 4, 18, 12),
        "stage2": (3, 4, 18, 12),
    }


def test_before_is_the_stage_and_the_stem_the_embedded_patches() -> None:
    outputs = vit(token=True).outputs(images(), detailed=True)
    assert outputs.details["before"] == outputs.features
    patches = outputs.details["tokens"]["embedding"][:, -16:]
    assert torch.equal(outputs.details["stem"]["stem"][:, :, 1, 2], patches[:, 4 * 1 + 2])


def test_nothing_is_detailed_where_nobody_asks() -> None:
    assert vit().outputs(images()).details == {}


def test_detailed_outputs_are_the_plain_ones() -> None:
    model = vit()
    plain, detailed = model.outputs(images()), model.outputs(images(), detailed=True)
    torch.testing.assert_close(plain._replace(details={}), detailed._replace(details={}))


def test_attention_scores_are_those_that_mix_the_values() -> None:
    model = vit(depth=1).eval()
    details = model.outputs(images(), detailed=True).details
    queries, keys, values = details["qkv"]["stage1"].view(3, 4, 17, 3, 4).transpose(2, 3)
    torch.testing.assert_close(details["attention"]["stage1"], queries @ keys.mT / 2.0)  # sqrt(4)
    block: Any = model.blocks["stage1"]
    mixed = (details["attention"]["stage1"].softmax(dim=-1) @ values).transpose(1, 2).flatten(2)
    between = details["tokens"]["embedding"] + block.project(mixed)
    torch.testing.assert_close(
        details["tokens"]["stage1"], between + block.mlp(block.norm2(between)), rtol=1e-5, atol=1e-6
    )


# The distillation token.


def both_heads(outputs: Outputs) -> tuple[Tensor, Tensor]:
    return outputs.logits, outputs.details["token"]["logits"]


def test_in_training_the_two_heads_answer_apart() -> None:
    model = vit(token=True).train()
    class_logits, token_logits = both_heads(model.outputs(images()))
    embedding = model.outputs(images()).embedding
    assert torch.equal(class_logits, model.classifier(embedding))
    assert not torch.allclose(class_logits, token_logits)


def test_at_inference_the_two_heads_are_averaged() -> None:
    model = vit(token=True)
    class_logits, token_logits = both_heads(model.train().outputs(images()))
    mean = (class_logits + token_logits) / 2
    torch.testing.assert_close(model.eval().outputs(images()).logits, mean)
    torch.testing.assert_close(model.eval()(images()), mean)
    torch.testing.assert_close(model.train()(images()), mean)


def test_without_the_token_the_mode_does_not_matter() -> None:
    model = vit()
    assert torch.equal(model.train().outputs(images()).logits, model.eval().outputs(images()).logits)


def test_a_student_with_the_token_starts_like_the_one_without() -> None:
    plain, with_token = vit(seed=3).state_dict(), vit(seed=3, token=True).state_dict()
    assert all(torch.equal(value, with_token[name]) for name, value in plain.items())
    assert {name.split(".")[0] for name in with_token.keys() - plain.keys()} == {"token_head"}


def test_initial_weights_are_deits() -> None:
    model = vit(dim=120, token=True)
    block: Any = model.blocks["stage1"]
    drawn = [model.positions, model.patches.weight, block.qkv.weight, model.classifier.weight]
    assert all(x.std().item() == pytest.approx(0.02, rel=0.1) for x in drawn)
    assert not any(x.any() for name, x in model.named_parameters() if name.endswith("bias"))


def test_a_saved_student_with_the_token_answers_alike(tmp_path: Path) -> None:
    model: Classifier = vit(token=True).eval()
    save_student(tmp_path / "s", model, {})
    loaded, _ = load_student(tmp_path / "s")
    assert torch.equal(loaded(images()), model(images()))


# What is refused.


@pytest.mark.parametrize(
    ("dim", "heads", "nearest"), [(192, 5, 4), (192, 7, 6), (32, 3, 2), (12, 64, 12), (7, 2, 1)]
)
def test_heads_that_do_not_divide_dim_are_answered_with_the_nearest(
    dim: int, heads: int, nearest: int
) -> None:
    complaint = FAMILIES["vit"].check({"dim": dim, "heads": heads})
    assert complaint == f"heads must divide dim: {heads} does not divide {dim}; nearest: {nearest}"
    assert FAMILIES["vit"].check({"dim": dim, "heads": nearest}) is None


@pytest.mark.parametrize(("patch", "nearest"), [(3, 2), (5, 4), (6, 4), (7, 8), (16, 8)])
def test_a_patch_that_does_not_divide_the_image_is_answered_with_the_nearest(
    patch: int, nearest: int
) -> None:
    with pytest.raises(
        ValueError, match=f"patches of {patch}: 8x8 is not a multiple; nearest: patch {nearest}$"
    ):
        vit(patch=patch)


def test_the_gradient_of_the_attention_is_that_of_the_explicit_one() -> None:
    model = vit()
    gradients = []
    for detailed in (False, True):
        loss = F.cross_entropy(model.outputs(images(), detailed=detailed).logits, torch.arange(4))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for plain, explicit in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, explicit, rtol=1e-4, atol=1e-6)
