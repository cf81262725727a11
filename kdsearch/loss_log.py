"""The losses of an epoch, and what a training says when one of them is not finite.

Goes in: the total and the terms of every batch, as tensors on the device. Comes out: their means, or a
`NonFiniteLoss`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class NonFiniteLoss(ArithmeticError):  # noqa: N818  # it names what happened, like StopIteration
    """A loss or an output became infinite or NaN. `epoch` and `batch` count from 1."""

    def __init__(self, epoch: int, batch: int, terms: Mapping[str, float]) -> None:
        super().__init__(epoch, batch, dict(terms))  # all three, so that it survives pickling
        self.epoch = epoch
        self.batch = batch
        self.terms = dict(terms)

    def __str__(self) -> str:
        values = ", ".join(f"{name} = {value:g}" for name, value in self.terms.items())
        return f"not finite in epoch {self.epoch}, batch {self.batch}: {values}"


class LossLog:
    """The losses of an epoch, kept on the device and looked at every `check_every` batches."""

    def __init__(self, epoch: int, check_every: int) -> None:
        self._epoch = epoch
        self._check_every = check_every
        self._names: tuple[str, ...] = ()
        self._rows: list[Tensor] = []
        self._sizes: list[int] = []
        self._checked = 0

    def append(self, loss: Tensor, terms: Mapping[str, Tensor], size: int) -> None:
        """One batch's total and unweighted terms. Raises NonFiniteLoss, at the latest in `means`."""
        self._names = ("total", *terms)
        self._rows.append(torch.stack([loss.detach(), *(term.detach() for term in terms.values())]))
        self._sizes.append(size)
        if len(self._rows) - self._checked >= self._check_every:
            self._check()

    def means(self) -> tuple[float, dict[str, float]]:
        """The mean total and the mean of each term, every sample counting alike."""
        self._check()
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        rows = torch.stack(self._rows).double().cpu()
        total, *terms = ((sizes @ rows) / sizes.sum()).tolist()
        return total, dict(zip(self._names[1:], terms, strict=True))

    def _check(self) -> None:
        rows = self._rows[self._checked :]
        for index, row in enumerate(torch.stack(rows).tolist() if rows else []):
            bad = {
                name: value for name, value in zip(self._names, row, strict=True) if not math.isfinite(value)
            }
            if bad:
                raise NonFiniteLoss(self._epoch, self._checked + index + 1, bad)
        self._checked = len(self._rows)
