"""Seeds from named parts, so that every random choice of a training has a stream of its own.

Goes in: a trial's seed and names. Comes out: a seed for torch, or torch's global generator set for a while.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derived_seed(*parts: int | str) -> int:
    """A seed for torch from named parts: independent streams from one seed, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@contextlib.contextmanager
def seeded(device: torch.device, *parts: int | str) -> Iterator[None]:
    """Within, torch's global generator is seeded from the parts; after, it is as it was before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed = derived_seed(*parts)
        if device.type == "cuda":
            torch.manual_seed(seed)
        else:  # torch.manual_seed would note down a stack trace for every kind of device
            torch.default_generator.manual_seed(seed)
        yield
