"""Methods of search trials against what their size alone gives: a weak comparison, named as such.

Goes in: a `SweepRecord`. Comes out: for every combination of methods how far its completed trials lie above
the no-KD floor. Where paired controls exist they say more (`confirmation`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdsearch import results, statistics
from kdsearch.confirmation import floors
from kdsearch.records import SweepRecord, TrialRecord
from kdsearch.statistics import Estimate


@dataclass(frozen=True)
class Method:
    """`difference` is the mean over completed trials of accuracy less floor, with Student's t interval."""

    label: str
    num_completed: int
    num_stopped: int
    num_failed: int
    difference: Estimate | None

    @property
    def verdict(self) -> str:
        """`statistics.verdict`; blank where no trial was completed."""
        return statistics.verdict(self.difference) if self.difference else ""


def methods(sweep: SweepRecord) -> list[Method]:
    """The smallest difference first; those without a completed trial last. Empty without a floor."""
    known = floors(sweep)
    if not known:
        return []
    by_label: dict[str, list[TrialRecord]] = {}
    for trial in results.students(sweep, "search"):
        by_label.setdefault(results.method_label(trial.config), []).append(trial)
    found = [_method(label, trials, known) for label, trials in by_label.items()]
    return sorted(
        found, key=lambda method: (method.difference.mean if method.difference else math.inf, method.label)
    )


def floor_at(params: float, known: Sequence[TrialRecord]) -> float:
    """The controls' accuracy, interpolated in log size; beyond the smallest and the largest it stays."""
    by_size: dict[float, list[float]] = {}
    for control in known:
        by_size.setdefault(control.cost["params"], []).append(results.accuracy(control))
    sizes = sorted(by_size)
    levels = [math.fsum(by_size[size]) / len(by_size[size]) for size in sizes]
    return float(np.interp(math.log(params), np.log(sizes), levels))


def _method(label: str, trials: Sequence[TrialRecord], known: Sequence[TrialRecord]) -> Method:
    done = [trial for trial in trials if trial.status == "completed" and trial.epochs]
    above = [results.accuracy(trial) - floor_at(trial.cost["params"], known) for trial in done]
    return Method(
        label,
        len(done),
        sum(trial.status == "stopped" for trial in trials),
        sum(trial.status == "failed" for trial in trials),
        statistics.estimate(above) if above else None,
    )
