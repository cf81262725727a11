"""Terms that train by themselves at first, before the labels and everything else, importable without torch.

Goes in: a `TrialConfig`. Comes out: for how many epochs, and which terms are in an epoch's loss.
"""

from __future__ import annotations

import math

from kdsearch.losses import METHODS
from kdsearch.records import TrialConfig


def slots_in_force(config: TrialConfig, epoch: int) -> list[str]:
    """The slots whose terms are in an epoch's loss: one that trains alone, later all the others."""
    alone = {slot: _epochs_alone(config, slot) for slot in config.distill}
    first = [slot for slot, epochs in alone.items() if epoch <= epochs]
    return first or [slot for slot, epochs in alone.items() if not epochs]


def epochs_alone(config: TrialConfig) -> int:
    """How many epochs some term trains alone before anything else, the labels among it."""
    return max((_epochs_alone(config, slot) for slot in config.distill), default=0)


def _epochs_alone(config: TrialConfig, slot: str) -> int:
    """By the method's option `alone`, a share; never all: a student that saw no label is no student."""
    choice = config.distill[slot]
    option = METHODS[choice.name].options.get("alone")
    share = 0.0 if option is None else choice.options.get("alone", option.default)
    return min(math.ceil(share * config.train.epochs), config.train.epochs - 1)
