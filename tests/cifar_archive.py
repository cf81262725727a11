"""A small archive in the official on-disk format of CIFAR-10 or CIFAR-100, with images that can be learned.

Goes in: a folder, 10 or 100 classes, how many images. Comes out: `cifar-10-batches-py` / `cifar-100-python`
(or the official .tar.gz of it), pickled exactly as Python 2 and numpy 1 did: protocol 2, byte strings.

    python tests/cifar_archive.py OUT --classes 100 --train 2000 --test 500 [--packed]
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

NUM_CIFAR10_BATCHES = 5
NUM_SUPERCLASSES = 20


class Python2Pickler(pickle._Pickler):  # the C pickler cannot be taught another opcode for strings
    """Writes text and bytes as Python 2's str, and numpy's functions under the names they had in numpy 1."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    def save_str(self, value: str) -> None:
        self.save_bytes(value.encode("latin1"))

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{value.__name__}\n".encode())
        self.memoize(value)

    dispatch[bytes] = save_bytes
    dispatch[str] = save_str
    dispatch[type] = save_global
    dispatch[type(len)] = save_global


def make_images(num_images: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows uint8 [N, 3072] and labels [N]; small networks learn them, but not to the last image.

    A class is its superclass's smooth pattern with a detail of its own. An image is that pattern, dimmed,
    shifted by up to 3 pixels and overlaid with a weaker pattern of some other class, under noise.
    """
    patterns = np.random.default_rng(0)
    coarse = patterns.normal(size=(num_classes // 5, 3, 4, 4))
    detail = patterns.normal(size=(num_classes, 3, 4, 4))
    classes = (np.tile(coarse, (5, 1, 1, 1)) + 0.7 * detail).repeat(8, axis=2).repeat(8, axis=3)
    classes += classes[..., ::-1]  # mirrored images stay in their class

    rng = np.random.default_rng(seed + 1)
    labels = rng.permutation(np.arange(num_images) % num_classes)
    distractors = rng.integers(num_classes, size=num_images)
    strength, share = rng.uniform((10, 0), (30, 0.8), size=(num_images, 2)).T
    images = rng.normal(128, 40, size=(num_images, 3, 32, 32))
    for position, shift in enumerate(rng.integers(-3, 4, size=(num_images, 2))):
        pattern = classes[labels[position]] + share[position] * classes[distractors[position]]
        images[position] += strength[position] * np.roll(pattern, shift, axis=(1, 2))
    return images.clip(0, 255).astype(np.uint8).reshape(num_images, 3072), labels


def write(
    out: Path, num_classes: int = 10, num_train: int = 200, num_test: int = 50, packed: bool = False
) -> Path:
    """Write the archive into `out` and return its folder, or its .tar.gz when `packed`."""
    train, test = make_images(num_train, num_classes, seed=0), make_images(num_test, num_classes, seed=1)
    names = [f"class_{label:03d}" for label in range(num_classes)]
    if num_classes == 10:
        folder = out / "cifar-10-batches-py"
        batches = zip(*(np.array_split(part, NUM_CIFAR10_BATCHES) for part in train), strict=True)
        entries = {
            f"data_batch_{number}": _entry(
                *batch, "labels", f"training batch {number} of {NUM_CIFAR10_BATCHES}"
            )
            for number, batch in enumerate(batches, start=1)
        }
        entries["test_batch"] = _entry(*test, "labels", "testing batch 1 of 1")
        batch_size = len(entries["data_batch_1"]["data"])
        entries["batches.meta"] = {"num_cases_per_batch": batch_size, "label_names": names, "num_vis": 3072}
    else:
        folder = out / "cifar-100-python"
        entries = {
            "train": _entry(*train, "fine_labels", "training batch 1 of 1"),
            "test": _entry(*test, "fine_labels", "testing batch 1 of 1"),
            "meta": {
                "fine_label_names": names,
                "coarse_label_names": [f"superclass_{label:02d}" for label in range(NUM_SUPERCLASSES)],
            },
        }
    folder.mkdir(parents=True)
    for name, entry in entries.items():
        with (folder / name).open("wb") as file:
            Python2Pickler(file, protocol=2).dump(entry)
    return _packed(folder) if packed else folder


def _entry(data: np.ndarray, labels: np.ndarray, labels_key: str, batch_label: str) -> dict[str, Any]:
    entry = {
        "batch_label": batch_label,
        "data": np.ascontiguousarray(data),
        "filenames": [f"synthetic_{position:06d}.png" for position in range(len(labels))],
        labels_key: [int(label) for label in labels],
    }
    if labels_key == "fine_labels":
        entry["coarse_labels"] = [int(label) % NUM_SUPERCLASSES for label in labels]
    return entry


def _packed(folder: Path) -> Path:
    archive = folder.parent / {"cifar-10-batches-py": "cifar-10-python.tar.gz"}.get(
        folder.name, "cifar-100-python.tar.gz"
    )
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    shutil.rmtree(folder)
    return archive


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the folder to write into; the data section's root")
    parser.add_argument("--classes", type=int, choices=(10, 100), default=10)
    parser.add_argument("--train", type=int, default=2000, help="training images")
    parser.add_argument("--test", type=int, default=500, help="test images")
    parser.add_argument("--packed", action="store_true", help="write the .tar.gz instead of the folder")
    args = parser.parse_args()
    print(write(args.out, args.classes, args.train, args.test, args.packed))
