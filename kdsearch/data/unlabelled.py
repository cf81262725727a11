"""Images without labels for `data.unlabelled`: from wherever they are to the form of the training images.

Goes in: the spec's `data` section, and the training images that `subset` left out. Comes out: `Unlabelled`.
Whatever labels the source has are dropped here, and its test part is never read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdsearch.data import DataError, DataRequest, Unlabelled, UnlabelledRequest
from kdsearch.data.image_folder import SUFFIXES, centre_square, decode
from kdsearch.data.loading import open_source, resize
from kdsearch.data.views import order

Pixels = npt.NDArray[np.uint8]

_CHUNK = 1000  # images made grey at once: each takes four times its bytes meanwhile
# PIL's integer weights of red, green and blue in grey (ITU-R 601-2), in 65536ths.
_LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)


def load_unlabelled(spec: DataRequest, rest: Pixels, shape: tuple[int, int, int]) -> Unlabelled | None:
    """The images that `spec.unlabelled` asks for as uint8 [N, C, S, S], `shape` being the training images'.

    `rest` are those that `subset` left out. None where the spec asks for none. Raises DataError.
    """
    asked = spec.unlabelled
    if asked is None:
        return None
    channels, size = shape[0], shape[-1]
    if asked.folder is not None:
        images = _read_folder(Path(asked.folder).expanduser(), channels, size)
        told = f"of {asked.folder}"
    elif asked.dataset == "rest":
        images, told = rest, "that subset leaves out"
        if not len(rest):
            raise DataError(f"data.unlabelled: rest: data.subset {spec.subset} leaves no training image out")
    else:
        images, told = _other_images(spec, asked), f"of {asked.dataset}"
    changes = _changes(images, channels, size)
    images = images[_drawn(len(images), asked.share, spec.seed)]
    images = np.ascontiguousarray(converted(images, channels, size))
    images.flags.writeable = False
    words = f"{len(images):,} images {told}{changes}"
    key = hashlib.sha256(repr(images.shape).encode() + images.tobytes()).hexdigest()
    return Unlabelled(images, asked.ratio, words, key)


def converted(images: Pixels, channels: int, size: int) -> Pixels:
    """[N, C, H, H] as [N, channels, size, size]: grey repeated as red, green and blue, or mixed of them."""
    if channels == 3 and images.shape[1] == 1:
        images = images.repeat(3, axis=1)
    elif channels == 1 and images.shape[1] == 3:
        parts = np.array_split(images, max(1, len(images) // _CHUNK))
        images = np.concatenate([_grey(part) for part in parts])
    return images if images.shape[-1] == size else resize(images, size)


def _grey(images: Pixels) -> Pixels:
    """[N, 3, H, W] -> [N, 1, H, W], pixel by pixel what PIL makes of it."""
    weighed = (images * _LUMA[:, None, None]).sum(axis=1, keepdims=True)
    grey: Pixels = ((weighed + 0x8000) >> 16).astype(np.uint8)
    return grey


def _changes(images: Pixels, channels: int, size: int) -> str:
    """What `converted` will do, in words."""
    steps = []
    if images.shape[1] != channels:
        steps.append("made grey" if channels == 1 else "grey repeated in three channels")
    if images.shape[-1] != size:
        steps.append(f"scaled from {images.shape[-1]} to {size} pixels")
    return "".join(f", {step}" for step in steps)


def _drawn(num_images: int, share: float, seed: int) -> npt.NDArray[np.int64]:
    """Positions of a share of the images, ascending; at least one."""
    count = max(1, round(share * num_images))
    # Epochs count from 1, so that no training's order is the one of epoch 0.
    return np.sort(order(num_images, seed, epoch=0).numpy()[:count])


def _other_images(spec: DataRequest, asked: UnlabelledRequest) -> Pixels:
    """The training part of another data set."""
    assert asked.dataset is not None, "the spec names a data set or a folder"
    root = spec.root if asked.root is None else asked.root
    return open_source(_Other(asked.dataset, root)).train().images


@dataclass(frozen=True)
class _Other:
    """A request for all of another data set."""

    dataset: str
    root: str
    seed: int = 0  # of splits, which are not asked for
    validation: None = None
    subset: None = None
    resize: None = None
    unlabelled: None = None
    options: dict[str, object] = field(default_factory=dict)


def _read_folder(folder: Path, channels: int, size: int) -> Pixels:
    """Every image at or below a folder, by path, its middle square scaled."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"data.unlabelled: {folder.absolute()}: no images; {', '.join(SUFFIXES)} are read")
    mode = "L" if channels == 1 else "RGB"
    images: Pixels = np.empty((len(paths), channels, size, size), np.uint8)
    for position, path in enumerate(paths):
        image = centre_square(decode(path, mode)).resize((size, size), Image.Resampling.BILINEAR)
        images[position] = np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
    return images
