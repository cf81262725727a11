"""YAML 1.2 values with the lines they stand on, and the problems found in them.

Goes in: a spec file, `--set a.b=v` overrides or plain Python values. Comes out: a tree of `Node`s, and a
`SpecError` that holds every `Problem` at once. PyYAML scans and composes; the scalars are read here, by
the core schema of YAML 1.2 (PyYAML itself reads 1e-3 as a string, no as False and 12:30 as 750).
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

# No spec comes near these; they stop a wrong file, a recursive alias or aliases of aliases of aliases.
MAX_BYTES = 1 << 20
MAX_NODES = 10_000
MAX_DEPTH = 32

Keys = tuple[str | int, ...]  # names and list positions on the way down from the root
Value: TypeAlias = "bool | int | float | str | list[Node] | dict[str, Node] | None"


@dataclass(frozen=True)
class Problem:
    """One thing to correct. `source` is the file or `--set a.b=v` (no line); `value` as it stands there."""

    source: str
    line: int | None
    key: str
    value: str
    allowed: str
    nearest: str = ""

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        text = ": ".join(part for part in (where, self.key, self.value, self.allowed) if part)
        return f"{text} (nearest: {self.nearest})" if self.nearest else text


class SpecError(ValueError):
    """A spec that cannot be used. `problems` are all that could be found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line or math.inf)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass
class Node:
    """A value and where it was written; the line is its key's. `text` is a scalar as it stands there."""

    value: Value
    source: str
    line: int | None = None
    text: str = ""

    def __str__(self) -> str:
        if isinstance(self.value, list):
            return f"[{', '.join(map(str, self.value))}]"
        return "{...}" if isinstance(self.value, dict) else self.text


class Problems:
    """Collects problems by key; where the key stands, and its value, are looked up in the tree."""

    def __init__(self, root: Node, found: Iterable[Problem] = ()) -> None:
        self._root = root
        self._found = list(found)

    def add(self, path: Keys, allowed: str, nearest: object = "", value: object = None) -> None:
        """A problem with the value at `path`, or, where there is none, with what encloses it."""
        node: Node | None = self._root
        holder = self._root
        for step in path:
            node = _child(node, step) if node else None
            holder = node or holder
        shown = str(value) if value is not None else str(node) if node and path else ""
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        problem = Problem(holder.source, holder.line, dotted(path), shown, allowed, str(nearest))
        if problem not in self._found:
            self._found.append(problem)

    def clean(self, key: str) -> bool:
        """Whether nothing was found at or below a dotted key."""
        return not any(f"{problem.key}.".startswith(f"{key}.") for problem in self._found)

    def raise_if_any(self) -> None:
        if self._found:
            raise SpecError(self._found)


def dotted(path: Keys) -> str:
    """`("data", "augment", 0)` as `data.augment[0]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def nearest_name(name: str, names: Iterable[str]) -> str:
    """The most similar of the names, else one that begins with it, abbreviates it or has a word of it."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    name = name.lower()
    similar = difflib.get_close_matches(name, by_lower, 1)
    longer = [candidate for candidate in by_lower if len(name) > 2 and candidate.startswith(name)]
    initials = "".join(word[0] for word in _words(name))
    shorter = [candidate for candidate in by_lower if len(initials) > 1 and candidate == initials]
    related = [candidate for candidate in by_lower if _words(name).keys() & _words(candidate).keys()]
    return next((by_lower[match] for match in similar + longer + shorter + related), "")


def _words(name: str) -> dict[str, None]:
    """Its parts, without a plural's s, in their order."""
    return dict.fromkeys(part.rstrip("s") for part in name.split("_") if part.rstrip("s"))


def read_file(path: str | os.PathLike[str]) -> tuple[Node, list[Problem]]:
    """The tree of a YAML file, as `read_text`. Raises SpecError when there is none to read."""
    file = Path(path)

    def refuse(what: str, line: int | None = None, nearest: str = "") -> SpecError:
        return SpecError([Problem(str(file), line, "", "", what, nearest)])

    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        there = {p.stem: p.name for p in file.parent.glob("*.y*ml")} if file.parent.is_dir() else {}
        nearest = there.get(nearest_name(file.stem, there), "")
        raise refuse("there is no such file", nearest=nearest) from None
    except IsADirectoryError:
        raise refuse("this is a folder: name a YAML file") from None
    except OSError as error:
        raise refuse(f"the file cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise refuse(f"more than {MAX_BYTES} bytes: this is not a spec")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refuse(f"byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8", line) from None
    return read_text(text, str(file))


def read_text(text: str, source: str, numbered: bool = True) -> tuple[Node, list[Problem]]:
    """The tree of a YAML text, and its equal keys and tags. Raises SpecError when it is not YAML.

    Without `numbered` the source stands for all of its lines.
    """
    return _TextReader(source, numbered).read(text)


class _TextReader:
    def __init__(self, source: str, numbered: bool) -> None:
        self._source = source
        self._numbered = numbered
        self._num_nodes = 0
        self._problems: list[Problem] = []

    def read(self, text: str) -> tuple[Node, list[Problem]]:
        try:
            tree = _Composer(text).get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            hint = ": indent with spaces, not tabs" if r"'\t'" in str(error.problem) else ""
            what = ", ".join(part for part in (error.context, error.problem) if part)
            raise self._error(mark.line + 1 if mark else 1, f"broken YAML: {what}{hint}") from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self._error(
                line, f"broken YAML: character #x{error.character:04x} is not allowed"
            ) from None
        if tree is None:
            return self._node({}, 1), []
        return self._convert(tree, tree.start_mark.line + 1, ()), self._problems

    def _convert(self, tree: yaml.Node, line: int, path: Keys) -> Node:
        self._num_nodes += 1
        if len(path) > MAX_DEPTH:
            raise self._error(
                line, f"nested deeper than {MAX_DEPTH} levels (an alias inside its own anchor?)"
            )
        if self._num_nodes > MAX_NODES:
            raise self._error(line, f"more than {MAX_NODES} values (aliases of aliases?)")
        if tree.tag not in (_PLAIN, _QUOTED, _COLLECTION):
            self._add(line, "tags are not allowed: write the plain value", path, tree.tag)
        if isinstance(tree, yaml.MappingNode):
            return self._convert_mapping(tree, line, path)
        if isinstance(tree, yaml.SequenceNode):
            items = enumerate(tree.value)
            return self._node([self._convert(i, i.start_mark.line + 1, (*path, n)) for n, i in items], line)
        value = tree.value if tree.tag == _QUOTED else _scalar(tree.value)
        return self._node(value, line, tree.value)

    def _convert_mapping(self, tree: yaml.MappingNode, line: int, path: Keys) -> Node:
        values: dict[str, Node] = {}
        for key_node, value_node in tree.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._add(key_line, "a key must be a word", path)
                continue
            key = key_node.value
            if key in values:
                self._add(key_line, f"a key can stand once: see also line {values[key].line}", (*path, key))
            else:
                values[key] = self._convert(value_node, key_line, (*path, key))
        return self._node(values, line)

    def _node(self, value: Value, line: int, text: str = "") -> Node:
        return Node(value, self._source, line if self._numbered else None, text)

    def _add(self, line: int, what: str, path: Keys = (), value: str = "") -> None:
        number = line if self._numbered else None
        self._problems.append(Problem(self._source, number, dotted(path), value, what))

    def _error(self, line: int, what: str) -> SpecError:
        self._add(line, what)
        return SpecError(self._problems)


def from_plain(value: Any, source: str) -> Node:
    """The tree of plain Python values, as `yaml.safe_load` or `json.loads` return them."""
    if isinstance(value, Mapping):
        return Node({str(key): from_plain(item, source) for key, item in value.items()}, source)
    if isinstance(value, list | tuple):
        return Node([from_plain(item, source) for item in value], source)
    return Node(value, source, text=str(value).lower() if isinstance(value, bool) else str(value))


def override(root: Node, setting: str) -> list[Problem]:
    """Apply one `a.b=v` in place. A word on the way to a new key gives way to a mapping."""
    source = f"--set {setting}"
    key, equals, text = setting.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        return [Problem(source, None, "", "", "write key=value, as in --set search.trials=50")]
    try:
        value, problems = read_text(text or "null", source, numbered=False)
    except SpecError as error:
        return error.problems
    holder = root
    for position, step in enumerate(steps):
        if isinstance(holder.value, list):
            holder_key = ".".join(steps[:position])
            return [Problem(source, None, holder_key, "", "this is a list: set it as a whole, as [a, b]")]
        if not isinstance(holder.value, dict):
            holder.value, holder.source, holder.line = {}, source, None
        if position == len(steps) - 1:
            holder.value[step] = value
        else:
            holder = holder.value.setdefault(step, Node({}, source))
    return [replace(problem, key=f"{key}.{problem.key}".strip(".")) for problem in problems]


def _child(node: Node, step: str | int) -> Node | None:
    if isinstance(node.value, dict):
        return node.value.get(str(step))
    if isinstance(node.value, list) and isinstance(step, int):
        return node.value[step]
    return None


_CONSTANTS = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    word: value
    for value, name in ((True, "true"), (False, "false"))
    for word in (name, name.title(), name.upper())
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,4000}")  # Python refuses to convert longer ones
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


def _scalar(text: str) -> bool | int | float | str | None:
    """A plain scalar by YAML 1.2's core schema."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OCTAL_OR_HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1) if text[-1] in "fFnN" else text)
    return text


_PLAIN, _QUOTED, _COLLECTION = "plain", "quoted", "collection"


class _Composer(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML up to its node tree. Nodes without a tag get one of the three above: any other is the user's."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # the stubs leave it untyped
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is not yaml.ScalarNode:
            return _COLLECTION
        return _PLAIN if implicit[0] else _QUOTED
