"""Fashion-MNIST from its four idx files.

Goes in: a folder with torchvision's layout (root/FashionMNIST/raw, packed or not) or with the files
themselves; failing that, Debian's package dataset-fashion-mnist; failing that, a download into root.
Comes out: a `Source` of 60,000 training and 10,000 test images, 28x28 grey.
Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747; format: http://yann.lecun.com/exdb/mnist (idx).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdsearch.data import DataError, Split
from kdsearch.data.download import download, only_one
from kdsearch.data.loading import Source

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# The mirror and MD5s of torchvision.datasets.FashionMNIST.
_MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}


def fashion_mnist(root: Path, options: Mapping[str, Any]) -> Source:
    """Raises DataError where the files are neither there nor to be had."""
    raw = root / "FashionMNIST" / "raw"
    files = _find(raw) or _find(root) or _find(DEBIAN_FOLDER)
    if files is None:
        with only_one(root):
            files = _find(raw) or _download(raw, root)
    return Source(
        class_names=CLASS_NAMES,
        train=lambda: _read(files, "train"),
        validation=None,
        test=lambda: _read(files, "t10k"),
    )


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An idx file of unsigned bytes, gzipped or not, as an array of its own shape. Raises DataError."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    # Header: two zero bytes, 8 for unsigned bytes, the number of dimensions, each as a big-endian int32.
    num_dimensions = data[3] if len(data) > 3 else 0
    start = 4 + 4 * num_dimensions
    shape = np.frombuffer(data[4:start], ">u4").tolist() if len(data) >= start else []
    if data[:3] != b"\0\0\x08" or len(data) - start != np.prod(shape, dtype=object):
        raise DataError(f"{path}: not an idx file of unsigned bytes, or cut short")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _find(folder: Path) -> dict[str, Path] | None:
    """The four files of a folder, plain or .gz, or None where one is missing."""
    found = {name: path for name in _MD5 for path in (folder / f"{name}.gz", folder / name) if path.is_file()}
    return found if len(found) == len(_MD5) else None


def _download(raw: Path, root: Path) -> dict[str, Path]:
    files = {name: raw / f"{name}.gz" for name in _MD5}
    for name, path in files.items():
        if not path.is_file():
            download(
                f"{_MIRROR}{path.name}",
                _MD5[name],
                path,
                f"Put {', '.join(file.name for file in files.values())} into {root.absolute()}, "
                "or install Debian's package dataset-fashion-mnist.",
            )
    return files


def _read(files: Mapping[str, Path], part: str) -> Split:
    image_file, label_file = files[f"{part}-images-idx3-ubyte"], files[f"{part}-labels-idx1-ubyte"]
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise DataError(
            f"{image_file}: {images.shape} images for {labels.shape} labels; expected N of 28x28 for N"
        )
    if labels.max(initial=0) >= len(CLASS_NAMES):
        raise DataError(f"{label_file}: label {labels.max()}; there are {len(CLASS_NAMES)} classes")
    return Split(images[:, None], labels.astype(np.int64))
