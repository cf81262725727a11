"""The test split on its way to the one trial that may open it.

Goes in: the split, read once. Comes out: the split again, for a task whose opening is journalled already.
"""

from __future__ import annotations

from typing import Protocol

from kdsearch.data import Split


class SealedError(RuntimeError):
    """A trial reached for the test split that may not: a mistake in the program, never of a spec."""


class Opener(Protocol):
    """What is asked of a task."""

    @property
    def trial_id(self) -> str: ...
    @property
    def opens_test(self) -> bool: ...


class SealedTest:
    """A test split that opens for confirmation alone. None stands for a data set that has none."""

    def __init__(self, split: Split | None) -> None:
        self._split = split

    def __len__(self) -> int:
        return 0 if self._split is None else len(self._split)

    def open(self, task: Opener) -> Split:
        """Raises SealedError unless the task's opening was allowed, which is when it was journalled."""
        if not task.opens_test or self._split is None:
            raise SealedError(f"{task.trial_id} may not open the test split: only confirmation does")
        return self._split
