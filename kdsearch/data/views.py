"""Images resident in memory or mapped from a file, and the augmented views of them.

Goes in: a split (uint8), its normalisation, the augmentations of the spec. Comes out: `Views`, which gives
normalised float batches. A view is f(stream, epoch, sample): the same sample looks the same in whatever
batch, order, trial or process it is asked for. Nothing here loops over samples or waits for the device.

Shapes: B batch, C channels, H = W the images' size.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdsearch.data import AUGMENTATIONS, Split
from kdsearch.data.counter import Purpose, below, counter_hash, fold_in
from kdsearch.data.large import is_mapped
from kdsearch.data.strong import rand_augment
from kdsearch.device import has_room

# Of float32 pixels: views of small images are made for several batches at once, because two dozen operators
# for 64 images of 8x8 pixels take as long as a small student's forward pass.
BLOCK_BYTES = 1 << 21
# Quantiles in mixup's table: a mixing weight is one of this many equally likely values.
_NUM_WEIGHTS = 4096


@dataclass(frozen=True)
class Batch:
    """What a training step sees. With mixup, `mix` weighs `labels`, and 1 - mix weighs `mixed_labels`.

    Of a batch that images without labels were joined to, the first `num_labelled` are the labelled ones; the
    labels of the others are -1, their indices go on after the split's.
    """

    images: Tensor  # float32 [B, C, H, W], normalised
    labels: Tensor  # int64 [B]
    indices: Tensor  # int64 [B], positions in the split
    mixed_labels: Tensor | None = None  # int64 [B]
    mix: Tensor | None = None  # float32 [B]
    num_labelled: int | None = None  # None: all of them

    def part(self, begin: int, end: int) -> Batch:
        """Some of its samples, all of which have labels."""

        def some(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[begin:end]

        return Batch(
            self.images[begin:end],
            self.labels[begin:end],
            self.indices[begin:end],
            some(self.mixed_labels),
            some(self.mix),
        )


def crop(images: Tensor, rows: Tensor, columns: Tensor, padding: int) -> Tensor:
    """Pad [B, C, H, W] with zeros on every side, then cut [H, W] windows out of it.

    `rows` and `columns` [B] are their upper left corners, each in [0, 2 * padding].
    """
    num_images, num_channels, height, width = images.shape
    if not num_images:
        return images
    padded = torch.nn.functional.pad(images, (padding, padding, padding, padding)).contiguous()
    row_length, num_pixels = padded.shape[-1], padded.numel()
    # Every run of `width` pixels in memory, as a view: whole runs are copied 3 to 5 times faster than single
    # pixels are gathered (128x3x32x32 uint8, one thread: 0.2 ms against 0.8 ms).
    runs = padded.as_strided((num_pixels - width + 1, width), (1, 1))
    planes = torch.arange(num_images * num_channels, device=images.device).view(num_images, num_channels, 1)
    lines = planes * padded.shape[-2] + rows[:, None, None] + torch.arange(height, device=images.device)
    starts = lines * row_length + columns[:, None, None]
    return runs.index_select(0, starts.flatten()).view(images.shape)


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror left to right the images [B, C, H, W] whose `flipped` [B] (bool) is set."""
    both = torch.cat([images, images.flip(-1)])  # picking whole images is 5 times faster than torch.where
    return both.index_select(0, torch.arange(len(images), device=images.device) + len(images) * flipped)


def cutout_(images: Tensor, rows: Tensor, columns: Tensor, size: int) -> Tensor:
    """Zero in place a size x size square of [B, C, H, W], clipped at the border.

    `rows` and `columns` [B] are its centre pixels: it begins size // 2 before them.
    """
    pixels = torch.arange(images.shape[-1], device=images.device)
    top, left = rows[:, None] - size // 2, columns[:, None] - size // 2
    inside_rows = (pixels >= top) & (pixels < top + size)
    inside_columns = (pixels >= left) & (pixels < left + size)
    kept = ~(inside_rows[:, :, None] & inside_columns[:, None, :])
    return images.mul_(kept[:, None].to(images.dtype))


def order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """The epoch's permutation of range(num_samples), int64 on the CPU, a function of (seed, epoch) alone."""
    bits = counter_hash(seed, epoch, torch.arange(num_samples), Purpose.ORDER)
    return torch.argsort(bits, stable=True)


class Views:
    """A split on a device, or on the host for a device that has no room for it, seen plain or augmented.

    `augment` is the spec's list of (name, options); whatever its order, a view is cropped, flipped,
    normalised, cut out (zero is then the mean pixel), and last mixed with its partner's own such view.
    """

    def __init__(
        self,
        split: Split,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Sequence[tuple[str, Mapping[str, Any]]] = (),
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        # Mapped images stay where they are, and those that are too many for a GPU: a batch of them is read
        # when it is asked for.
        self.images = _shared(split.images)
        if not is_mapped(split.images) and has_room(self.device, split.images.nbytes):
            self.images = self.images.to(self.device)
        self.labels = _shared(split.labels).to(self.device)
        self._offset = 255 * torch.tensor(mean, device=self.device)[:, None, None]
        self._scale = 1 / (255 * torch.tensor(std, device=self.device)[:, None, None])
        # Bits are drawn where the images are: those on the host are picked without a look at the device.
        self._purposes = torch.tensor(list(Purpose), device=self.images.device)[:, None]

        options = {name: _with_defaults(name, given) for name, given in augment}
        size = self.images.shape[-1]
        self._padding = (options["crop"]["padding"] or max(1, size // 8)) if "crop" in options else None
        self._flips = "flip" in options
        self._cutout_size = (options["cutout"]["size"] or max(1, size // 2)) if "cutout" in options else None
        self._weights = (
            _beta_quantiles(options["mixup"]["alpha"]).to(self.device) if "mixup" in options else None
        )

    def __len__(self) -> int:
        return len(self.labels)

    def plain(self, indices: Tensor) -> Batch:
        """The samples as they are, normalised."""
        indices = self._located(indices)
        images = self._normalise(self._picked(indices))
        indices = self._placed(indices)
        return Batch(images, self.labels[indices], indices)

    def batch(self, indices: Tensor, epoch: int, stream: int) -> Batch:
        """The samples' views of this epoch in this stream; indices had best be where the images are."""
        indices = self._located(indices)
        stream_bits = counter_hash(stream, epoch)
        bits = fold_in(fold_in(stream_bits, indices), self._purposes)  # [purposes, B]
        images = self._view(indices, bits)
        if self._weights is None:
            indices = self._placed(indices)
            return Batch(images, self.labels[indices], indices)
        partners = below(bits[Purpose.MIXUP_PARTNER], len(self))
        partner_bits = fold_in(fold_in(stream_bits, partners), self._purposes)
        mix = self._weights[self._placed(below(bits[Purpose.MIXUP_WEIGHT], _NUM_WEIGHTS))]
        images.mul_(mix[:, None, None, None])
        images.add_(self._view(partners, partner_bits).mul_(1 - mix[:, None, None, None]))
        indices, partners = self._placed(indices), self._placed(partners)
        return Batch(images, self.labels[indices], indices, self.labels[partners], mix)

    def batches(self, indices: Sequence[Tensor], epoch: int, stream: int) -> Iterator[Batch]:
        """`batch` of each of them in turn, made in blocks of at most BLOCK_BYTES where more than one fits."""
        num_bytes = 4 * self.images[0].numel()
        for block in _blocks(indices, BLOCK_BYTES // num_bytes):
            views = self.batch(torch.cat(block), epoch, stream)
            begin = 0
            for some in block:
                yield views.part(begin, begin + len(some))
                begin += len(some)

    def strong(self, indices: Tensor, epoch: int, stream: int) -> Batch:
        """The samples' strongly augmented views: cropped and flipped where views are, then RandAugment.

        Neither cut out nor mixed. Give another stream than the views' own for other crops.
        """
        indices = self._located(indices)
        bits = self._placed(fold_in(fold_in(counter_hash(stream, epoch), indices), self._purposes))
        images = rand_augment(self._cropped_and_flipped(self._picked(indices), bits), bits[Purpose.STRONG])
        indices = self._placed(indices)
        return Batch(self._normalise(images), self.labels[indices], indices)

    def _cropped_and_flipped(self, images: Tensor, bits: Tensor) -> Tensor:
        if self._padding is not None:
            rows, columns = below(bits[Purpose.CROP_ROW : Purpose.CROP_COLUMN + 1], 2 * self._padding + 1)
            images = crop(images, rows, columns, self._padding)
        if self._flips:
            images = flip(images, bits[Purpose.FLIP] < 0)
        return images

    def _located(self, indices: Tensor) -> Tensor:
        """Indices where the images are; on their way to the host they are waited for."""
        return indices.to(self.images.device, non_blocking=self.images.device.type != "cpu")

    def _placed(self, values: Tensor) -> Tensor:
        """What is where the images are, on the device."""
        return values.to(self.device, non_blocking=True)

    def _picked(self, indices: Tensor) -> Tensor:
        return self._placed(self.images.index_select(0, indices))

    def _view(self, indices: Tensor, bits: Tensor) -> Tensor:
        """One view per index, before mixup; `bits` [purposes, B]. Both are where the images are."""
        images, bits, size = self._picked(indices), self._placed(bits), self.images.shape[-1]
        images = self._normalise(self._cropped_and_flipped(images, bits))
        if self._cutout_size is not None:
            rows, columns = below(bits[Purpose.CUTOUT_ROW : Purpose.CUTOUT_COLUMN + 1], size)
            images = cutout_(images, rows, columns, self._cutout_size)
        return images

    def _normalise(self, images: Tensor) -> Tensor:
        return images.float().sub_(self._offset).mul_(self._scale)


def _blocks(batches: Sequence[Tensor], num_samples: int) -> Iterator[list[Tensor]]:
    """Neighbouring batches together, as long as they have no more samples than that."""
    block: list[Tensor] = []
    for batch in batches:
        if block and sum(map(len, block)) + len(batch) > num_samples:
            yield block
            block = []
        block.append(batch)
    if block:
        yield block


def _with_defaults(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: option.default for key, option in AUGMENTATIONS[name].items()} | dict(options)


def _shared(array: npt.NDArray[Any]) -> Tensor:
    """A tensor on the array's own memory, so that a node's trials share one copy."""
    with warnings.catch_warnings():
        # The arrays are read-only on purpose; torch has no such tensors, and Views never writes to these.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _beta_quantiles(alpha: float) -> Tensor:
    """The centres of _NUM_WEIGHTS equally likely slices of Beta(alpha, alpha), float32, ascending."""
    from scipy.special import betaincinv  # type: ignore[import-untyped]  # scipy ships no type hints

    centres = (np.arange(_NUM_WEIGHTS) + 0.5) / _NUM_WEIGHTS
    return torch.tensor(betaincinv(alpha, alpha, centres), dtype=torch.float32)
