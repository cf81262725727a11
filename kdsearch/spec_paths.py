"""Files and folders that a spec names and that are not there: said at once, before anything is imported.

Goes in: the YAML file and the overrides of a spec that `kdsearch.spec.load` accepts. Comes out: nothing, or a
`SpecError` with the line of every one. What is in them is for whoever reads them to say.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kdsearch.spec_yaml import Keys, Node, Problems, nearest_name, override, read_file

# Data sets whose `root` must be there; the others are fetched into it, or say themselves how to get them.
FROM_FOLDER = "image_folder"
CHECKPOINT = "checkpoint"


def check_paths(path: str | os.PathLike[str], overrides: Iterable[str] = (), resumes: bool = False) -> None:
    """Raise SpecError for what is missing. A sweep that resumes has read its warm start already."""
    root, _ = read_file(path)
    for setting in overrides:
        override(root, setting)
    problems = Problems(root)
    for keys, text in _named(dict(_values(root, ())), resumes):
        place = Path(text).expanduser()
        if not os.path.exists(place):
            problems.add(keys, f"{text}: there is no such file or folder", _nearest(place), value="")
    problems.raise_if_any()


def _named(values: Mapping[Keys, Node], resumes: bool) -> Iterator[tuple[Keys, str]]:
    """Every path that has to be there, with its key."""
    for keys, node in values.items():
        match keys:
            case ("data", "dataset") if node.value == FROM_FOLDER:
                root = values.get(("data", "root"))
                yield ("data", "root"), root.text if root else "data"
            case ("data", "unlabelled", "folder") if node.value is not None:
                yield keys, node.text
            case ("teacher", *_, last) if last == CHECKPOINT and node.value is not None:
                yield keys, node.text
            case ("search", "warm_start", int()) if not resumes:
                yield keys, node.text


def _values(node: Node, keys: Keys) -> Iterator[tuple[Keys, Node]]:
    """The scalars below a node, by key."""
    if isinstance(node.value, dict):
        for name, child in node.value.items():
            yield from _values(child, (*keys, name))
    elif isinstance(node.value, list):
        for position, child in enumerate(node.value):
            yield from _values(child, (*keys, position))
    else:
        yield keys, node


def _nearest(place: Path) -> str:
    """What is there under a similar name."""
    try:
        name = nearest_name(place.name, os.listdir(place.parent))
    except OSError:
        return ""
    return str(place.parent / name) if name else ""
