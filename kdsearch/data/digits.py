"""scikit-learn's handwritten digits: 1,797 grey images of 8x8, shipped in its wheel.

Goes in: nothing. Comes out: a `Source` with a fixed test split of 20 %; the set has no official one.
Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), its test part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.data import Split
from kdsearch.data.counter import Purpose
from kdsearch.data.loading import Source, complement, stratified

_TEST_SHARE = 0.2


def digits(root: Path, options: Mapping[str, Any]) -> Source:
    """`root` and `options` are not used. Pixels 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    # Seed 0 whatever the spec says: a test split that moves with the seed would leak into training.
    test = stratified(labels, round(_TEST_SHARE * len(labels)), seed=0, purpose=Purpose.TEST_SPLIT)
    rest = complement(test, len(labels))
    return Source(
        class_names=tuple(str(digit) for digit in range(10)),
        train=lambda: Split(images[rest], labels[rest]),
        validation=None,
        test=lambda: Split(images[test], labels[test]),
    )
