"""docs/spec.md: every key of a spec, from the description that the reader itself follows.

Goes in: `spec_schema.SPEC` and the tables of families and methods. Comes out: Markdown, on standard output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kdsearch.losses import METHODS, SLOTS
from kdsearch.models import FAMILIES, family
from kdsearch.options import REQUIRED, Option
from kdsearch.schema_items import Item, Listing, Named, Section
from kdsearch.spec_schema import DISTRIBUTIONS, SPEC

HEAD = """\
# What a spec may say

Written by `python -m kdsearch.reference` from the description by which a spec is read; a test keeps it
current. Editors know the same from `search_spaces/schema.json`.

A value is fixed, or, where the key has a star, searched:
`lr: {type: float, low: 0.01, high: 0.3, log: true}`. A slot takes a name, or a mapping from several names to
their settings, and then the name is searched, too. A file says at least `name`, `data`, `teacher`,
`student`, `train.epochs` and, with most samplers, `search.trials`.

"""

FAMILY_HEAD = """\
## Families

Of teachers and students. Stages are what layer maps count, here at the defaults. `torchvision/<name>` stands
for every classifier of torchvision.

| family | stages | what it is |
|---|---|---|
"""

METHODS_HEAD = """\
## Methods

What they are and when to try them is in [methods.md](methods.md). Every `response` method takes `alpha` and
`temperature`, too, in place of `distill.alpha` and `distill.temperature`.

"""

TABLE = "| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n"
TORCHVISION = "torchvision/resnet18"  # all of torchvision's have the same settings

Row = tuple[str, ...]


def page() -> str:
    """The whole page: the sections in the order of a file, then families and methods."""
    text = HEAD + _table("ranges", _distributions()) + "\n"
    seen: set[str] = set()
    for name, item in SPEC.fields.items():
        doc = "" if isinstance(item, Option) else f"{item.doc[:1].upper()}{item.doc[1:]}.\n\n"
        text += f"## `{name}`\n\n{doc}" + _table(name, _rows(item, name, seen, is_top=True)) + "\n"
    names = [*FAMILIES, TORCHVISION]
    text += FAMILY_HEAD + "".join(_family(name) for name in names) + "\n"
    settings = (row for name in names for row in _settings(_shown(name), family(name).options))
    text += _table("families", settings) + "\n"
    methods = sorted(METHODS.items(), key=lambda item: SLOTS.index(item[1].slot))
    of_methods = (row for name, m in methods for row in _settings(f"{m.slot}.{name}", m.options))
    return text + METHODS_HEAD + _table("methods", of_methods)


def _table(name: str, rows: Iterator[Row]) -> str:
    body = "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in rows)
    assert body, f"nothing is said of {name}"
    return TABLE + body


def _rows(item: Item, path: str, seen: set[str], *, is_top: bool = False) -> Iterator[Row]:
    """A row for every key at or below `path`; one that stands elsewhere, too, is written once."""
    match item:
        case Option():
            yield _row(path, item)
        case Listing():
            names = ", ".join(f"`{name}`" for name in item.item.entries)
            yield f"`{path}`", "list", "none", names, item.doc
            for name, entry in item.item.entries.items():
                yield from _rows(entry, f"{path}: {name}", seen, is_top=True)
        case Named():
            doc = f"{item.doc}; {item.item.doc}"
            yield f"`{path}.<name>`", "names of yours", "", f"at least {item.low}", doc
        case Section():
            if not is_top:
                yield f"`{path}`", "mapping", item.absent, _names(item), item.doc
            if item.name and item.name in seen:
                return
            seen.add(item.name)
            for name, field in item.fields.items():
                yield from _rows(field, f"{path}.{name}", seen)
            key, variants = item.variants
            for value, options in variants.items():
                for name, option in options.items():
                    yield _row(f"{path}.{name}", option, f" (where {key} is {value})")
            if is_top:
                yield from _family_rows(item, path, seen)
            for name, entry in item.entries.items():
                if not _is_elsewhere(name):
                    yield from _rows(entry, f"{path}.{name}", seen)


def _family_rows(section: Section, path: str, seen: set[str]) -> Iterator[Row]:
    """What a slot of families takes: their own settings are in a table of theirs."""
    families = {name: entry for name, entry in section.entries.items() if name in FAMILIES}
    if not families:
        return
    yield f"`{path}.<family>`", "mapping", "", "", "a [family](#families) with its settings"
    name, entry = next(iter(families.items()))
    assert isinstance(entry, Section)
    for key, field in entry.fields.items():
        if key not in FAMILIES[name].options:
            yield from _rows(field, f"{path}.<family>.{key}", seen)


def _is_elsewhere(name: str) -> bool:
    return name in FAMILIES or name in METHODS or name.startswith("torchvision/") or name == "none"


def _names(section: Section) -> str:
    """What a slot takes."""
    families = any(name in FAMILIES for name in section.entries)
    names = [f"`{name}`" for name in section.entries if name not in FAMILIES and "/" not in name]
    return ", ".join([*(["a family"] if families else []), *names])


def _settings(name: str, options: Mapping[str, Option]) -> Iterator[Row]:
    return (_row(f"{name}.{key}", option) for key, option in options.items())


def _shown(name: str) -> str:
    return "torchvision/<name>" if name == TORCHVISION else name


def _family(name: str) -> str:
    kind = family(name)
    defaults = {key: option.default for key, option in kind.options.items()}
    stages = "4, most of them" if name == TORCHVISION else str(len(kind.stages(defaults)))
    return f"| `{_shown(name)}` | {stages} | {kind.doc} |\n"


def _distributions() -> Iterator[Row]:
    return (
        _row(f"type: {kind}, {key}", option)
        for kind, of in DISTRIBUTIONS.items()
        for key, option in of.items()
    )


def _row(path: str, option: Option, more: str = "") -> Row:
    star = "*" if option.searchable and not path.startswith(("type", "name")) else ""
    default = "required" if option.default is REQUIRED else _value(option.default)
    return f"`{path}`{star}", option.type, default, _allowed(option), option.doc + more


def _allowed(option: Option) -> str:
    if option.choices is not None:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    low, high = (None if end is None else f"{end:.10g}" for end in (option.low, option.high))
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"from {low}" if low is not None else f"to {high}" if high is not None else ""


def _value(value: object) -> str:
    match value:
        case None | () | []:
            return "-"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.5g}"
        case list() | tuple():
            return ", ".join(map(_value, value))
    return str(value)


if __name__ == "__main__":
    print(page(), end="")
