"""Configurations out of a spec's space, at random or as variations of one that is known.

Goes in: a random generator, and for a variation the parent's Optuna parameters. Comes out, after
`space.suggest`, the parameters and distributions of the drawn configuration. It stands in for Optuna's trial,
whose own draw takes a millisecond: a proposal is chosen among hundreds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from kdsearch.records import Scalar
from kdsearch.spec import grid_value


@functools.cache
def _float(low: float, high: float, log: bool, step: float | None) -> FloatDistribution:
    return FloatDistribution(low, high, log=log, step=step)


@functools.cache
def _int(low: int, high: int, log: bool, step: int) -> IntDistribution:
    return IntDistribution(low, high, log=log, step=step)


class Draw:
    """A trial for `space.suggest`: every value is drawn evenly, in the logarithm where the range is in it.

    With a parent each of its values is kept, where it still applies, with probability 1 - `change`.
    """

    def __init__(
        self, rng: np.random.Generator, parent: Mapping[str, Scalar] | None = None, change: float = 0.0
    ) -> None:
        self._rng, self._parent, self._change = rng, parent or {}, change
        self.params: dict[str, Scalar] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        distribution = _float(low, high, log, step)

        def fresh() -> float:
            if step is not None:
                num_steps = round((distribution.high - low) / step)
                return grid_value(low, step, int(self._rng.integers(num_steps + 1)))
            if log:
                value = math.exp(self._rng.uniform(math.log(low), math.log(high)))
                return min(max(value, low), high)
            return float(self._rng.uniform(low, high))

        return float(self._take(name, distribution, fresh))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        distribution = _int(low, high, log, step)

        def fresh() -> int:
            if log:
                value = math.exp(self._rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))
                return min(max(round(value), low), high)
            return low + step * int(self._rng.integers((high - low) // step + 1))

        return int(self._take(name, distribution, fresh))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        distribution = CategoricalDistribution(choices)
        return self._take(name, distribution, lambda: choices[int(self._rng.integers(len(choices)))])

    def _take(self, name: str, distribution: BaseDistribution, fresh: Callable[[], Any]) -> Any:
        if name not in self.params:
            is_kept = name in self._parent and self._rng.random() >= self._change
            self.params[name] = self._parent[name] if is_kept else fresh()
            self.distributions[name] = distribution
        return self.params[name]
