"""Which data sets and augmentations there are, and what a loaded data set is.

Goes in: the spec's `data` section. Comes out: `ImageData` (train and validation in memory, uint8) from
`load`, and the test split from `load_test`, which nothing but confirmation opens. The tables are plain
metadata: importing this module imports neither torch nor numpy; `load` brings them in when it is called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kdsearch.options import Option

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Part of every cache key that covers augmented views: raise it when the same
# (stream, epoch, sample) would give other pixels than before.
AUGMENT_VERSION = 1


class DataError(ValueError):
    """The data cannot be read as asked; the message says which file to put where, or what is allowed."""


@dataclass(frozen=True)
class DatasetKind:
    """A line of DATASETS.

    `load` names the function (root, options) -> `kdsearch.data.loading.Source`. The three sizes are None
    where the files decide. `validation` is the share of the training part held out when the spec is silent.
    """

    load: str
    options: dict[str, Option]
    num_classes: int | None
    in_channels: int | None
    image_size: int | None
    doc: str
    validation: float = 0.1


DATASETS: dict[str, DatasetKind] = {
    "cifar10": DatasetKind(
        load="kdsearch.data.cifar:cifar10",
        options={},
        num_classes=10,
        in_channels=3,
        image_size=32,
        doc="CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 images; downloaded into root once",
    ),
    "cifar100": DatasetKind(
        load="kdsearch.data.cifar:cifar100",
        options={},
        num_classes=100,
        in_channels=3,
        image_size=32,
        doc="CIFAR-100, fine labels (Krizhevsky 2009): 50,000 + 10,000 images; downloaded into root once",
    ),
    "digits": DatasetKind(
        load="kdsearch.data.digits:digits",
        options={},
        num_classes=10,
        in_channels=1,
        image_size=8,
        doc="scikit-learn's 1,797 handwritten digits; no official split: stratified 60/20/20",
        validation=0.25,  # of the 80 % that are not the test split
    ),
    "fashion_mnist": DatasetKind(
        load="kdsearch.data.fashion_mnist:fashion_mnist",
        options={},
        num_classes=10,
        in_channels=1,
        image_size=28,
        doc="Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 + 10,000 grey images",
    ),
    "image_folder": DatasetKind(
        load="kdsearch.data.image_folder:image_folder",
        options={
            "image_size": Option(
                type="int",
                default=None,
                low=4,
                high=1024,
                searchable=False,
                doc="pixels a side: every image is centre-cropped to a square and scaled. "
                "Without it every image must be a square of the first one's size",
            ),
            "grey": Option(type="bool", default=False, searchable=False, doc="one channel instead of three"),
        },
        num_classes=None,
        in_channels=None,
        image_size=None,
        doc="root/train/<class>/*.png, optionally root/validation (or val), root/test; png, jpg, bmp, webp",
    ),
}

# Applied in this order whatever the order in the spec: crop, flip, cutout, then mixup of two such views.
AUGMENTATIONS: dict[str, dict[str, Option]] = {
    "crop": {
        "padding": Option(
            type="int",
            default=None,
            low=1,
            high=64,
            searchable=False,
            doc="pixels of black on every side before a window of the old size is cut out; "
            "default max(1, size // 8), which is 4 at 32 (He et al., arXiv:1512.03385)",
        ),
    },
    "cutout": {
        "size": Option(
            type="int",
            default=None,
            low=1,
            high=1024,
            searchable=False,
            doc="side of the square set to the mean pixel, its centre anywhere in the image; "
            "default half the image's size, which is 16 at 32 (DeVries and Taylor, arXiv:1708.04552)",
        ),
    },
    "flip": {},
    "mixup": {
        "alpha": Option(
            type="float",
            default=0.2,
            low=1e-3,
            high=10.0,
            searchable=False,
            doc="the mixing weight is Beta(alpha, alpha) (Zhang et al., arXiv:1710.09412; 0.2 on ImageNet)",
        ),
    },
}


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W] with H == W, labels int64 [N]; both read-only.

    Images that are too many for memory are in a mapped file, see `kdsearch.data.large`.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process by the name of the file, where there is one."""
        from kdsearch.data.large import packed

        return _split, (packed(self.images), self.labels)


def _split(images: Any, labels: npt.NDArray[np.int64]) -> Split:
    from kdsearch.data.large import unpacked

    return Split(unpacked(images), labels)


@dataclass(frozen=True)
class Unlabelled:
    """Images without labels, uint8 [N, C, H, W] like the training images; `ratio` of them for a labelled one.

    `words` say what they are and how they were made to fit, `key` is a sha256 of their pixels.
    """

    images: npt.NDArray[np.uint8]
    ratio: float
    words: str
    key: str

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class ImageData:
    """A data set without its test split.

    `mean` and `std` are per channel, of images / 255 over the training split; `key` is a sha256 of both
    splits' pixels, labels and class names: any change of content, split, subset or size changes it.
    `unlabelled` are images for distillation only; nothing else here depends on them.
    """

    name: str
    train: Split
    validation: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    key: str
    unlabelled: Unlabelled | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        return int(self.train.images.shape[1])

    @property
    def image_size(self) -> int:
        return int(self.train.images.shape[2])


class UnlabelledRequest(Protocol):
    """Which images to use without labels: a data set's training part, `rest` (what `subset` leaves out), or
    a folder; exactly one of `dataset` and `folder` is given. `root` None: the data's own; `share` of them,
    drawn by the data's seed; `ratio` is images without labels for each one with.
    """

    @property
    def dataset(self) -> str | None: ...
    @property
    def folder(self) -> str | None: ...
    @property
    def root(self) -> str | None: ...
    @property
    def share(self) -> float: ...
    @property
    def ratio(self) -> float: ...


class DataRequest(Protocol):
    """What `load` reads of the spec's `data` section (`kdsearch.spec.DataSpec`).

    `validation`: images held out of the training part, a count or, below 1, a fraction; None takes the
    data set's own validation split, or else its default share. `subset`: training images to keep, classes
    in proportion (None: all); validation keeps its size. `resize`: pixels a side (None: as they are).
    `seed` draws validation and subset, never the test split.
    """

    @property
    def dataset(self) -> str: ...
    @property
    def root(self) -> str: ...
    @property
    def validation(self) -> int | float | None: ...
    @property
    def subset(self) -> int | None: ...
    @property
    def resize(self) -> int | None: ...
    @property
    def unlabelled(self) -> UnlabelledRequest | None: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def seed(self) -> int: ...


def load(spec: DataRequest) -> ImageData:
    """Read train, validation and what is asked for without labels.

    Raises DataError when files are missing or the counts cannot be met.
    """
    from kdsearch.data.loading import load_images
    from kdsearch.data.unlabelled import load_unlabelled

    images, rest = load_images(spec)
    shape = images.in_channels, images.image_size, images.image_size
    return dataclasses.replace(images, unlabelled=load_unlabelled(spec, rest, shape))


def load_test(spec: DataRequest) -> Split:
    """Read the test split, resized like the rest. Raises DataError when there is none."""
    from kdsearch.data.loading import load_test_split

    return load_test_split(spec)


def has_test(spec: DataRequest) -> bool:
    """Whether `load_test` would find a split, answered without reading an image."""
    from kdsearch.data.loading import open_source

    return open_source(spec).test is not None
