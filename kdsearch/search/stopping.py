"""Pareto-aware early stopping: a pure function of a trial and of everything recorded so far.

Goes in: a trial's costs and accuracies by epoch, those of all others, the floor of no distillation, the
seed noise. Comes out: go on or stop, and the rule that said so. numpy alone, no Ray.

Accuracy alone would stop the small students, which are the reason to search at all; the front alone would
never stop the smallest one, however bad its recipe. So a trial is compared with what is as cheap (the
front) and with what is about as large (its nearest sizes), and two rules of hopelessness come first.
Families learn at different speeds, so unfinished students of two of them are never compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CLOSE = 1e-9  # in powers of ten of a cost: sizes that differ by less are the same


@dataclass(frozen=True)
class Contender:
    """A student in training, or one that was. `finished` after the full budget only."""

    trial_id: str
    costs: tuple[float, ...]  # log10 of every cost objective, known before training
    curve: tuple[float, ...]  # validation accuracy by epoch so far, NaN where nobody looked
    band: int = 0  # size band, 0 the smallest
    finished: bool = False
    family: str = ""  # of its architecture: a rung compares students of one family
    first_epoch: int = 1  # of those in which it is compared: before, it may not have seen a label

    def is_at(self, rung: int) -> bool:
        """Whether it is compared at this rung."""
        return self.first_epoch <= rung <= len(self.curve)


@dataclass(frozen=True)
class History:
    """What is known now. `floor` are controls without distillation, which enter no rung."""

    contenders: Sequence[Contender]
    floor: Sequence[Contender] = ()
    noise: Mapping[int, float] | None = None  # by rung: standard deviation of one training's accuracy


@dataclass(frozen=True)
class Constants:
    """The rule's own numbers. Margins are in standard deviations of the difference of two trainings."""

    # One: of two equal recipes the unluckier one is within it five times in six.
    front_margin: float = 1.0
    # Two: a recipe that is as good as no distillation falls below once in forty; it is compared with few
    # controls, of another recipe, and may begin more slowly than they do.
    floor_margin: float = 2.0
    # One, on top of the largest gain seen: the accuracy at the rung from which it is counted is noisy too.
    final_margin: float = 1.0
    # Nearest sizes are so many times reduction_factor: fewer make a lottery of the top 1/reduction_factor,
    # more compare students of different size, where the larger one wins.
    neighbours: int = 3
    # Gains of so many full trainings, controls among them, before they say what is possible.
    min_gains: int = 5
    # Within reach is what a trial would get to with a gain that one in ten trainings exceeds.
    reach: float = 0.9


@dataclass(frozen=True)
class Settings:
    rungs: Sequence[int]  # epochs at which trials are compared, increasing
    reduction_factor: int
    constants: Constants = Constants()


@dataclass(frozen=True)
class Decision:
    """`rule` names what decided, with its rung and numbers; `reason` says it alike for all trials."""

    goes_on: bool
    rule: str
    reason: str = ""


def judge(trial: Contender, history: History, settings: Settings) -> Decision:
    """Whether a trial goes on, judged at its last completed rung against everything recorded there.

    A trial that is as cheap and as accurate as every other at its rung is never stopped. Of the others a
    hopeless one stops (`hopeless`), and what is left is ranked (`ranked`). Whoever would stop goes on all the
    same while the front is within reach (`is_within_reach`). The order of the history does not matter, and a
    higher accuracy never turns go on into stop. Raises ValueError for NaN.
    """
    rung = last_rung(trial, settings)
    if rung is None:
        return Decision(True, "pareto: before its first rung")
    field = _Field.at(rung, trial, history)
    if len(field.accuracy) > 1 and field.is_led_by_the_trial():
        return Decision(True, f"pareto rung {rung}: dominates the rung")
    decision = hopeless(trial, history, settings) or _ranked(field, rung, history, settings)
    if not decision.goes_on and is_within_reach(trial, rung, history, settings.constants):
        return Decision(True, f"pareto rung {rung}: within reach of the front")
    return decision


def is_within_reach(trial: Contender, rung: int, history: History, constants: Constants) -> bool:
    """Whether a usual course from `rung` on may still end on the front, and above no distillation.

    A rank says little of a slow starter: after 3 of 27 epochs on digits the best recipes stood in the middle
    of their student's. Compared with what has finished, floors of the trial's size among it. True until there
    are gains to go by.
    """
    likely = optimistic(trial, rung, history, constants.min_gains, constants.reach)
    floor = [control for control in history.floor if control.finished and control.family == trial.family]
    last = max((len(control.curve) for control in floor), default=0)
    ends = [other.curve[-1] for other in _finished_as_cheap(trial, history)]
    return likely >= max([floor_at(trial.costs[0], last, floor), *ends])


def ranked(trial: Contender, history: History, settings: Settings) -> Decision:
    """The verdict of ranking alone, at the trial's last completed rung (it must have one).

    It goes on within a margin of the rung's front; in the top 1/reduction_factor by accuracy of its nearest
    sizes; or where it stands among them better than all but 1/reduction_factor of its size band, so that
    every band keeps that share even when all of it stands badly.
    """
    rung = last_rung(trial, settings)
    assert rung is not None
    return _ranked(_Field.at(rung, trial, history), rung, history, settings)


def _ranked(field: _Field, rung: int, history: History, settings: Settings) -> Decision:
    factor, said = settings.reduction_factor, f"pareto rung {rung}:"
    if len(field.accuracy) < factor:
        return Decision(True, f"{said} too few to compare")
    margin = settings.constants.front_margin * _sd_of_difference(history, rung)
    if field.accuracy[0] >= field.best_as_cheap() - margin:
        return Decision(True, f"{said} near the front")
    num_nearest = settings.constants.neighbours * factor
    better = field.share_better(np.array([0]), num_nearest)
    if better < 1 / factor:
        return Decision(True, f"{said} top 1/{factor} of its size")
    band = np.flatnonzero(field.bands == field.bands[0])
    ahead = np.sum(field.share_better(band, num_nearest) < better)
    if ahead < math.ceil(len(band) / factor):
        return Decision(True, f"{said} top 1/{factor} of its band")
    reason = f"behind the front and the top 1/{factor} of its size"
    return Decision(False, f"{said} behind its size", reason)


def hopeless(trial: Contender, history: History, settings: Settings) -> Decision | None:
    """A verdict against a trial that ranking may not save; None where there is hope.

    Hopeless is an accuracy below what its size reaches without distillation at that epoch, and one
    that even with the largest gain seen would end below a finished student that is no dearer.
    """
    rung, constants = last_rung(trial, settings), settings.constants
    assert rung is not None
    accuracy, sd = trial.curve[rung - 1], _sd_of_difference(history, rung)
    floor = [control for control in history.floor if control.family == trial.family]
    if accuracy < floor_at(trial.costs[0], rung, floor) - constants.floor_margin * sd:
        reason = "below what its size reaches without distillation"
        return Decision(False, f"pareto rung {rung}: below the floor", reason)
    gained = optimistic(trial, rung, history, constants.min_gains)
    best = min(1.0, gained + constants.final_margin * sd)
    above = [other for other in _finished_as_cheap(trial, history) if other.curve[-1] > best]
    if above:
        other = min(above, key=lambda other: (-other.curve[-1], other.costs, other.trial_id))
        rule = f"pareto rung {rung}: dominated by {other.trial_id} even at {best:.3g}"
        return Decision(False, rule, "could not reach a finished student that costs no more")
    return None


def last_rung(trial: Contender, settings: Settings) -> int | None:
    """The last rung that the trial completed and is compared at; None before the first."""
    return max((rung for rung in settings.rungs if trial.is_at(rung)), default=None)


def floor_at(size: float, epoch: int, floor: Sequence[Contender]) -> float:
    """The accuracy of that size without distillation at that epoch: linear in log10 of the first cost.

    -inf beyond the sizes whose controls have come so far: a large one's accuracy is no floor of a small one.
    """
    curves: dict[float, list[float]] = {}
    for control in floor:
        if len(control.curve) >= epoch:
            curves.setdefault(control.costs[0], []).append(_number(control.curve[epoch - 1]))
    if not curves:
        return -math.inf
    sizes = sorted(curves)
    means = [math.fsum(curves[known]) / len(curves[known]) for known in sizes]
    return float(np.interp(size, sizes, means, left=-math.inf, right=-math.inf))


def optimistic(
    trial: Contender, rung: int, history: History, min_gains: int = 1, quantile: float = 1.0
) -> float:
    """The best final accuracy that full trainings so far let hope for, from the trial's at `rung`.

    The more hopeful of two: the largest gain in accuracy from that rung to the end, and the largest share of
    the errors lost; below a quantile of 1 not the largest ones. 1 while fewer than `min_gains` trainings of
    the trial's family are complete.
    """
    known = (*history.contenders, *history.floor)
    full = [one for one in known if one.finished and one.family == trial.family and one.is_at(rung)]
    ends = [(one.curve[rung - 1], one.curve[-1]) for one in full if one.trial_id != trial.trial_id]
    if len(ends) < min_gains:
        return 1.0
    gain = max(0.0, float(np.quantile([end - then for then, end in ends], quantile)))
    shares = [(1 - end) / (1 - then) for then, end in ends if then < 1]
    left = min(1.0, float(np.quantile(shares, 1 - quantile))) if shares else 1.0
    accuracy = trial.curve[rung - 1]
    return max(accuracy + gain, 1 - (1 - accuracy) * left)


@dataclass(frozen=True)
class _Field:
    """Everything recorded at one rung: costs [N, D], accuracy [N], bands [N]; the trial itself is row 0."""

    costs: Floats
    accuracy: Floats
    bands: NDArray[np.int64]

    @staticmethod
    def at(rung: int, trial: Contender, history: History) -> _Field:
        others = [c for c in history.contenders if c.trial_id != trial.trial_id and c.is_at(rung)]
        there = [trial, *(other for other in others if other.family == trial.family)]
        costs = np.array([one.costs for one in there], dtype=np.float64)
        accuracy = np.array([one.curve[rung - 1] for one in there], dtype=np.float64)
        if np.isnan(costs).any() or np.isnan(accuracy).any():
            raise ValueError(f"rung {rung}: a cost or an accuracy is NaN")
        return _Field(costs, accuracy, np.array([one.band for one in there], dtype=np.int64))

    def is_led_by_the_trial(self) -> bool:
        cheapest = np.all(self.costs[0] <= self.costs)
        return bool(cheapest and np.all(self.accuracy[0] >= self.accuracy))

    def best_as_cheap(self) -> float:
        """The best accuracy among those that cost no more than the trial, itself among them."""
        as_cheap = np.all(self.costs <= self.costs[0], axis=1)
        return float(self.accuracy[as_cheap].max())

    def share_better(self, rows: NDArray[np.int64], num_nearest: int) -> Floats:
        """[M] for each of the rows the share of more accurate ones among the nearest of its size.

        Near is by log10 of the costs, each scaled by its range where there are several; of equally near ones
        all count.
        """
        if self.costs.shape[1] == 1:
            return self._share_better_of_one_cost(rows, num_nearest)
        ranges = np.ptp(self.costs, axis=0)
        scaled = self.costs / np.where(ranges > 0, ranges, 1.0)
        distances = np.square(scaled[rows, None] - scaled).sum(axis=2)  # [M, N]
        last = min(num_nearest, len(scaled)) - 1
        near = distances <= np.partition(distances, last, axis=1)[:, last : last + 1]
        better = near & (self.accuracy > self.accuracy[rows, None])
        share: Floats = better.sum(axis=1) / near.sum(axis=1)
        return share

    def _share_better_of_one_cost(self, rows: NDArray[np.int64], num_nearest: int) -> Floats:
        """The same without all pairs of distances: in order of size the nearest stand side by side."""
        order = np.argsort(self.costs[:, 0], kind="stable")
        sizes, accuracy = self.costs[order, 0], self.accuracy[order]
        own, reached = self.costs[rows, 0], self.accuracy[rows]
        count = min(num_nearest, len(sizes))
        # [M, 2 count] the nearest stand no further off than that on either side, but for equally near ones.
        around = np.searchsorted(sizes, own)[:, None] + np.arange(-count, count)
        inside = np.clip(around, 0, len(sizes) - 1)
        distances = np.where(around == inside, np.abs(sizes[inside] - own[:, None]), np.inf)
        radius = np.partition(distances, count - 1, axis=1)[:, count - 1]
        near = distances <= radius[:, None] + CLOSE
        better = near & (accuracy[inside] > reached[:, None])
        shares: Floats = better.sum(axis=1) / near.sum(axis=1)
        first = np.searchsorted(sizes, own - radius - CLOSE)
        last = np.searchsorted(sizes, own + radius + CLOSE, side="right")
        for begin, end in set(zip(first.tolist(), last.tolist(), strict=True)):
            if end - begin > count:
                same = (first == begin) & (last == end)
                worse = np.searchsorted(np.sort(accuracy[begin:end]), reached[same], side="right")
                shares[same] = (end - begin - worse) / (end - begin)
        return shares


def _finished_as_cheap(trial: Contender, history: History) -> list[Contender]:
    return [
        other
        for other in history.contenders
        if other.finished
        and other.trial_id != trial.trial_id
        and all(cost <= own for cost, own in zip(other.costs, trial.costs, strict=True))
    ]


def _sd_of_difference(history: History, rung: int) -> float:
    return math.sqrt(2) * _number((history.noise or {}).get(rung, 0.0))


def _number(value: float) -> float:
    if math.isnan(value):
        raise ValueError("an accuracy is NaN")
    return value
