"""What a report says of teachers where there is more than one network that teaches.

Goes in: a `SweepRecord`. Comes out: blocks; none where a single network taught everyone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kdsearch import results, words
from kdsearch.document import Block, Heading, Paragraph, Table, literal
from kdsearch.losses.deployed import is_taught
from kdsearch.records import Choice, Event, SweepRecord, is_teacher, teacher_name

UNNAMED = "the teacher"


def introduced(sweep: SweepRecord) -> str:
    """The teacher, or all of them, in half a sentence."""
    found = [event for event in sweep.teachers.values() if is_teacher(event)]
    if not found:
        return "no teacher yet"
    if len(found) > 1:
        return f"a choice of teachers, {words.listed([_name(event) for event in found])}"
    return f"teacher {_network(found[0])} ({found[0]['source']})"


def teachers(sweep: SweepRecord) -> list[Block]:
    """Every network that teaches, how good it is and whom it learned from; what their students reached."""
    if len(sweep.teachers) < 2:
        return []
    rows = tuple(_row(sweep, event) for event in sweep.teachers.values())
    header = ("name", "what", "network", "learned from", "params", "smaller", "accuracy", "ECE", "epochs")
    reference = sweep.teacher
    compared = "" if reference is None else f", {_name(reference)}"
    return [
        Heading("Teachers"),
        Paragraph(
            "Retention and compression compare every student with the most accurate whole teacher"
            f"{compared}, whoever taught it. Smaller is the params of the one that it learned from over its "
            "own. Validation accuracies, one seed each."
        ),
        Table(header, "lllwrrrrr", rows),
        *_students(sweep),
    ]


def _row(sweep: SweepRecord, event: Event) -> tuple[str, ...]:
    above = sweep.teachers.get(event["learns_from"]) if "learns_from" in event else None
    lesson = event.get("lesson", {})
    learned = "" if above is None else f"{_name(above)}, temperature {words.number(lesson['temperature'])}"
    smaller = "" if above is None else words.times(above["params"] / event["params"])
    cells = (f"{event['params']:,}", smaller, f"{event['accuracy']:.4f}", f"{event['ece']:.3f}")
    return (_name(event), _what(event), _network(event), learned, *cells, f"{event['epochs']}")


def _name(event: Mapping[str, Any]) -> str:
    return literal(event.get("name") or UNNAMED)


def _what(event: Event) -> str:
    parts = event.get("of", [])
    if len(parts) == 1:
        return literal(parts[0])
    return "mean of them" if event.get("role") == "average" else "ensemble" if parts else _role(event)


def _role(event: Event) -> str:
    return str(event.get("role", "teacher"))


def _network(event: Event) -> str:
    parts = [part.split("/")[-1] for part in event.get("of", [])]
    if len(parts) > 1:
        return literal(f"mean of {words.listed(parts)}")
    return words.student(Choice(event["family"], event["options"]))


def _students(sweep: SweepRecord) -> list[Block]:
    """Completed search trials by the one that taught them, where they had different ones."""
    taught: dict[str, list[float]] = {}
    for trial in results.completed(sweep, "search"):
        if is_taught(trial.config):
            taught.setdefault(teacher_name(trial.config.teacher), []).append(results.accuracy(trial))
    if len(taught) < 2:
        return []
    rows = tuple(
        (
            literal(name or UNNAMED),
            f"{sweep.teachers[name]['accuracy']:.4f}" if name in sweep.teachers else "",
            f"{len(found)}",
            f"{math.fsum(found) / len(found):.4f}",
            f"{max(found):.4f}",
        )
        for name, found in sorted(taught.items())
    )
    header = ("taught by", "its accuracy", "students", "their mean", "their best")
    return [
        Heading("By teacher", 3),
        Paragraph(
            "Completed search trials of all sizes; the search tries more of what looks good, so these are no "
            "fair samples."
        ),
        Table(header, "lrrrr", rows),
    ]
