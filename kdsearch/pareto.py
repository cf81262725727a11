"""Non-dominated points, their ranks and exact hypervolume, in pure numpy.

Goes in: points [N, D] of finite or infinite numbers, every column to be minimised (negate an
accuracy). Comes out: masks, ranks and volumes. Equal points never dominate each other, so they
share their place on the front. ValueError for NaN, which compares with nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]


def dominates(a: ArrayLike, b: ArrayLike) -> bool:
    """Whether point `a` [D] is nowhere worse than `b` [D] and somewhere better."""
    first, second = _points([a, b])
    return bool(np.all(first <= second) and np.any(first < second))


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """[N] True where no other point dominates this one; of equal points, all or none."""
    array = _points(points)
    mask = np.zeros(len(array), dtype=bool)
    left = np.lexsort(array.T[::-1])
    while len(left):
        first = left[0]  # in lexicographic order: nothing that is left dominates it
        mask[first] = True
        left = left[1:][~_dominated(array[left[1:]], array[first])]
    return mask


def ranks(points: ArrayLike) -> NDArray[np.int64]:
    """[N] 0 for the front, 1 for the front of what is left without it, and so on (Deb et al. 2002).

    A point's rank is the length of the longest chain of points that dominate one another and it.
    """
    array = _points(points)
    result = np.zeros(len(array), dtype=np.int64)
    # In lexicographic order whatever dominates a point comes before it, so one pass is enough.
    done = np.zeros(len(array), dtype=bool)
    for index in np.lexsort(array.T[::-1]):
        above = done & _dominators(array[index], array)
        result[index] = result[above].max() + 1 if above.any() else 0
        done[index] = True
    return result


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """The volume that the points [N, D] dominate below `reference` [D], exact for any D >= 1.

    Points not better than the reference in every objective add nothing. Slices along the last
    objective, recursively: O(N log N) for D = 2 and a factor N more with each further objective.
    """
    corner = _points([reference])[0]
    array = _points(points, num_objectives=len(corner))
    array = array[np.all(array < corner, axis=1)]
    return _volume(array[non_dominated(array)], corner)


def _volume(points: Points, corner: Points) -> float:
    if len(points) == 0:
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points[:, 0].min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    if len(corner) == 2:
        heights = corner[0] - np.minimum.accumulate(points[:, 0])
        return float(heights @ np.diff(points[:, 1], append=corner[1]))
    depths = np.diff(points[:, -1], append=corner[-1])
    return sum(
        float(depth) * _volume(points[: index + 1, :-1], corner[:-1])
        for index, depth in enumerate(depths)
        if depth > 0
    )


def _dominated(points: Points, point: Points) -> NDArray[np.bool_]:
    """[N] True where `point` dominates a row of `points`."""
    mask: NDArray[np.bool_] = np.all(point <= points, axis=1) & np.any(point < points, axis=1)
    return mask


def _dominators(point: Points, points: Points) -> NDArray[np.bool_]:
    """[N] True where a row of `points` dominates `point`."""
    mask: NDArray[np.bool_] = np.all(points <= point, axis=1) & np.any(points < point, axis=1)
    return mask


def _points(points: ArrayLike | Sequence[Any], num_objectives: int | None = None) -> Points:
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, num_objectives or 1)
    if array.ndim != 2:
        raise ValueError(f"points must be [N, D], got shape {array.shape}")
    if num_objectives is not None and array.shape[1] != num_objectives:
        raise ValueError(f"points have {array.shape[1]} objectives, the reference has {num_objectives}")
    if np.isnan(array).any():
        raise ValueError("points must not be NaN")
    return array
