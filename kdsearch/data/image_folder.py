"""A user's own images, sorted into one folder a class.

Goes in: root/train/<class>/*.png (also jpg, jpeg, bmp, webp), optionally root/validation (or root/val) and
root/test with the same class names. Comes out: a `Source` of square images, decoded once, into memory or,
where they are too many for it, into a mapped file.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdsearch.data import DataError, Split
from kdsearch.data.large import allocate
from kdsearch.data.loading import Source

logger = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")  # PIL knows dozens more, some of them run other programs


def image_folder(root: Path, options: Mapping[str, Any]) -> Source:
    """Options: `image_size` (None: the first image's, which all must have) and `grey`. Raises DataError."""
    train = root / "train"
    class_names = tuple(sorted(folder.name for folder in _folders(train)))
    if len(class_names) < 2:
        raise DataError(
            f"{train.absolute()}: {len(class_names)} class folders; put the images into one folder a class: "
            "train/cat/1.png, train/dog/1.png, ..."
        )
    size = options["image_size"] or _size_of_first(_files(train, class_names)[0][0][0])
    must_fit = options["image_size"] is None
    mode = "L" if options["grey"] else "RGB"

    def read(folder: Path) -> Split:
        files, others = _files(folder, class_names)
        if others:
            logger.warning("%s: not read, only %s are: %s", folder, ", ".join(SUFFIXES), _counted(others))
        return _read(files, size, mode, must_fit)

    validation = next((folder for name in ("validation", "val") if (folder := root / name).is_dir()), None)
    test = root / "test"
    return Source(
        class_names=class_names,
        train=lambda: read(train),
        validation=None if validation is None else lambda: read(validation),
        test=(lambda: read(test)) if test.is_dir() else None,
    )


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _files(folder: Path, class_names: tuple[str, ...]) -> tuple[list[tuple[Path, int]], list[Path]]:
    """The image files of the part with their labels, by class, then by name, and what lies beside them.

    Raises DataError.
    """
    unknown = {path.name for path in _folders(folder)} - set(class_names)
    if unknown:
        raise DataError(f"{folder / min(unknown)}: no class of that name in {folder.parent / 'train'}")
    files: list[tuple[Path, int]] = []
    unread: list[Path] = []
    for label, name in enumerate(class_names):
        images, others = _contents(folder / name)
        if not images and (others or folder.name == "train"):
            found = f"; found {_counted(others)}" if others else ""
            kinds = ", ".join(SUFFIXES)
            raise DataError(f"{folder / name}: no images{found}; {kinds} are read directly in it")
        files += [(path, label) for path in images]
        unread += others
    if not files:
        raise DataError(f"{folder}: no images; {', '.join(SUFFIXES)} are read from one folder a class")
    return files, unread


def _contents(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images in a folder, and what else is there, by name; hidden files are no news."""
    paths = sorted(folder.glob("*"))
    images = [path for path in paths if path.suffix.lower() in SUFFIXES]
    others = [path for path in paths if path.suffix.lower() not in SUFFIXES and not path.name.startswith(".")]
    return images, others


def _counted(paths: list[Path]) -> str:
    """Like `120 .tif files, 3 folders`, the most frequent first."""
    kinds = Counter("folder" if path.is_dir() else f"{path.suffix.lower()} file".strip() for path in paths)
    return ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in kinds.most_common())


def _size_of_first(path: Path) -> int:
    width, height = decode(path, "RGB").size
    if width != height:
        raise DataError(f"{path}: {width}x{height}, not square: set data.image_size, for example 64")
    return width


def _read(files: list[tuple[Path, int]], size: int, mode: str, must_fit: bool) -> Split:
    num_channels = 1 if mode == "L" else 3
    images = allocate((len(files), num_channels, size, size))
    for position, (path, _) in enumerate(files):
        image = decode(path, mode)
        if image.size != (size, size):
            if must_fit:
                raise DataError(
                    f"{path}: {image.width}x{image.height}, but the first image is {size}x{size}: "
                    "set data.image_size, for example 64"
                )
            image = centre_square(image).resize((size, size), Image.Resampling.BILINEAR)
        images[position] = np.asarray(image).reshape(size, size, num_channels).transpose(2, 0, 1)
    return Split(images, np.array([label for _, label in files], dtype=np.int64))


def centre_square(image: Image.Image) -> Image.Image:
    """The largest square in the middle of an image."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def decode(path: Path, mode: str) -> Image.Image:
    """An image file in PIL's mode ("L" or "RGB"). Raises DataError."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode.startswith(("I", "F")):  # PIL would clip what is above 255
                raise ValueError("16 or more bits a channel: save it with 8")
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be decoded ({error})") from error
