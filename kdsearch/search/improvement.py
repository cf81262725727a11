"""What a further student is expected to add to the front, before it is trained.

Goes in: the front as it stands, and for each candidate its size and a distribution of its accuracy. Comes
out: expected hypervolume improvements, exact over sizes, by quantiles over accuracy. numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Staircase:
    """The best accuracy `levels` [S] from each of `sizes` [S] on, up to `end`."""

    sizes: Floats
    levels: Floats
    end: float


def staircase(points: Sequence[tuple[float, float]], floor: float, start: float, end: float) -> Staircase:
    """The front of (size, accuracy) points; `floor` holds where no point is, `start` is the smallest size."""
    sizes, levels = [start], [floor]
    for size, accuracy in sorted(points):
        if accuracy > levels[-1]:
            sizes.append(max(size, start))
            levels.append(accuracy)
    return Staircase(np.array(sizes), np.array(levels), end)


def expected(front: Staircase, sizes: Floats, accuracies: Floats) -> Floats:
    """[M] the mean over accuracies [M, Q] of the area that a student of each of `sizes` [M] would add.

    Emmerich, Giannakoglou and Naujoks, IEEE TEVC 2006, for two objectives of which one is known.
    """
    ends = np.append(front.sizes[1:], front.end)
    total = np.zeros(len(sizes))
    for begin, end, level in zip(front.sizes, ends, front.levels, strict=True):
        width = np.maximum(0.0, end - np.maximum(begin, sizes))
        total += width * np.maximum(0.0, accuracies - level).mean(axis=1)
    return total
