"""The one source of randomness for views, order and splits: a hash of counters, without any state.

Goes in: integers (a seed or stream, an epoch, samples, a purpose), plain or int64 tensors. Comes out: 64
well-mixed bits for each, as int64. The same counters give the same bits in any batch, process, device and
torch version, so nothing needs to be saved to resume, and a teacher's outputs can be cached by counters.
"""

from __future__ import annotations

from enum import IntEnum
from functools import reduce

import torch
from torch import Tensor


class Purpose(IntEnum):
    """The last counter, so that no two decisions share bits. Never renumber: every split and view changes."""

    TEST_SPLIT = 0
    VALIDATION_SPLIT = 1
    SUBSET = 2
    ORDER = 3
    CROP_ROW = 4
    CROP_COLUMN = 5
    FLIP = 6
    CUTOUT_ROW = 7
    CUTOUT_COLUMN = 8
    MIXUP_PARTNER = 9
    MIXUP_WEIGHT = 10
    STRONG = 11


def _signed(value: int) -> int:
    """The int64 with the lowest 64 bits of this integer: Python's numbers wrap as tensors do."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


# splitmix64 (Steele, Lea and Flood, OOPSLA 2014): its increment (2^64 / golden ratio) and the two
# multipliers of its finaliser (Stafford's variant 13).
_INCREMENT = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def counter_hash(*counters: Tensor | int) -> Tensor:
    """64 mixed bits (int64) for the counters, folded in from left to right; tensors broadcast."""
    # Not zero: splitmix64's finaliser maps 0 to 0.
    return reduce(fold_in, counters, torch.tensor(_INCREMENT))


def fold_in(bits: Tensor, counter: Tensor | int) -> Tensor:
    """One more counter on top of hashed `bits`: splitmix64's output `counter` steps on; shapes broadcast."""
    steps = counter * _INCREMENT if isinstance(counter, Tensor) else _signed(counter * _INCREMENT)
    bits = bits + steps
    bits = (bits ^ _shift_right(bits, 30)) * _MULTIPLIERS[0]
    bits = (bits ^ _shift_right(bits, 27)) * _MULTIPLIERS[1]
    return bits ^ _shift_right(bits, 31)


def below(bits: Tensor, limit: int | Tensor) -> Tensor:
    """Bits -> integers uniform in [0, limit), limit < 2^31; the bias is under limit / 2^32."""
    return (_shift_right(bits, 32) * limit) >> 32


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """Logical shift: torch's >> on int64 copies the sign bit."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
