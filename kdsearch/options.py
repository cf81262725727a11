"""What a table entry says about one of its settings, without importing torch.

Goes in: nothing. Comes out: `Option`, the type that METHODS, FAMILIES, DATASETS and the `train:`
section use to publish their settings, so that a spec is checked before anything is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


class Required:
    """The default of an option that the user must set."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = Required()


@dataclass(frozen=True)
class Option:
    """One setting of a method, family, dataset or recipe.

    `low` and `high` are inclusive bounds; `choices` lists the allowed words. `searchable` is False
    where a distribution makes no sense (a list, a path). `doc` gives meaning, unit and source. `numbers` are
    one or several: a number, or a list of them.
    """

    type: Literal["float", "int", "str", "bool", "list", "numbers"]
    default: Any = REQUIRED
    doc: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    searchable: bool = True
