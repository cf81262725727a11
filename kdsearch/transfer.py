"""Whether a good recipe at one size is good at another.

Goes in: a `SweepRecord`. Comes out: for every pair of size bands how well recipes like the best of the one
did in the other. A recipe is every setting but the student's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    recipes = _recipes([_recipe(trial) for trials in members for trial in trials])
    ends = np.cumsum([len(trials) for trials in members])
    placed = [
        _Band(np.arange(end - len(trials), end), np.array(_percentiles(trials)))
        for trials, end in zip(members, ends, strict=True)
    ]
    table = tuple(tuple(_mean_of_nearest(source, target, recipes) for target in placed) for source in placed)
    return Transfer(tuple(bands), tuple(len(trials) for trials in members), table)


@dataclass(frozen=True)
class _Band:
    """A size band's trials in order of their number: their rows among all recipes, and their percentiles."""

    rows: NDArray[np.int64]
    percentiles: NDArray[np.float64]


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


def _recipe(trial: TrialRecord) -> Mapping[str, Scalar]:
    return {name: value for name, value in trial.config.flat().items() if not name.startswith("student.")}


@dataclass(frozen=True)
class _Recipes:
    """Settings [recipes, settings] that are not the same in all, in a form that can be subtracted.

    `kind` is 0 where a recipe has no such setting, 1 of a number, 2 of a word; `rank` is a number's among all
    recipes', from 0 to 1, `word` a word's number.
    """

    kind: NDArray[np.int64]
    rank: NDArray[np.float64]
    word: NDArray[np.int64]

    def distances(self, row: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """[len(others)]: 0 for equal recipes, 1 for ones that share nothing."""
        kind, kinds = self.kind[row], self.kind[others]
        is_other = (kinds != kind) | (self.word[others] != self.word[row])
        apart = np.where(is_other, 1.0, np.abs(self.rank[others] - self.rank[row]))
        num_settings = ((kinds > 0) | (kind > 0)).sum(axis=1)
        return np.asarray(apart.sum(axis=1) / np.maximum(num_settings, 1))


def _recipes(recipes: Sequence[Mapping[str, Scalar]]) -> _Recipes:
    names = sorted({name for recipe in recipes for name in recipe})
    columns = [[recipe.get(name) for recipe in recipes] for name in names]
    columns = [column for column in columns if len(set(map(repr, column))) > 1]
    kind, word = np.zeros((2, len(recipes), len(columns)), np.int64)
    rank = np.zeros((len(recipes), len(columns)))
    for position, column in enumerate(columns):
        numbers = [float(value) for value in column if value is not None and not isinstance(value, str)]
        ordered = np.sort(numbers)
        words = sorted({value for value in column if isinstance(value, str)})
        for row, value in enumerate(column):
            if isinstance(value, str):
                kind[row, position], word[row, position] = 2, words.index(value)
            elif value is not None:
                low, high = (int(np.searchsorted(ordered, float(value), side)) for side in ("left", "right"))
                kind[row, position], rank[row, position] = 1, (low + high) / (2 * len(ordered))
    return _Recipes(kind, rank, word)


def _mean_of_nearest(source: _Band, target: _Band, recipes: _Recipes) -> float | None:
    """The mean percentile in `target` of what is nearest to the best recipes of `source`."""
    if min(len(source.rows), len(target.rows)) < MIN_TRIALS:
        return None
    best = np.argsort(-source.percentiles, kind="stable")[: round(BEST * len(source.rows))]
    found = []
    for row in source.rows[best]:
        distances = recipes.distances(row, target.rows)
        distances[target.rows == row] = np.inf  # on the diagonal another one is asked for
        found.append(float(target.percentiles[np.argmin(distances)]))
    return math.fsum(found) / len(found)
