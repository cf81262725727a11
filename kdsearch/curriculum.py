"""Which share of the samples an epoch trains on, importable without torch.

Goes in: a `TrialConfig` and an epoch. Comes out: a share of the training samples. `CURRICULA` is the table
behind the spec's `distill.curriculum`; `kdsearch.confidence` picks the samples. Epochs count from 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from kdsearch.options import Option
from kdsearch.records import TrialConfig


@dataclass(frozen=True)
class Curriculum:
    """One entry of the table: its settings, what it does and where it comes from."""

    doc: str
    options: Mapping[str, Option] = field(default_factory=dict)


# Sorted by key.
CURRICULA: dict[str, Curriculum] = {
    "confidence": Curriculum(
        "first the samples of which the teacher is surest, then more, then all; within each class, so that "
        "no class is missing. Bengio et al., ICML 2009; a teacher as the judge: Weinshall et al., ICML 2018, "
        "arXiv 1802.03796; hard_to_easy is the control of Hacohen and Weinshall, ICML 2019, arXiv 1904.03626",
        {
            "start": Option("float", 0.5, "share of the samples in the first epoch", low=0.01, high=1.0),
            "share": Option("float", 0.5, "share of the epochs until all samples are in", low=0.0, high=1.0),
            "order": Option(
                "str", "easy_to_hard", "which samples come first", choices=("easy_to_hard", "hard_to_easy")
            ),
        },
    ),
    "none": Curriculum("every epoch trains on all samples"),
}


def share_in(config: TrialConfig, epoch: int) -> float:
    """The share of the training samples in an epoch: from `start` in a straight line up to 1.

    All are in from epoch ceil(share * epochs) on, so in the last one at the latest.
    """
    name, options = config.curriculum.name, config.curriculum.options
    if name == "none":
        return 1.0
    given = {key: option.default for key, option in CURRICULA[name].options.items()} | dict(options)
    full = math.ceil(given["share"] * config.train.epochs)
    if epoch >= full:
        return 1.0
    return float(given["start"] + (1.0 - given["start"]) * (epoch - 1) / (full - 1))
