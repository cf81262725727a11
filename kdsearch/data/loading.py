"""From a data set's own files to `ImageData`: split, subset, resize, normalisation, content key.

Goes in: the spec's `data` section; one of the readers (a function named in DATASETS) opens the files.
Comes out: `ImageData`, or the test split alone. A sample is in exactly one split; which one depends on the
labels and the spec's seed, never on a global generator.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from kdsearch.data import DATASETS, DataError, DataRequest, ImageData, Split
from kdsearch.data.counter import Purpose, counter_hash
from kdsearch.data.large import allocate, is_mapped, taken

Indices = npt.NDArray[np.int64]

# Images are counted, resized and hashed in chunks, which bounds the temporary memory to some 100 MB.
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Source:
    """An opened data set. Each part is read when it is called: who never calls `test` never sees it.

    `validation` and `test` are None where the data set has no such part of its own.
    """

    class_names: tuple[str, ...]
    train: Callable[[], Split]
    validation: Callable[[], Split] | None
    test: Callable[[], Split] | None


Reader = Callable[[Path, Mapping[str, Any]], Source]


def open_source(spec: DataRequest) -> Source:
    """Find (or download) the files. Raises DataError."""
    kind = DATASETS[spec.dataset]
    module, function = kind.load.split(":")
    reader: Reader = getattr(importlib.import_module(module), function)
    defaults = {name: option.default for name, option in kind.options.items()}
    return reader(Path(spec.root).expanduser(), defaults | dict(spec.options))


def load_images(spec: DataRequest) -> tuple[ImageData, npt.NDArray[np.uint8]]:
    """Train and validation, split, cut to `subset`, resized; and what `subset` leaves out, as it was read.

    That is read only where the spec asks for it, by `unlabelled: rest`. Raises DataError.
    """
    source = open_source(spec)
    train = source.train()
    if source.validation is None:
        share = DATASETS[spec.dataset].validation if spec.validation is None else spec.validation
        held_out = stratified(train.labels, _count(share, len(train)), spec.seed, Purpose.VALIDATION_SPLIT)
        validation, train = _take(train, held_out), _take(train, complement(held_out, len(train)))
    elif spec.validation is None:
        validation = source.validation()
    else:
        raise DataError(
            f"data.validation: {spec.validation}: {spec.dataset} in {spec.root} has its own validation "
            "folder; remove the setting, or the folder"
        )
    rest = train.images[:0]
    if spec.subset is not None:
        if not len(source.class_names) <= spec.subset <= len(train):
            raise DataError(
                f"data.subset: {spec.subset}: must be between {len(source.class_names)} (one image a class) "
                f"and {len(train)} (the training images that validation leaves)"
            )
        kept = stratified(train.labels, spec.subset, spec.seed, Purpose.SUBSET)
        if spec.unlabelled is not None and spec.unlabelled.dataset == "rest":
            rest = taken(train.images, complement(kept, len(train)))
        train = _take(train, kept)
    _check_classes(train, source.class_names)

    train, validation = _finished(train, spec.resize), _finished(validation, spec.resize)
    mean, std = channel_statistics(train.images)
    images = ImageData(
        name=spec.dataset,
        train=train,
        validation=validation,
        class_names=source.class_names,
        mean=mean,
        std=std,
        key=content_key([train, validation], source.class_names),
    )
    return images, rest


def load_test_split(spec: DataRequest) -> Split:
    """The test split, resized like the others. Raises DataError where there is none."""
    source = open_source(spec)
    if source.test is None:
        raise DataError(f"{spec.dataset} in {spec.root} has no test split; put one into {spec.root}/test")
    return _finished(source.test(), spec.resize)


def stratified(labels: Indices, count: int, seed: int, purpose: Purpose) -> Indices:
    """`count` positions (ascending) with the classes in proportion, a function of labels, seed and purpose.

    Every class gives its share rounded down; what is left goes to the largest fractions, one each.
    """
    class_sizes = np.bincount(labels)
    quotas, fractions = np.divmod(class_sizes * count, len(labels))
    quotas[np.argsort(-fractions, kind="stable")[: count - quotas.sum()]] += 1

    priority = counter_hash(seed, torch.arange(len(labels)), purpose).numpy()
    by_class = np.lexsort((priority, labels))
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(class_sizes) - class_sizes, class_sizes)
    return np.sort(by_class[place_in_class < quotas[labels[by_class]]])


def complement(positions: Indices, num_samples: int) -> Indices:
    """The positions of range(num_samples) that are not in `positions`, ascending."""
    left = np.ones(num_samples, dtype=bool)
    left[positions] = False
    return np.flatnonzero(left)


def resize(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """[N, C, H, W] -> [N, C, size, size], pixel by pixel what PIL's antialiased bilinear resize gives."""
    # PIL works in integers, so that the content key does not depend on the machine's float kernels. torch's
    # uint8 interpolate (2.14.1) fails an internal assertion when three-channel images become 1x1.
    found, done = allocate((*images.shape[:2], size, size)), 0
    for chunk in _chunks(images):
        found[done : done + len(chunk)] = _resize_width(_resize_width(chunk, size), size)
        done += len(chunk)
    return found


def _resize_width(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """[N, C, H, W] -> [N, C, size, H]: all rows as one tall image, scaled in width, transposed."""
    rows = Image.fromarray(images.reshape(-1, images.shape[-1]))
    scaled = np.asarray(rows.resize((size, rows.height), Image.Resampling.BILINEAR))
    return scaled.reshape(*images.shape[:-1], size).swapaxes(-1, -2)


def channel_statistics(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of images / 255 per channel, exact: from counts of the 256 values."""
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for chunk in _chunks(images):
        for channel in range(images.shape[1]):
            counts[channel] += np.bincount(chunk[:, channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    # A channel that never changes carries nothing; one grey level keeps its division finite.
    return tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist())


def content_key(splits: Iterable[Split], class_names: tuple[str, ...]) -> str:
    """sha256 over class names, shapes, pixels and labels of the splits in order."""
    digest = hashlib.sha256(repr(class_names).encode())
    for split in splits:
        digest.update(repr(split.images.shape).encode())
        for chunk in _chunks(split.images):
            digest.update(chunk.data)
        digest.update(split.labels.data)
    return digest.hexdigest()


def _chunks(images: npt.NDArray[np.uint8]) -> Iterable[npt.NDArray[np.uint8]]:
    step = max(1, _CHUNK_BYTES // math.prod(images.shape[1:]))
    return (images[start : start + step] for start in range(0, len(images), step))


def _count(share: int | float, num_samples: int) -> int:
    """A count as it is, a fraction of the samples rounded; both sides of the split must keep an image."""
    count = round(share * num_samples) if share < 1 else int(share)
    if not 1 <= count < num_samples:
        raise DataError(
            f"data.validation: {share}: that is {count} of the {num_samples} images there are to train on; "
            f"1 to {num_samples - 1}, or a fraction below 1 that comes to as many"
        )
    return count


def _check_classes(train: Split, class_names: tuple[str, ...]) -> None:
    sizes = np.bincount(train.labels, minlength=len(class_names))
    empty = [name for name, size in zip(class_names, sizes, strict=True) if size == 0]
    if empty:
        raise DataError(
            f"no training image is left for {', '.join(empty[:5])}: use a smaller data.validation"
        )


def _take(split: Split, positions: Indices) -> Split:
    return Split(taken(split.images, positions), split.labels[positions])


def _finished(split: Split, size: int | None) -> Split:
    """Resized where asked, contiguous and read-only: ready to be shared between processes."""
    images = split.images if size in (None, split.images.shape[-1]) else resize(split.images, size)
    if not is_mapped(images):  # it is contiguous
        images = np.ascontiguousarray(images)
    labels = np.ascontiguousarray(split.labels, dtype=np.int64)
    for array in (images, labels):
        array.flags.writeable = False
    return Split(images, labels)
