"""Which stages of student and teacher a feature method compares.

Goes in: a map's text (`"stage1>stage2,stage3>stage3"`, student first), its name (`last`, `uniform`, `skip`,
`one_to_one`, `all`) or one target per student stage, and both stage counts. Comes out: sorted, unique pairs
of stage numbers that count from 1 and never cross, so that equal sets of pairs are one map.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence

Pairs = tuple[tuple[int, int], ...]

NAMES = ("all", "last", "one_to_one", "skip", "uniform")
EMBEDDING = "embedding"  # for methods that offer it by default: what feeds the classifiers, no stage at all
SEARCHED = "searched"  # a word of the spec only: the search picks every student stage's partner

_PAIR = re.compile(r"\s*stage(\d+)\s*>\s*stage(\d+)\s*")


def parse(text: str, num_student: int, num_teacher: int, words: Sequence[str] = ()) -> Pairs:
    """The pairs of a map's text or name. Raises ValueError saying what is wrong and what is allowed.

    `words` are allowed where the text stands, too, without being any map's name: said, not read.
    """
    if text in NAMES:
        return named(text, num_student, num_teacher)
    pairs = []
    for part in text.split(","):
        match = _PAIR.fullmatch(part)
        if match is None:
            known = sorted({*NAMES, *words})
            close = difflib.get_close_matches(text, known, 1)
            raise ValueError(
                f"{part.strip()!r} is not a pair of stages: write student>teacher, as in stage1>stage2,"
                f"stage3>stage3, or one of {', '.join(known)}"
                + "".join(f"; nearest: {name}" for name in close)
            )
        pair = (int(match[1]), int(match[2]))
        for side, stage, count in zip(("student", "teacher"), pair, (num_student, num_teacher), strict=True):
            if not 1 <= stage <= count:
                stages = "stage1" if count == 1 else f"stage1 to stage{count}"
                nearest = min(max(stage, 1), count)
                raise ValueError(f"the {side} has no stage{stage}, it has {stages}; nearest: stage{nearest}")
        pairs.append(pair)
    return _checked(pairs)


def to_text(pairs: Pairs) -> str:
    """The canonical text, `"stage1>stage2,stage3>stage3"`."""
    return ",".join(f"stage{student}>stage{teacher}" for student, teacher in pairs)


def named(name: str, num_student: int, num_teacher: int) -> Pairs:
    """The pairs of a named map.

    `last` compares the last stages; `uniform` gives student stage i the teacher's ceil(i * nt / ns);
    `skip` is every second pair of `uniform`, counted back from the last; `one_to_one` pairs as many stages as
    both have, counted back from the last, none twice; `all` adds to `uniform` its mirror image, so that every
    stage of both takes part.
    """
    uniform = [(stage, _ceil(stage * num_teacher, num_student)) for stage in range(1, num_student + 1)]
    mirrored = [(_ceil(stage * num_student, num_teacher), stage) for stage in range(1, num_teacher + 1)]
    backwards = [(num_student - n, num_teacher - n) for n in range(min(num_student, num_teacher))]
    maps = {
        "all": uniform + mirrored,
        "last": uniform[-1:],
        "one_to_one": backwards,
        "skip": uniform[::-2],
        "uniform": uniform,
    }
    return _checked(maps[name])


def from_choices(targets: Sequence[int], num_teacher: int) -> Pairs:
    """A searched map: one teacher stage per student stage, 0 for none.

    A target below an earlier one is raised to it, so every choice is a valid map; all zero means `last`.
    """
    pairs, highest = [], 0
    for stage, target in enumerate(targets, start=1):
        if target:
            highest = max(highest, target)
            pairs.append((stage, highest))
    return _checked(pairs) if pairs else named("last", len(targets), num_teacher)


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def _checked(pairs: Sequence[tuple[int, int]]) -> Pairs:
    """Sorted and unique; ValueError where an earlier student stage meets a later teacher stage."""
    ordered = tuple(sorted(set(pairs)))
    for earlier, later in itertools.pairwise(ordered):
        if later[1] < earlier[1]:
            raise ValueError(
                f"{to_text((earlier,))} and {to_text((later,))} cross: a later stage of the student "
                "cannot meet an earlier one of the teacher"
            )
    return ordered
