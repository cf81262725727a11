"""The values that dimensions can take.

Goes in: dimensions as `spec_read` read them. Comes out: single values, and sets of option values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from kdsearch.spec_read import Categorical, Dimension, Float, Int, grid_value

MAX_VALUES = 64  # of one dimension, beyond which its ends stand for it
MAX_SETS = 4096  # combinations of values, beyond which each dimension is looked at alone


def reachable(dimension: Dimension) -> list[Any]:
    """The values that a dimension can take; its ends alone where it is continuous or has too many."""
    match dimension:
        case Categorical(choices):
            return list(choices)
        case Int(low, high, step) if (high - low) // step < MAX_VALUES:
            return list(range(low, high + 1, step))
        case Float(low, high, step) if step and (high - low) / step < MAX_VALUES:
            return [grid_value(low, step, position) for position in range(round((high - low) / step) + 1)]
        case Int(low, high) | Float(low, high):
            return sorted({low, high})
        case _:
            return [dimension]


def option_sets(options: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Concrete option values that cover what can be reached: every combination where there are not too
    many, else every dimension's values beside the first of the others."""
    values = {name: reachable(dimension) for name, dimension in options.items()}
    if math.prod(map(len, values.values())) <= MAX_SETS:
        for combination in itertools.product(*values.values()):
            yield dict(zip(values, combination, strict=True))
        return
    first = {name: several[0] for name, several in values.items()}
    for name, several in values.items():
        yield from ({**first, name: value} for value in several)
