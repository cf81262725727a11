"""The hypervolume of a sweep's front: one number for how far a search has come.

Goes in: a `SweepRecord`. Comes out: the volume with its reference point and bounds; needs numpy only.
"""

from __future__ import annotations

import math
from typing import Any

from kdsearch import front as fronts
from kdsearch import pareto
from kdsearch.records import SweepRecord


def hypervolume(sweep: SweepRecord) -> dict[str, Any]:
    """The share of the box between reference and (accuracy 1, smallest student) that the front dominates.

    Accuracy counts linearly, costs by log10. The reference is the first finished control of the smallest
    size band (accuracy 0 before there is one) and the largest candidate: it stays where it is while the
    sweep goes on, so that volumes can be compared.
    """
    names = fronts.objectives(sweep)
    lowest, source = _floor(sweep)
    bounds = {name: _bounds(sweep, name, lowest) for name in names}
    points = [
        [_scaled(name, fronts.objective(trial, name), bounds[name]) for name in names]
        for trial in fronts.front(sweep)
    ]
    value = pareto.hypervolume(points, [1.0] * len(names))
    return {
        "value": value,
        "objectives": list(names),
        "reference": {n: bounds[n][0] if n == "val_accuracy" else bounds[n][1] for n in names},
        "bounds": {name: list(ends) for name, ends in bounds.items()},
        "floor": source,
    }


def floor(sweep: SweepRecord) -> float:
    """The accuracy that a student must exceed to add to the volume; 0 before the first control has ended."""
    return _floor(sweep)[0]


def _floor(sweep: SweepRecord) -> tuple[float, str]:
    """The first finished control of the smallest band that has one: it never changes once it is there."""
    floors = [trial for trial in fronts.completed(sweep, "control") if trial.purpose in ("", "floor")]
    found = sorted(floors, key=lambda trial: (trial.band, trial.number))
    return (fronts.accuracy(found[0]), found[0].trial_id) if found else (0.0, "")


def _bounds(sweep: SweepRecord, name: str, floor: float) -> tuple[float, float]:
    """Ends of an objective: the journalled range of the candidates, else the range of the trials so far."""
    if name == "val_accuracy":
        return floor, 1.0
    bands = sweep.header.get("bands") or {}
    edges = bands.get("edges") if bands.get("cost") == name else sweep.header.get("bounds", {}).get(name)
    values = edges or [trial.cost[name] for trial in sweep.trials.values()] or [1.0]
    return float(min(values)), float(max(values))


def _scaled(name: str, value: float, ends: tuple[float, float]) -> float:
    """0 at the best end of an objective, 1 at its reference."""
    low, high = ends
    if name == "val_accuracy":
        return (high - value) / (high - low) if high > low else 1.0
    span = math.log10(high / low)
    return math.log10(value / low) / span if span else 0.0
