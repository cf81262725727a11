"""When a search ends: whichever of its budgets is used up first.

Goes in: the `search:` section and the sweep so far. Comes out: the budget that is used up, or None. Trials
that run go on to their ends, and what is not search (controls, confirmation) still follows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kdsearch.front import completed
from kdsearch.records import SweepRecord, TrialRecord
from kdsearch.spec import SweepSpec
from kdsearch.volume import hypervolume


@dataclass(frozen=True)
class Reached:
    """`budget` is its key under `search:`, `text` for people."""

    budget: str
    limit: float
    value: float
    text: str


def reached(spec: SweepSpec, sweep: SweepRecord, num_trials: int, spent_s: float) -> Reached | None:
    """The first budget that is used up.

    `num_trials` are those of the spec, `spent_s` the wall seconds for which the search has been open.
    """
    search = spec.search
    started = sweep.of_role("search")
    if len(started) >= num_trials:
        return Reached("trials", num_trials, len(started), f"all {num_trials:,} trials had started")
    if search.time_s is not None and spent_s > search.time_s:
        return Reached("time_s", search.time_s, spent_s, f"{search.time_s:,g} seconds were spent")
    if search.device_s is not None and sweep.device_s >= search.device_s:
        text = f"{search.device_s:,g} device-seconds were spent"
        return Reached("device_s", search.device_s, sweep.device_s, text)
    if search.hypervolume is not None and _floor_is_known(sweep):
        volume = hypervolume(sweep)["value"]
        if volume >= search.hypervolume:
            text = f"the hypervolume was {volume:.4f}, asked for was {search.hypervolume:g}"
            return Reached("hypervolume", search.hypervolume, volume, text)
    if search.patience is not None:
        idle = trials_without_gain(sweep, search.patience)
        if idle >= search.patience:
            text = f"the last {search.patience:,} trials had not improved the hypervolume"
            return Reached("patience", search.patience, idle, text)
    return None


def trials_without_gain(sweep: SweepRecord, patience: int) -> int:
    """`patience`, if the last so many search trials to end added nothing to the hypervolume, else 0.

    It counts once a trial has completed: before that there is nothing to improve on.
    """
    ended = sorted((t for t in sweep.of_role("search") if t.status != "running"), key=_when_it_ended)
    before = {trial.trial_id for trial in ended[:-patience]}
    earlier = dataclasses.replace(
        sweep, trials={n: t for n, t in sweep.trials.items() if t.role != "search" or n in before}
    )
    if not completed(earlier, "search"):
        return 0
    gain: float = hypervolume(sweep)["value"] - hypervolume(earlier)["value"]
    return patience if gain <= 0 else 0


def _when_it_ended(trial: TrialRecord) -> tuple[float, int]:
    return trial.ended, trial.number


def _floor_is_known(sweep: SweepRecord) -> bool:
    """Before the no-KD floor there is another reference point, with which every volume is larger."""
    floors = [trial for trial in sweep.of_role("control") if trial.purpose == "floor"]
    return bool(completed(sweep, "control")) and all(trial.status != "running" for trial in floors)
