"""A training's images without labels, a few beside each batch of labelled ones.

Goes in: `Unlabelled` images, a labelled `Batch` and its place in the training. Comes out: one batch of both.
Which images come when is a function of the seed and of that place, so nothing needs to be saved to resume.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.data import Split, Unlabelled
from kdsearch.data.views import Batch, Views, order

# Views and orders of these images come from streams and epochs that no labelled image has.
UNLABELLED_STREAM = 1 << 40
UNLABELLED_EPOCH = 1 << 40
NO_LABEL = -1


class Pool:
    """Every image comes once before any comes again, `ratio` of them beside each labelled one."""

    def __init__(
        self,
        unlabelled: Unlabelled,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Sequence[tuple[str, Mapping[str, Any]]],
        device: str | torch.device,
        seed: int,
    ) -> None:
        labels = np.full(len(unlabelled), NO_LABEL, dtype=np.int64)
        self._views = Views(Split(unlabelled.images, labels), mean, std, augment, device)
        self._ratio, self._seed = unlabelled.ratio, seed
        # A batch reads one round or the end of one and the beginning of the next; sorting a round takes
        # longer than a small student's step.
        self._round = functools.lru_cache(maxsize=2)(self._order_of)

    def beside(self, labelled: int, num_labelled: int) -> Tensor:
        """Positions of the images beside the next `num_labelled` labelled ones, after `labelled` others."""
        start, end = (math.floor(self._ratio * count) for count in (labelled, labelled + num_labelled))
        size = len(self._views)
        rounds = range(start // size, -(-end // size))
        orders = [self._round(number) for number in rounds]
        skipped = start - size * (start // size)
        return torch.cat([torch.empty(0, dtype=torch.int64), *orders])[skipped : skipped + end - start]

    def _order_of(self, number: int) -> Tensor:
        return order(len(self._views), self._seed, UNLABELLED_EPOCH + number)

    def join(self, batch: Batch, positions: Tensor, epoch: int, stream: int, num_samples: int) -> Batch:
        """The batch with views of the images at these positions behind it; `num_samples` have labels."""
        more = self._views.batch(positions, epoch, stream + UNLABELLED_STREAM)

        def joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
            return None if first is None or second is None else torch.cat([first, second])

        return Batch(
            torch.cat([batch.images, more.images]),
            torch.cat([batch.labels, more.labels]),
            torch.cat([batch.indices, num_samples + more.indices]),
            joined(batch.mixed_labels, more.mixed_labels),
            joined(batch.mix, more.mix),
            num_labelled=len(batch.labels),
        )
