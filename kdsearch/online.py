"""Students that learn from one another in one trial, importable without torch.

Goes in: a student and an online method, `distill.online` of the spec. Comes out: the architectures that are
trained together. `ONLINE` is the table behind `distill.online`; `kdsearch.mutual` trains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdsearch.models import family
from kdsearch.options import Option
from kdsearch.records import Choice, TrialConfig


@dataclass(frozen=True)
class Online:
    """One entry of the table. Every one has `peers`, the number of students, and `peer_width`."""

    doc: str
    options: Mapping[str, Option] = field(default_factory=dict)


SIZES = ("peer_width", "peers")  # the options that decide what is trained, and not how

# Sorted by key.
ONLINE: dict[str, Online] = {
    "dml": Online(
        "Deep mutual learning: peers are trained side by side, each from the labels and from the others' "
        "predictions. Zhang, Xiang, Hospedales and Lu, CVPR 2018, arXiv 1706.00384.",
        {
            "peer_width": Option(
                "float",
                1.0,
                "width of each further peer over that of the one before it: at 0.5 three peers have the "
                "student's width, half and a quarter of it; 1 makes them equal, as in most of the paper",
                low=0.1,
                high=10.0,
            ),
            "peers": Option(
                "int", 2, "students trained together, the trial's own included; 2 in the paper", low=2, high=8
            ),
            "temperature": Option(
                "float", 1.0, "softens both sides of the mutual term; 1 in the paper", low=0.01, high=1000.0
            ),
            "weight": Option(
                "float",
                1.0,
                "weight of the mutual term in every peer's loss; 1 in the paper",
                low=0.0,
                high=1000.0,
            ),
        },
    ),
}


def settings(online: Choice) -> dict[str, Any]:
    """The method's options, defaults filled in. Raises KeyError for an unknown method."""
    defaults = {name: option.default for name, option in ONLINE[online.name].options.items()}
    return {**defaults, **online.options}


def peers(student: Choice, online: Choice) -> tuple[Choice, ...]:
    """The architectures that are trained together, the given one first; it alone where `online` is none.

    Raises KeyError where widths differ and the family has no width.
    """
    if online.name == "none":
        return (student,)
    given = settings(online)
    return tuple(_scaled(student, given["peer_width"] ** position) for position in range(given["peers"]))


def configs(config: TrialConfig) -> tuple[TrialConfig, ...]:
    """The trial's configuration with each of its students in turn."""
    return tuple(
        dataclasses.replace(config, student=student) for student in peers(config.student, config.online)
    )


def _scaled(student: Choice, factor: float) -> Choice:
    if factor == 1:
        return student
    width = student.options.get("width", family(student.name).options["width"].default)
    return Choice(student.name, {**student.options, "width": round(width * factor, 6)})
