"""The strong views: every operation is torchvision's, and a view belongs to its sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from torch import Tensor
from torchvision.transforms import InterpolationMode

from kdsearch.data import Split
from kdsearch.data.strong import NUM_OPERATIONS, OPERATIONS, apply, rand_augment
from kdsearch.data.views import Views

NEAREST = InterpolationMode.NEAREST


def images(num_channels: int = 3, size: int = 32) -> Tensor:
    """Noise on a gradient: every value of a natural image, and histograms that are not flat."""
    rng = np.random.default_rng(1)
    ramp = np.linspace(20, 200, size)[None, None, None, :] + 30 * rng.standard_normal(
        (12, num_channels, size, size)
    )
    return torch.from_numpy(ramp.clip(0, 255).astype(np.uint8))


def sheared(image: Tensor, x: float, y: float) -> Tensor:
    degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return TF.affine(image, 0.0, [0, 0], 1.0, degrees, interpolation=NEAREST, center=[0, 0])


def translated(image: Tensor, x: int, y: int) -> Tensor:
    return TF.affine(image, 0.0, [x, y], 1.0, [0.0, 0.0], interpolation=NEAREST)


def pixels(image: Tensor) -> int:
    return int(150.0 / 331.0 * image.shape[-1] * 10 / 30)


# What torchvision's RandAugment does at magnitude 10, in the direction of a sign.
TORCHVISION = {
    "identity": lambda image, sign: image,
    "rotate": lambda image, sign: TF.rotate(image, 10.0 * sign, interpolation=NEAREST),
    "shear_x": lambda image, sign: sheared(image, 0.1 * sign, 0.0),
    "shear_y": lambda image, sign: sheared(image, 0.0, 0.1 * sign),
    "translate_x": lambda image, sign: translated(image, int(sign) * pixels(image), 0),
    "translate_y": lambda image, sign: translated(image, 0, int(sign) * pixels(image)),
    "brightness": lambda image, sign: TF.adjust_brightness(image, 1 + 0.3 * sign),
    "contrast": lambda image, sign: TF.adjust_contrast(image, 1 + 0.3 * sign),
    "sharpness": lambda image, sign: TF.adjust_sharpness(image, 1 + 0.3 * sign),
    "posterize": lambda image, sign: TF.posterize(image, 7),
    "solarize": lambda image, sign: TF.solarize(image, 170.0),
    "autocontrast": lambda image, sign: TF.autocontrast(image),
    "equalize": lambda image, sign: TF.equalize(image),
}
# Between two pixels within rounding, either is right; a blend may be cut off at the other side of an integer.
MOVING = {"rotate", "shear_x", "shear_y"}
BLENDING = {"brightness", "contrast", "sharpness", "autocontrast"}


def applied(name: str, of: Tensor, sign: float) -> Tensor:
    operation = torch.full((len(of),), OPERATIONS.index(name))
    return apply(of, operation, torch.full((len(of),), sign))


def test_every_operation_is_compared():
    assert set(TORCHVISION) == set(OPERATIONS)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - MOVING - BLENDING))
def test_operation_is_torchvisions_to_the_last_bit(name, num_channels, sign):
    before = images(num_channels)
    expected = torch.stack([TORCHVISION[name](image, sign) for image in before])
    assert torch.equal(applied(name, before, sign), expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("name", sorted(BLENDING))
def test_blend_is_torchvisions_to_one_grey_level(name, num_channels, sign):
    before = images(num_channels)
    expected = torch.stack([TORCHVISION[name](image, sign) for image in before])
    difference = (applied(name, before, sign).int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).double().mean() < 0.01


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("size", [8, 31, 32])
@pytest.mark.parametrize("name", sorted(MOVING))
def test_move_is_torchvisions_but_for_ties(name, size, sign):
    before = images(size=size)
    expected = torch.stack([TORCHVISION[name](image, sign) for image in before])
    assert (applied(name, before, sign) != expected).double().mean() < 0.02


def test_each_image_of_a_batch_gets_its_own_operation():
    before = images()
    operation = torch.arange(len(before)) + 1
    sign = torch.tensor([1.0, -1.0]).repeat(len(before) // 2)
    together = apply(before, operation, sign)
    alone = [apply(before[i : i + 1], operation[i : i + 1], sign[i : i + 1]) for i in range(len(before))]
    assert torch.equal(together, torch.cat(alone))
    assert NUM_OPERATIONS == 2


def test_a_constant_image_survives_every_operation():
    constant = torch.full((len(OPERATIONS), 2, 5, 5), 90, dtype=torch.uint8)
    out = apply(constant, torch.arange(len(OPERATIONS)), torch.ones(len(OPERATIONS)))
    assert out.dtype == torch.uint8
    kept = [OPERATIONS.index(name) for name in ("identity", "contrast", "sharpness", "autocontrast")]
    assert (out[kept].int() - 90).abs().max() <= 1  # a blend of equals may lose a fraction


def test_operations_are_drawn_evenly():
    from kdsearch.data.counter import below, counter_hash, fold_in

    bits = counter_hash(0, torch.arange(26_000))
    counts = torch.bincount(below(fold_in(bits, 0), len(OPERATIONS)), minlength=len(OPERATIONS))
    assert (counts.double() / 2000 - 1).abs().max() < 0.12
    before = images()
    assert not torch.equal(rand_augment(before, bits[:12]), before)


# As views of a split.


def make_views() -> Views:
    split = Split(images(num_channels=2, size=8).numpy(), np.arange(12) % 3)
    return Views(split, (0.5, 0.4), (0.2, 0.3), (("crop", {}), ("flip", {}), ("mixup", {})))


def test_a_strong_view_is_the_same_in_every_batch():
    views = make_views()
    together = views.strong(torch.arange(12), epoch=3, stream=1)
    alone = torch.cat([views.strong(torch.tensor([i]), epoch=3, stream=1).images for i in range(12)])
    assert torch.equal(together.images, alone)


def test_a_strong_view_keeps_its_own_label_also_where_views_are_mixed():
    strong = make_views().strong(torch.tensor([4, 2]), epoch=1, stream=0)
    assert strong.labels.tolist() == [1, 2]
    assert strong.indices.tolist() == [4, 2]
    assert strong.mix is None


@pytest.mark.parametrize(("epoch", "stream"), [(2, 0), (1, 1)])
def test_other_epochs_and_streams_give_other_strong_views(epoch, stream):
    views = make_views()
    first, other = (views.strong(torch.arange(12), *at).images for at in ((1, 0), (epoch, stream)))
    assert not torch.equal(first, other)


def test_strong_views_ignore_the_global_generator_and_leave_the_split_alone():
    views = make_views()
    before = views.images.clone()
    torch.manual_seed(0)
    first = views.strong(torch.arange(12), 1, 0).images
    torch.manual_seed(1)
    assert torch.equal(views.strong(torch.arange(12), 1, 0).images, first)
    assert torch.equal(views.images, before)
