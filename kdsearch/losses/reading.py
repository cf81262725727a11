"""What methods read of their teacher, and so how much of it has to run, and whether files can take its place.

Goes in: the methods that a trial, or one of its epochs, has in force. Comes out: a `Reading`. Importable
without torch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kdsearch import layer_map
from kdsearch.losses import METHODS
from kdsearch.records import Choice

ANSWERS = frozenset({"logits", "embedding"})
OF_THE_BATCH = frozenset({"labels", "indices"})


@dataclass(frozen=True)
class Reading:
    """What some methods read of a teacher together.

    `fields` are those of its outputs, features among them, and the kinds of its details; none where no
    method reads it. `deepest` is the number of the last stage of which a map or a detail is read. `is_kept`:
    all of it can be kept for each image: answers, and what a method makes of a map.
    """

    fields: frozenset[str]
    deepest: int
    is_kept: bool

    @property
    def answers(self) -> bool:
        """Whether anything behind the last stage is read."""
        return bool(self.fields & ANSWERS)

    @property
    def details(self) -> frozenset[str]:
        return self.fields - ANSWERS - {"features"}


def reading(choices: Collection[Choice], num_student: int, num_teacher: int) -> Reading:
    """What these methods read of a teacher, with so many stages on both sides."""
    fields = frozenset[str]().union(*map(fields_read, choices))
    deepest = max((_deepest(choice, num_student, num_teacher) for choice in choices), default=0)
    return Reading(fields, deepest, bool(fields) and not any(map(reads_maps, choices)))


def fields_read(choice: Choice) -> frozenset[str]:
    """The fields of the teacher's outputs that a method reads, and the kinds of details.

    One that compares embeddings or maps reads those that its layer map names.
    """
    method = METHODS[choice.name]
    if not method.teacher:
        return frozenset()
    fields = method.needs - OF_THE_BATCH
    option = method.options.get("layer_map")
    if option is None or option.default != layer_map.EMBEDDING:
        return fields
    is_embedding = choice.options.get("layer_map", option.default) == layer_map.EMBEDDING
    return fields - {"features" if is_embedding else "embedding"}


def reads_maps(choice: Choice) -> bool:
    """Whether a method reads whole maps: a thousand times the answers, they are not kept."""
    summarised = {"features"} if METHODS[choice.name].summarises else set()
    return not fields_read(choice) <= ANSWERS | summarised


def _deepest(choice: Choice, num_student: int, num_teacher: int) -> int:
    if not fields_read(choice) - ANSWERS:
        return 0
    option = METHODS[choice.name].options.get("layer_map")
    if option is None:
        return num_teacher
    text = choice.options.get("layer_map", option.default)
    return max(teacher for _, teacher in layer_map.parse(text, num_student, num_teacher))
