"""What the description of a spec is made of: sections, listings, named sections and options.

Goes in: nothing. Comes out: the types that `spec_schema` and its parts are written in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdsearch.options import REQUIRED, Option


@dataclass(frozen=True)
class Section:
    """A mapping. `fields` are its own settings, filled with their defaults; `entries` are the names of a
    slot, of which only those given appear.

    A word in place of the mapping is the name of an entry, or else the value of the field `word`; `absent`
    is that word where the section is missing. `variants` adds fields by the value of one: (field, {value:
    fields}). `elsewhere` says of a name that is not known here where it belongs. Below a `fixed` section
    nothing can be searched. One with a `name` stands once in the JSON Schema, however often it is used.
    """

    doc: str
    fields: Mapping[str, Item] = field(default_factory=dict)
    entries: Mapping[str, Item] = field(default_factory=dict)
    variants: tuple[str, Mapping[str, Mapping[str, Option]]] = ("", {})
    word: str = ""
    absent: str = ""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    fixed: bool = False
    name: str = ""


@dataclass(frozen=True)
class Listing:
    """A list, each item one entry of the section, by its word or as `{name: {setting: value}}`."""

    doc: str
    item: Section


@dataclass(frozen=True)
class Named:
    """A mapping from names of the user's own to the section that each stands for, `low` of them at least."""

    doc: str
    item: Section
    low: int = 1


Item = Section | Listing | Named | Option


def fixed(kind: Any, default: Any = REQUIRED, doc: str = "", **bounds: Any) -> Option:
    """A setting that cannot be searched."""
    return Option(kind, default, doc, searchable=False, **bounds)


def seed(doc: str) -> Option:
    """A seed that a user may give."""
    return fixed("int", 0, doc, low=0, high=2**31 - 1)
