"""The first images of a data set: enough where only equality counts.

Goes in: `ImageData`, counts. Comes out: `ImageData` that trains in a blink.
"""

from __future__ import annotations

import dataclasses

from kdsearch import data as datasets
from kdsearch.data import ImageData, Split
from kdsearch.spec import DataSpec


def shortened(data: ImageData, num_train: int, num_validation: int | None = None) -> ImageData:
    """The first images of both splits; all of a split where no number is given."""

    def first(split: Split, count: int | None) -> Split:
        return dataclasses.replace(split, images=split.images[:count], labels=split.labels[:count])

    train, validation = first(data.train, num_train), first(data.validation, num_validation)
    return dataclasses.replace(data, train=train, validation=validation)


def few_digits(num_train: int, num_validation: int | None = None) -> ImageData:
    return shortened(datasets.load(DataSpec(dataset="digits")), num_train, num_validation)
