"""Images that are too many for memory: in a file that is mapped, of which only what is looked at is read.

Goes in: the shape of an array. Comes out: the array, uint8, in memory or in a file under the store. Both are
numpy's and give the same values; a mapped one is passed to other processes by the name of its file. Images
are decoded once either way: a batch of mapped ones costs a read, no more.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import shutil
import uuid
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kdsearch.data import DataError
from kdsearch.home import default_store

FOLDER = "images"
SUFFIX = ".u8"
# Of the machine's memory. There are up to three copies while a split is cut out of what was read and given
# to the workers, and the students need room besides.
RESIDENT_SHARE = 0.2
FREE_BYTES = 10**9  # left on the disk
_CHUNK_BYTES = 1 << 24
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container's, "max" where there is none

Pixels = npt.NDArray[np.uint8]


def resident_bytes() -> float:
    """The largest array that is kept in memory."""
    memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, float(_CGROUP_LIMIT.read_text()))
    return RESIDENT_SHARE * memory


def allocate(shape: tuple[int, ...]) -> Pixels:
    """An array to be filled. The file of a mapped one goes with the array, at the latest at exit.

    Raises DataError where neither memory nor the disk has room.
    """
    num_bytes = math.prod(shape)
    if num_bytes <= resident_bytes():
        return np.empty(shape, np.uint8)
    folder = default_store() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    if shutil.disk_usage(folder).free < num_bytes + FREE_BYTES:
        raise DataError(
            f"{num_bytes / 1e9:,.1f} GB of images are too many for memory, and for {folder}: "
            "point KDSEARCH_HOME at a larger disk, or use fewer or smaller images"
        )
    path = folder / f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex}{SUFFIX}"
    images: Pixels = np.memmap(path, np.uint8, "w+", shape=shape)
    weakref.finalize(images, path.unlink, missing_ok=True)
    return images


def taken(images: Pixels, positions: npt.NDArray[np.int64]) -> Pixels:
    """The images at these positions, copied piece by piece."""
    found = allocate((len(positions), *images.shape[1:]))
    step = max(1, _CHUNK_BYTES // math.prod(images.shape[1:]))
    for start in range(0, len(positions), step):
        found[start : start + step] = images[positions[start : start + step]]
    return found


def is_mapped(images: Pixels) -> bool:
    return isinstance(images, np.memmap)


def files_of(arrays: Iterable[Pixels]) -> list[str]:
    """The files of those that are mapped."""
    return [str(images.filename) for images in arrays if isinstance(images, np.memmap)]


class InFile(NamedTuple):
    """A mapped array on its way to another process."""

    path: str
    shape: tuple[int, ...]


def packed(images: Pixels) -> Pixels | InFile:
    """What is sent in place of the array: itself, or where its file is."""
    if isinstance(images, np.memmap):
        images.flush()
        return InFile(str(images.filename), images.shape)
    return images


def unpacked(images: Pixels | InFile) -> Pixels:
    """Raises DataError where this machine does not see the file."""
    if not isinstance(images, InFile):
        return images
    try:
        return np.memmap(images.path, np.uint8, "r", shape=images.shape)
    except OSError as error:
        raise DataError(
            f"{images.path}: {error.strerror} on {platform.node()}: the images are too many for memory and "
            "in a file; point KDSEARCH_HOME at a folder that all nodes share"
        ) from None


def _remove_leftovers(folder: Path) -> None:
    """Delete the files of processes of this machine that were killed.

    The whole name is matched: the folder may be shared with a machine whose name begins with this one's.
    """
    ours = re.compile(rf"{re.escape(platform.node())}-(\d+)-[0-9a-f]+{re.escape(SUFFIX)}")
    for file in folder.glob(f"*{SUFFIX}"):
        found = ours.fullmatch(file.name)
        if found is None:
            continue
        try:
            os.kill(int(found[1]), 0)
        except ProcessLookupError:
            file.unlink(missing_ok=True)
        except PermissionError:
            continue
