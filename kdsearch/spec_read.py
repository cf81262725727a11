"""A tree of nodes read by a description: checked values with their defaults filled in.

Goes in: a `Node` tree and an item of `spec_schema.SPEC`. Comes out: plain dicts, tuples, scalars and
distributions. What is wrong is added to `Problems` and read as `INVALID`, so that one reading finds all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from kdsearch.options import REQUIRED, Option
from kdsearch.records import Scalar
from kdsearch.schema_items import Item, Listing, Named, Section
from kdsearch.spec_schema import DISTRIBUTIONS, distribution_types
from kdsearch.spec_yaml import Keys, Node, Problems, nearest_name


@dataclass(frozen=True)
class Float:
    """A searched float, both ends included. `step` and `log` exclude each other."""

    low: float
    high: float
    step: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Int:
    """A searched int, both ends included. `log` goes with step 1 only."""

    low: int
    high: int
    step: int = 1
    log: bool = False


@dataclass(frozen=True)
class Categorical:
    """A searched choice among at least one value."""

    choices: tuple[Scalar, ...]


Distribution = Float | Int | Categorical
Dimension = Scalar | Distribution | None  # None: an option that is not set


def grid_value(low: float, step: float, position: int) -> float:
    """`low + position * step` in decimals, so that 0.1, 0.2, 0.3 end as they are written."""
    return float(Decimal(str(low)) + position * Decimal(str(step)))


INVALID = object()  # in place of a value that has a problem


def read(item: Item, node: Node | None, path: Keys, problems: Problems, searchable: bool = True) -> Any:
    """The value of `node` (None: not given) as `item` describes it."""
    match item:
        case Option():
            return _read_option(item, node, path, problems, searchable)
        case Listing():
            return _read_listing(item, node, path, problems)
        case Named():
            return _read_named(item, node, path, problems, searchable)
        case Section():
            return _read_section(item, node, path, problems, searchable and not item.fixed)


def _read_section(
    section: Section, node: Node | None, path: Keys, problems: Problems, searchable: bool
) -> Any:
    given = _given(section, node)
    if given is None:
        shapes = "a name, or a mapping with" if section.entries else "a mapping with"
        problems.add(path, f"{shapes} {_names({**section.fields, **section.entries})}")
        return INVALID
    chosen_by, variants = section.variants
    chosen = given[chosen_by].text if chosen_by in given else ""
    fields: dict[str, Item] = {**section.fields, **variants.get(chosen, {})}
    known = {**fields, **section.entries}
    is_word = node is not None and _is_scalar(node)
    for name in sorted(given.keys() - known.keys()):
        where = path if is_word else (*path, name)
        if name in section.elsewhere:
            problems.add(where, section.elsewhere[name])
        else:
            problems.add(where, f"unknown; allowed: {_names(known) or 'nothing'}", nearest_name(name, known))
    entries = {name: entry for name, entry in section.entries.items() if name in given}
    if not fields and section.entries and not given:
        problems.add(path, f"missing; allowed: {_names(known)}")

    def below(name: str) -> Keys:
        return path if is_word and name == section.word else (*path, name)

    # Fields and entries come in the table's order, so that the order in the file decides nothing.
    return {
        name: read(part, given.get(name), below(name), problems, searchable)
        for name, part in {**fields, **entries}.items()
    }


def _given(section: Section, node: Node | None) -> Mapping[str, Node] | None:
    """The keys that are given. A word is short for the entry it names, or for the section's main field."""
    if node is None:
        return {section.absent: Node(None, "")} if section.absent else {}
    if node.value is None:
        return {}
    if isinstance(node.value, dict):
        return node.value
    if isinstance(node.value, list):
        return None
    if section.entries:
        return {node.text: Node(None, node.source, node.line)}
    return {section.word: node} if section.word else None


def _read_listing(listing: Listing, node: Node | None, path: Keys, problems: Problems) -> Any:
    """A tuple of (name, settings)."""
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, list):
        problems.add(path, f"a list of {_names(listing.item.entries)}, as in [a, b: {{setting: value}}]")
        return INVALID
    items: list[tuple[str, Any]] = []
    for position, item in enumerate(node.value):
        if isinstance(item.value, dict) and len(item.value) > 1:
            problems.add((*path, position), "one name an item: start a new item for each")
        else:
            entry = _read_section(listing.item, item, (*path, position), problems, searchable=False)
            items += entry.items() if isinstance(entry, dict) else []
    return tuple(items)


def _read_named(named: Named, node: Node | None, path: Keys, problems: Problems, searchable: bool) -> Any:
    """The sections by name, in the order of the names, so that the order in the file decides nothing."""
    given = node.value if node is not None else None
    if not isinstance(given, dict) or len(given) < named.low:
        problems.add(path, f"{named.low} or more, by names of your own, as in {{a: ..., b: ...}}")
        return INVALID
    for name in given:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name):
            nearest = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-")[:40]
            problems.add((*path, name), "a name: up to 40 letters, digits and . _ -", nearest)
    return {
        name: _read_section(named.item, given[name], (*path, name), problems, searchable)
        for name in sorted(given)
    }


def _read_option(option: Option, node: Node | None, path: Keys, problems: Problems, searchable: bool) -> Any:
    if node is None:
        if option.default is REQUIRED:
            problems.add(path, f"missing: {allowed_values(option)} ({option.doc})")
            return INVALID
        return option.default
    if node.value is None and option.default is None:
        return None
    searchable = searchable and option.searchable
    if isinstance(node.value, dict) and searchable:
        return _read_distribution(option, node, node.value, path, problems)
    value, nearest = _check(option, node)
    if value is INVALID:
        hint = ""
        if isinstance(node.value, dict):
            hint = " (nothing can be searched here)"
        elif isinstance(node.value, list) and searchable:
            hint = f"; to search, {{type: categorical, choices: {node}}}"
        problems.add(path, allowed_values(option) + hint, nearest)
    return value


def _read_distribution(
    option: Option, node: Node, given: Mapping[str, Node], path: Keys, problems: Problems
) -> Any:
    types = distribution_types(option)
    kind = given["type"].text if "type" in given else ""
    if kind not in types:
        allowed = f"a distribution here has type: {' or '.join(types)}"
        problems.add((*path, "type"), allowed, nearest_name(kind, types))
        return INVALID
    fields = {"type": Option("str"), **DISTRIBUTIONS[kind]}
    for end in {"low", "high"} & fields.keys():
        fields[end] = replace(option, default=REQUIRED, doc=fields[end].doc)
    settings = _read_section(Section("", fields), node, path, problems, searchable=False)
    if INVALID in settings.values():
        return INVALID
    del settings["type"]
    if kind == "categorical":
        return _read_choices(option, given["choices"], (*path, "choices"), problems)
    wrong = _range_problem(**settings)
    if wrong:
        end, allowed, nearest = wrong
        problems.add((*path, end), allowed, nearest)
        return INVALID
    return Float(**settings) if kind == "float" else Int(**settings)


def _read_choices(option: Option, node: Node, path: Keys, problems: Problems) -> Any:
    assert isinstance(node.value, list)
    choices: list[Any] = []
    for position, item in enumerate(node.value):
        value, nearest = _check(option, item)
        if value is INVALID:
            problems.add((*path, position), allowed_values(option), nearest)
        elif value in choices:
            problems.add((*path, position), "a choice can stand once")
        choices.append(value)
    return INVALID if INVALID in choices else Categorical(tuple(choices))


def _range_problem(low: float, high: float, step: float | None, log: bool) -> tuple[str, str, object] | None:
    """Which of a range's settings is wrong, what is allowed, and the nearest valid value."""
    if high < low:
        return "high", f"must not be below low, {low:g}", f"{low:g}"
    if log and low <= 0:
        return "low", "must be above 0 where log is true", ""
    if log and step not in (None, 1):
        return "step", "cannot stand beside log: leave one out", ""
    if step is not None and step <= 0:
        return "step", "must be above 0", ""
    if step is not None:
        exact_low, exact_high, exact_step = (Decimal(str(number)) for number in (low, high, step))
        beyond = (exact_high - exact_low) % exact_step
        if beyond:
            nearest = type(high)(exact_high - beyond)
            return "high", f"must be low plus a multiple of step, {low:g} + n * {step:g}", nearest
    return None


def _check(option: Option, node: Node) -> tuple[Any, object]:
    """The value of a scalar or list, or INVALID and the nearest valid value where there is one."""
    value = node.value
    match option.type:
        case "list":
            items = value if isinstance(value, list) else [node]
            if items is not value or len(items) < (option.low or 0) or not all(map(_is_scalar, items)):
                return INVALID, ""
            return tuple(item.value for item in items), ""
        case "numbers":
            items = value if isinstance(value, list) else [node]
            numbers = [_check_number(option, item) for item in items]
            wrong = [nearest for number, nearest in numbers if number is INVALID]
            if wrong or not numbers:
                return INVALID, next(iter(wrong), "")
            return tuple(number for number, _ in numbers), ""
        case "bool":
            nearest = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(node.text.lower(), "")
            return (value, "") if isinstance(value, bool) else (INVALID, nearest)
        case "str":
            if not _is_scalar(node):
                return INVALID, ""
            if option.choices is None or node.text in option.choices:
                return node.text, ""
            return INVALID, nearest_name(node.text, option.choices)
        case _:
            return _check_number(option, node)


def _check_number(option: Option, node: Node) -> tuple[Any, object]:
    value = node.value
    try:
        number = float(value if isinstance(value, int | float) and not isinstance(value, bool) else node.text)
    except (ValueError, OverflowError):
        return INVALID, ""
    if not math.isfinite(number):
        return INVALID, ""
    low = -math.inf if option.low is None else option.low
    high = math.inf if option.high is None else option.high
    kinds = (int,) if option.type == "int" else (int, float)
    if type(value) in kinds and low <= number <= high:
        return (value if option.type == "int" else number), ""
    nearest = min(max(number, low), high)
    if option.type != "int":
        return INVALID, _digits(nearest)
    return INVALID, int(Decimal(str(nearest)).to_integral_value())  # 1e30 is not whole: written out


def _is_scalar(node: Node) -> bool:
    return node.value is not None and not isinstance(node.value, list | dict)


def allowed_values(option: Option) -> str:
    """What an option takes, in words."""
    if option.choices is not None:
        return f"one of {', '.join(option.choices)}"
    kinds = {
        "float": "a number",
        "int": "a whole number",
        "str": "text",
        "bool": "true or false",
        "list": "a list",
        "numbers": "a number, or a list of numbers,",
    }
    if option.low is not None and option.high is not None:
        return f"{kinds[option.type]} from {_digits(option.low)} to {_digits(option.high)}"
    return kinds[option.type] + ("" if option.low is None else f" of at least {_digits(option.low)}")


def _digits(number: float) -> str:
    return f"{number:.0f}" if number == round(number) and abs(number) < 1e15 else f"{number:g}"


def _names(known: Iterable[str]) -> str:
    """Names for a reader; torchvision's eighty are one."""
    return ", ".join(dict.fromkeys("torchvision/<name>" if "/" in name else name for name in known))
