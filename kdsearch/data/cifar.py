"""CIFAR-10 and CIFAR-100 from their official python archives.

Goes in: a folder holding `cifar-10-batches-py` / `cifar-100-python` (torchvision's layout), or the official
.tar.gz, or a network to fetch it over. Comes out: a `Source` of 32x32 colour images.
Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

The batches are pickles: the one place where kdsearch reads any. They are read without trusting them (see
`read_batch`), because the folder is the user's and its files are not checked against the official MD5s;
a download is.
"""

from __future__ import annotations

import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdsearch.data import DataError, Split
from kdsearch.data.download import download, only_one
from kdsearch.data.loading import Source


@dataclass(frozen=True)
class Archive:
    """An official archive: where it is, what is in it, under which keys."""

    url: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    names_key: str
    labels_key: str

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)

    @property
    def packed(self) -> str:
        return self.url.rsplit("/", 1)[1]


# URLs and MD5s: https://www.cs.toronto.edu/~kriz/cifar.html
CIFAR10 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    names_key="label_names",
    labels_key="labels",
)
CIFAR100 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    names_key="fine_label_names",
    labels_key="fine_labels",
)


def cifar10(root: Path, options: Mapping[str, Any]) -> Source:
    return open_archive(CIFAR10, root)


def cifar100(root: Path, options: Mapping[str, Any]) -> Source:
    return open_archive(CIFAR100, root)


def open_archive(archive: Archive, root: Path) -> Source:
    """Unpack or download what is missing, and read the class names. Raises DataError."""
    folder = root / archive.folder
    if _missing(archive, folder):
        with only_one(root):
            _provide(archive, root)
    names = read_batch(folder / archive.meta).get(archive.names_key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{folder / archive.meta}: no list of class names under {archive.names_key!r}")
    return Source(
        class_names=tuple(names),
        train=lambda: _read(archive, [folder / name for name in archive.train], len(names)),
        validation=None,
        test=lambda: _read(archive, [folder / archive.test], len(names)),
    )


def read_batch(path: Path) -> dict[str, Any]:
    """A pickled dict of numbers, texts, lists and uint8 arrays; anything else is refused with a DataError.

    The unpickler below resolves no name to real code: the handful that numpy's arrays and Python's bytes
    need stand for classes and functions of this file, so a hostile file can at worst raise an error here.
    """
    try:
        with path.open("rb") as file:
            entry = _Unpickler(file, encoding="bytes").load()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a CIFAR batch that is safe to read ({error})") from error
    if not isinstance(entry, dict):
        raise DataError(f"{path}: not a CIFAR batch: it holds a {type(entry).__name__}, not a dict")
    return {_text(key): _plain(value) for key, value in entry.items()}


# What a broken or hostile pickle raises, beside its own error (pickle's documentation, "Exceptions").
_UNREADABLE = (
    *(pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError),
    *(MemoryError, RecursionError, TypeError, UnicodeError, ValueError),
)


class _Ndarray:
    """Stands for numpy.ndarray, which pickles name only as an argument."""


class _Dtype:
    """Stands for numpy.dtype; the only one there is here is uint8."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        if _text(code) not in ("u1", "uint8"):
            raise pickle.UnpicklingError(f"an array of {_text(code)}; pixels are uint8")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing to bytes."""


class _Array:
    """Stands for an array under construction: its pixels come with the state, as numpy writes it."""

    def __init__(self, *_: object) -> None:
        self.pixels = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.pixels = _pixels(data, dtype, shape, "F" if is_fortran else "C")


def _from_buffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    """Stands for numpy's way of pickling under protocol 5."""
    array = _Array()
    array.pixels = _pixels(data, dtype, shape, "F" if order == "F" else "C")
    return array


def _pixels(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> npt.NDArray[np.uint8]:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("an array without uint8 pixels")
    return np.frombuffer(data, np.uint8).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    """Stands for _codecs.encode: Python 3 writes bytes so under protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    _NAMES: Mapping[tuple[str, str], Callable[..., Any]] = {
        ("_codecs", "encode"): _encode,
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Ndarray,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.numeric", "_frombuffer"): _from_buffer,
        ("numpy.core.multiarray", "_reconstruct"): _Array,  # numpy 1, and so the official files
        ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    }

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in self._NAMES:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; only uint8 arrays and plain values are read"
            )
        return self._NAMES[module, name]


def _text(value: object) -> str:
    """Python 2 wrote its strings as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.pixels
    return [_text(v) if isinstance(v, bytes) else v for v in value] if isinstance(value, list) else value


def _missing(archive: Archive, folder: Path) -> list[str]:
    return [name for name in archive.files if not (folder / name).is_file()]


def _provide(archive: Archive, root: Path) -> None:
    """Fill in the missing files from the .tar.gz, which is downloaded where it is not there."""
    packed, folder = root / archive.packed, root / archive.folder
    if not packed.is_file():
        hint = f"Put it, or the folder {archive.folder} out of it, into {root.absolute()}."
        download(archive.url, archive.md5, packed, hint)
    try:
        folder.mkdir(exist_ok=True)
        with tarfile.open(packed) as tar:
            for name in _missing(archive, folder):
                # Only the names we know are taken out, and written by us: nothing in the tar decides a path.
                member = tar.extractfile(f"{archive.folder}/{name}")
                if member is None:
                    raise KeyError(name)
                # Under its own name only once it is whole: who finds all files does not wait for the lock.
                partial = folder / f".{name}.partial"
                partial.write_bytes(member.read())
                partial.replace(folder / name)
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"{packed}: cannot be unpacked ({error}); fetch it again from {archive.url}"
        ) from error


def _read(archive: Archive, paths: list[Path], num_classes: int) -> Split:
    images, labels = zip(*(_read_one(archive, path, num_classes) for path in paths), strict=True)
    return Split(np.concatenate(images), np.concatenate(labels))


def _read_one(
    archive: Archive, path: Path, num_classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """One batch file: rows of 3,072 bytes, red then green then blue, each plane row by row."""
    entry = read_batch(path)
    pixels, labels = entry.get("data"), entry.get(archive.labels_key)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise DataError(f"{path}: no rows of 3072 bytes under 'data'")
    if not isinstance(labels, list) or not all(
        type(label) is int and 0 <= label < num_classes for label in labels
    ):
        raise DataError(f"{path}: no labels from 0 to {num_classes - 1} under {archive.labels_key!r}")
    if len(labels) != len(pixels):
        raise DataError(f"{path}: {len(pixels)} images, but {len(labels)} labels")
    return pixels.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)
