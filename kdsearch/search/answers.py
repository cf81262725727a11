"""One configuration out of given values: a trial that answers instead of choosing.

Goes in: a function from a name of Optuna's and its dimension to a value. Comes out: Optuna's params, every
one checked against its range, which Optuna's own enqueuing does not do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from kdsearch.records import Scalar
from kdsearch.spec import Categorical, Float, Int

_ON_GRID = 1e-6  # of a step: 0.1 + 0.2 is 0.3

Searched = Float | Int | Categorical


class MisfitError(ValueError):
    """A value lies outside of what the spec allows; the message has key, value and range."""


class Answers:
    """What `space.suggest` asks, answered. `params` are the answers so far.

    Raises MisfitError for an answer outside of its dimension: nothing is clipped.
    """

    def __init__(self, answer: Callable[[str, Searched], Any]) -> None:
        self._answer = answer
        self.params: dict[str, Scalar] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._take(name, Float(low, high, step, log)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._take(name, Int(low, high, step, log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, Categorical(tuple(choices)))

    def _take(self, name: str, dimension: Searched) -> Any:
        value = self._answer(name, dimension)
        if not lies_in(value, dimension):
            shown = "not set" if value is None else f"{value:g}" if isinstance(value, float) else value
            raise MisfitError(f"{name}: {shown}, here {_words(dimension)}")
        self.params[name] = value
        return value


def lies_in(value: Any, dimension: Searched) -> bool:
    """Whether a value is one that the dimension can take."""
    if isinstance(dimension, Categorical):
        return value in dimension.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    position = (value - dimension.low) / dimension.step if dimension.step else 0.0
    is_on_grid = math.isclose(position, round(position), abs_tol=_ON_GRID)
    return dimension.low <= value <= dimension.high and is_on_grid


def _words(dimension: Searched) -> str:
    if isinstance(dimension, Categorical):
        return f"one of {', '.join(map(str, dimension.choices))}"
    step = f" in steps of {dimension.step:g}" if dimension.step not in (None, 1) else ""
    return f"{dimension.low:g} to {dimension.high:g}{step}"
