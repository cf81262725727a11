"""RandAugment for a whole batch at once: every image gets its own operations, without a loop over images.

Goes in: uint8 images [B,C,H,W] and, for each image, which operations to apply. Comes out: uint8 images.

The operations and strengths are torchvision's RandAugment at magnitude 10 of 0..30 (Cubuk, Zoph, Shlens and
Le, NeurIPS 2020, arXiv 1909.13719), without its colour saturation, so that images of any number of channels
can be augmented. What an operation does is one of three things: move pixels (an affine map, nearest pixel,
black outside), look values up in a table of 256 for each channel, or blend with a blurred image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsearch.data.counter import below, fold_in

NUM_OPERATIONS = 2  # for each image, one after the other
# The strengths of magnitude 10; those marked +- get a random sign.
ROTATION = math.radians(10.0)  # +-, of 30 degrees at most
SHEAR = 0.1  # +-, of 0.3
TRANSLATION = 150.0 / 331.0 / 3  # +-, of 150/331 of the image's side; rounded down to pixels
BLEND = 0.3  # +-, of 0.9: brightness, contrast and sharpness by a factor of 1 +- 0.3
POSTERIZE_BITS = 7  # kept, of 8
SOLARIZE_FROM = 170  # values from here on are inverted

OPERATIONS = (
    "identity",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "brightness",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
_GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


def rand_augment(images: Tensor, bits: Tensor) -> Tensor:
    """NUM_OPERATIONS random operations on each of uint8 [B,C,H,W], chosen by its hashed `bits` [B]."""
    for number in range(NUM_OPERATIONS):
        operation = below(fold_in(bits, 2 * number), len(OPERATIONS))
        sign = 1.0 - 2.0 * below(fold_in(bits, 2 * number + 1), 2).float()
        images = apply(images, operation, sign)
    return images


def apply(images: Tensor, operation: Tensor, sign: Tensor) -> Tensor:
    """To each of uint8 [B,C,H,W] its `operation` [B] (a position in OPERATIONS), in the direction of `sign`.

    `sign` [B] is 1.0 or -1.0. As torchvision's functional on uint8: tables and translations to the last bit,
    rotations and shears but for pixels that lie between two others within rounding.
    """
    images = _moved(images, operation, sign)
    images = _looked_up(images, operation, sign)
    return _sharpened(images, operation, sign)


def _is(operation: Tensor, name: str) -> Tensor:
    return operation == OPERATIONS.index(name)


def _moved(images: Tensor, operation: Tensor, sign: Tensor) -> Tensor:
    """Rotated, sheared and translated: every pixel takes the value of the pixel nearest to where it was."""
    height, width = images.shape[2:]
    angle = sign * ROTATION * _is(operation, "rotate")
    shear_x, shear_y = (sign * SHEAR * _is(operation, f"shear_{axis}") for axis in "xy")
    shift_x, shift_y = (
        sign * int(TRANSLATION * side) * _is(operation, f"translate_{axis}")
        for axis, side in (("x", width), ("y", height))
    )
    # Pixel centres; a rotation is about the image's centre, a shear about its upper left corner.
    x = torch.arange(width, device=images.device) + 0.5
    y = (torch.arange(height, device=images.device) + 0.5)[:, None]
    from_x = _from(angle.cos(), -angle.sin() + shear_x, x, y, width, height, shear_x * height / 2 - shift_x)
    from_y = _from(angle.sin() + shear_y, angle.cos(), x, y, width, height, shear_y * width / 2 - shift_y)
    columns = (from_x + width / 2 - 0.5).round().long()
    rows = (from_y + height / 2 - 0.5).round().long()
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    pixels = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    moved = images.flatten(2).gather(2, pixels.flatten(1)[:, None].expand(-1, images.shape[1], -1))
    return moved.view(images.shape) * inside[:, None]


def _from(
    of_x: Tensor, of_y: Tensor, x: Tensor, y: Tensor, width: int, height: int, offset: Tensor
) -> Tensor:
    """One coordinate [B,H,W] of where pixels come from, both measured from the image's centre."""
    a, b, c = (value[:, None, None] for value in (of_x, of_y, offset))
    return a * (x - width / 2) + b * (y - height / 2) + c


def _looked_up(images: Tensor, operation: Tensor, sign: Tensor) -> Tensor:
    """Brightness, contrast, posterize, solarize, autocontrast, equalize: every value has a new one."""
    values = torch.arange(256, device=images.device, dtype=torch.float32)
    away = (BLEND * sign)[:, None, None]
    integers = values.long()
    tables = {
        "brightness": _value((1.0 + away) * values),
        "contrast": _value((1.0 + away) * values - away * _mean_grey(images)[:, None, None]),
        "posterize": integers & -(2 ** (8 - POSTERIZE_BITS)),
        "solarize": torch.where(integers >= SOLARIZE_FROM, 255 - integers, integers),
        "autocontrast": _autocontrast(images, values),
        "equalize": _equalized(images),
    }
    table = integers.expand(*images.shape[:2], 256)
    for name, other in tables.items():
        table = torch.where(_is(operation, name)[:, None, None], other, table)
    return table.to(torch.uint8).gather(2, images.flatten(2).long()).view(images.shape)


def _value(values: Tensor) -> Tensor:
    """Float -> a pixel's value, cut off and not rounded, as torchvision does."""
    return values.clamp(0, 255).long()


def _mean_grey(images: Tensor) -> Tensor:
    """The mean [B] of the grey image, for other than three channels of all of them."""
    if images.shape[1] != 3:
        return images.float().mean((1, 2, 3))
    weights = torch.tensor(_GREY, device=images.device)[:, None, None]
    return (images * weights).sum(dim=1).floor().mean((1, 2))


def _autocontrast(images: Tensor, values: Tensor) -> Tensor:
    """Each channel's darkest value to 0 and its brightest to 255; a constant channel stays."""
    flat = images.flatten(2)
    low, high = flat.amin(dim=2, keepdim=True).float(), flat.amax(dim=2, keepdim=True).float()
    scale = 255.0 / (high - low)
    return torch.where(high > low, _value((values - low) * scale), values.long())


def _equalized(images: Tensor) -> Tensor:
    """The table [B,C,256] that spreads each channel's values evenly, as PIL and torchvision compute it."""
    pixels = images.flatten(2).long()
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels))
    of_brightest = counts.gather(2, pixels.amax(dim=2, keepdim=True))
    step = (pixels.shape[2] - of_brightest) // 255
    spread = (counts.cumsum(dim=2) + step // 2) // step.clamp_min(1)
    table = F.pad(spread, (1, 0))[:, :, :-1].clamp(0, 255)
    return torch.where(step > 0, table, torch.arange(256, device=images.device))


def _sharpened(images: Tensor, operation: Tensor, sign: Tensor) -> Tensor:
    """Blended with, or away from, a 3x3 blur, which leaves the border as it is."""
    if min(images.shape[2:]) <= 2:
        return images
    num_channels = images.shape[1]
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5.0
    kernels = (kernel / kernel.sum()).expand(num_channels, 1, 3, 3)
    blurred = images.float()
    blurred[:, :, 1:-1, 1:-1] = F.conv2d(blurred, kernels, groups=num_channels).round()
    away = (BLEND * sign)[:, None, None, None]
    sharpened = ((1.0 + away) * images - away * blurred).clamp(0, 255).to(torch.uint8)
    return torch.where(_is(operation, "sharpness")[:, None, None, None], sharpened, images)
