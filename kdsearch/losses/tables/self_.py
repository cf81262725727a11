"""Self-distillation: a student that learns from itself, without a teacher.

Goes in: nothing. Comes out: the entries of METHODS for the slot `self`, without torch.
"""

from __future__ import annotations

from kdsearch.losses.method import Method

# Sorted by key.
SELF: dict[str, Method] = {}
