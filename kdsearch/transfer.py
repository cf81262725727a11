"""Whether a good recipe at one size is good at another.

Goes in: a `SweepRecord`. Comes out: for every pair of size bands how well recipes like the best of the one
did in the other. A recipe is every setting but the student's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdsearch import summary
from kdsearch.records import Scalar, SweepRecord, TrialRecord

MIN_TRIALS = 15  # of a band, so that its best fifth are three
BEST = 0.2
STOPPED = 9.0  # accuracies are fractions, so no completed trial is that far down


@dataclass(frozen=True)
class Transfer:
    """`percentiles[source][target]`: mean percentile, 0 to 100, in the target band; None with too few trials.

    On the diagonal a recipe's nearest is another one of its own band: how much likeness says at all.
    """

    bands: tuple[tuple[float, float], ...]
    num_trials: tuple[int, ...]
    percentiles: tuple[tuple[float | None, ...], ...]

    @property
    def within(self) -> list[float]:
        """The diagonal, where it is known."""
        return [value for i, row in enumerate(self.percentiles) if (value := row[i]) is not None]

    @property
    def across(self) -> list[float]:
        return [
            value
            for i, row in enumerate(self.percentiles)
            for j, value in enumerate(row)
            if i != j and value is not None
        ]


def transfer(sweep: SweepRecord) -> Transfer:
    """For each recipe of a band's best fifth its nearest in the target band, and the percentile of that one.

    Good is what reached a high accuracy for its size: accuracy less a straight line in log10 of the params,
    fitted in the band. Trials that were stopped count, as worse than all that were completed, the earlier the
    worse; failed ones do not. The distance of two recipes is the mean over settings of how many ranks apart
    their values are, as a share of all trials; values that are words, or settings that only one has, are 0 or
    1 apart.
    """
    bands = summary.bands(sweep)
    members = [
        [
            trial
            for trial in sweep.of_role("search")
            if trial.band == band and trial.status in ("completed", "stopped") and trial.epochs
        ]
        for band in range(len(bands))
    ]
    percentiles = [_percentiles(trials) for trials in members]
    everyone = [trial for trials in members for trial in trials]
    places = {trial.trial_id: place for trial, place in zip(everyone, _places(everyone), strict=True)}
    table = tuple(
        tuple(
            _mean_of_nearest(members[i], percentiles[i], members[j], percentiles[j], places)
            for j in range(len(bands))
        )
        for i in range(len(bands))
    )
    return Transfer(tuple(bands), tuple(len(trials) for trials in members), table)


def _percentiles(trials: Sequence[TrialRecord]) -> list[float]:
    """0 for the worst, 100 for the best; equal ones share the middle of theirs."""
    values = _for_their_size(trials)
    if len(trials) < 2:
        return [50.0] * len(trials)
    array = np.array(values)
    below = np.array([np.sum(array < value) for value in array])
    equal = np.array([np.sum(array == value) - 1 for value in array])
    return [float(value) for value in 100 * (below + equal / 2) / (len(array) - 1)]


def _for_their_size(trials: Sequence[TrialRecord]) -> list[float]:
    """Accuracy beyond what the size explains; far below where it was stopped, the earlier the further."""
    done = [trial for trial in trials if trial.status == "completed"]
    known = dict(zip((trial.trial_id for trial in done), summary.beyond_size(done), strict=True))
    return [known.get(trial.trial_id, -STOPPED + trial.num_epochs / trial.max_epochs) for trial in trials]


def _places(trials: Sequence[TrialRecord]) -> list[dict[str, float | str]]:
    """Every trial's settings: a number as its rank among all trials' (0 to 1), a word as itself."""
    recipes = [_recipe(trial) for trial in trials]
    names = sorted({name for recipe in recipes for name in recipe})
    found: list[dict[str, float | str]] = [{} for _ in trials]
    for name in names:
        known = [recipe[name] for recipe in recipes if name in recipe]
        if len({repr(value) for value in known}) == 1 and len(known) == len(trials):
            continue  # the same for all
        numbers = [float(value) for value in known if not isinstance(value, str)]
        ordered = np.sort(np.array(numbers))
        for own, recipe in zip(found, recipes, strict=True):
            value = recipe.get(name)
            if isinstance(value, str):
                own[name] = value
            elif value is not None:
                low, high = (int(np.searchsorted(ordered, float(value), side)) for side in ("left", "right"))
                own[name] = (low + high) / (2 * len(ordered))
    return found


def _recipe(trial: TrialRecord) -> Mapping[str, Scalar]:
    return {name: value for name, value in trial.config.flat().items() if not name.startswith("student.")}


def _distance(one: Mapping[str, float | str], other: Mapping[str, float | str]) -> float:
    """0 for equal recipes, 1 for ones that share nothing."""
    names = sorted(one.keys() | other.keys())
    apart = [_apart(one.get(name), other.get(name)) for name in names]
    return math.fsum(apart) / len(apart) if apart else 0.0


def _apart(one: float | str | None, other: float | str | None) -> float:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    return float(one != other)


def _mean_of_nearest(
    source: Sequence[TrialRecord],
    source_percentiles: Sequence[float],
    target: Sequence[TrialRecord],
    target_percentiles: Sequence[float],
    places: Mapping[str, Mapping[str, float | str]],
) -> float | None:
    if min(len(source), len(target)) < MIN_TRIALS:
        return None
    ranked = sorted(range(len(source)), key=lambda index: (-source_percentiles[index], source[index].number))
    found = []
    for index in ranked[: round(BEST * len(source))]:
        own = source[index]
        distances = [
            (_distance(places[own.trial_id], places[other.trial_id]), other.number, percentile)
            for other, percentile in zip(target, target_percentiles, strict=True)
            if other.trial_id != own.trial_id
        ]
        found.append(min(distances)[2])
    return math.fsum(found) / len(found)
