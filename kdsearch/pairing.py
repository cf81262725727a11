"""Which students are worth confirming, and which trials are whose: repeats and paired controls.

Goes in: a `SweepRecord`. Comes out: the students on or near the front, each with its repeats under fresh
seeds and, seed by seed, the two controls that it is compared with; and the configurations of those that are
not there yet. The search runs what is missing and the report shows what there is: both ask here.

A repeat k of every student has the same seed and sees the same views (stream k), so that students with one
architecture and recipe share their controls: a control is found by its configuration.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from kdsearch.front import accuracy, completed, front, objectives
from kdsearch.losses.deployed import is_taught
from kdsearch.membership import pooled_variance
from kdsearch.records import Choice, Purpose, SweepRecord, TrialConfig, TrialRecord
from kdsearch.statistics import binomial_error

Arm = Literal["no_kd", "kd"]
ARMS: tuple[Arm, ...] = ("no_kd", "kd")
TUNING: Mapping[Arm, Purpose] = {"no_kd": "tune_no_kd", "kd": "tune_kd"}
# Plain distillation as it is most often compared with: Tian et al., ICLR 2020, arXiv 1910.10699, use 0.9
# and 4 for all their students.
PLAIN_ALPHA, PLAIN_TEMPERATURE = 0.9, 4.0
ONE_SIDED_95 = 1.645  # standard deviations


def near_front(sweep: SweepRecord) -> list[TrialRecord]:
    """The students of the front, and the contender nearest to each of its places; by params.

    A contender is a student of a completed search trial that noise may have kept off the front: its
    accuracy is within 1.645 * sqrt(2) * `noise` of the best one's among students at most as costly. Trials
    that differ in their seed alone are one student, the most accurate of them.
    """
    members = _distinct(front(sweep))
    taken = {recipe_key(trial) for trial in members}
    costs = objectives(sweep)[1:]
    nearest: dict[str, tuple[float, str, TrialRecord]] = {}
    for trial in _distinct(completed(sweep, "search")):
        if recipe_key(trial) in taken:
            continue
        # Whatever beats it is on the front or beaten by a student there, which is no more costly.
        above = [member for member in members if all(member.cost[c] <= trial.cost[c] for c in costs)]
        place = max(above, key=accuracy)
        gap = accuracy(place) - accuracy(trial)
        if gap <= ONE_SIDED_95 * math.sqrt(2) * noise(sweep, accuracy(trial)):
            own = gap, trial.student_id, trial
            nearest[place.student_id] = min(own, nearest.get(place.student_id, own), key=lambda one: one[:2])
    found = [*members, *(trial for _, _, trial in nearest.values())]
    return sorted(found, key=lambda trial: (trial.cost["params"], trial.student_id))


def noise(sweep: SweepRecord, value: float) -> float:
    """The standard deviation of a validation accuracy: between seeds, where band controls were repeated.

    At least what the size of the validation split leaves open, sqrt(p * (1 - p) / n).
    """
    groups: dict[str, list[float]] = {}
    for trial in completed(sweep, "control"):
        if trial.purpose == "floor":
            groups.setdefault(recipe_key(trial), []).append(accuracy(trial))
    variance, degrees = pooled_variance(list(groups.values()))
    between = math.sqrt(variance) if degrees else 0.0
    return max(between, binomial_error(value, sweep.header.get("data", {}).get("num_validation")))


def key(config: TrialConfig) -> str:
    """Equal for equal configurations, whether they come from a journal or were just made."""
    return json.dumps(config, sort_keys=True, default=vars)  # a tenth of the time of dataclasses.asdict


def recipe_key(trial: TrialRecord) -> str:
    """Equal for students that differ in their seed alone."""
    return key(replace(trial.config, seed=0, stream=0)) + f" {trial.student_number}"


def _distinct(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The most accurate of those that differ in their seed alone, the first of equally accurate ones."""
    best: dict[str, TrialRecord] = {}
    for trial in trials:
        own = recipe_key(trial)
        best[own] = max(best.get(own, trial), trial, key=accuracy)
    return list(best.values())


def by_config(trials: Iterable[TrialRecord]) -> dict[str, TrialRecord]:
    """Trials by `key`, the first of equal ones."""
    found: dict[str, TrialRecord] = {}
    for trial in trials:
        found.setdefault(key(trial.config), trial)
    return found


def confirm_seed(search_seed: int, number: int) -> int:
    """The seed of every student's repeat `number`, from 1; no search trial is likely to have it."""
    digest = hashlib.sha256(repr((search_seed, "confirm", number)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def repeat(sweep: SweepRecord, trial: TrialRecord, number: int) -> TrialConfig:
    """The trial's configuration with other initial weights, order and views. `number` counts from 1."""
    return replace(trial.config, seed=confirm_seed(sweep.header["seed"], number), stream=number)


def repeats(sweep: SweepRecord, trial: TrialRecord) -> list[TrialRecord]:
    """The confirmation trials of a search trial, whatever became of them, in the order of their seeds.

    They are found by configuration: one that was proposed twice is repeated once.
    """
    own = recipe_key(sweep.trials[trial.trial_id])
    found = [other for other in sweep.of_role("confirm") if recipe_key(other) == own]
    return sorted(found, key=lambda other: other.config.stream)


def plain(sweep: SweepRecord, config: TrialConfig, arm: Arm) -> TrialConfig:
    """The same training without distillation, or with plain kd and the same teacher; the recipe its own.

    A training that has no teacher gets the sweep's most accurate one.
    """
    bare = config.control
    if arm == "no_kd":
        return bare
    name = (sweep.teacher or {}).get("name", "")
    teacher = config.teacher if is_taught(config) else Choice(name)
    response = {"response": Choice("kd")}
    return replace(bare, distill=response, alpha=PLAIN_ALPHA, temperature=PLAIN_TEMPERATURE, teacher=teacher)


def with_recipe(config: TrialConfig, lr: float, weight_decay: float) -> TrialConfig:
    return replace(config, train=replace(config.train, lr=lr, weight_decay=weight_decay))


def tuning_trials(sweep: SweepRecord, band: int, optimizer: str | None = None) -> list[TrialRecord]:
    """The trials that tune the controls of students of this size band, both arms, by number.

    A learning rate means nothing to another optimizer, so each has trials of its own; None: those of the
    optimizer that was tuned first.
    """
    found = [
        trial
        for trial in sweep.of_role("control")
        if trial.purpose in TUNING.values() and sweep.trials[trial.partner].band == band
    ]
    wanted = optimizer or (found[0].config.train.optimizer if found else "")
    return [trial for trial in found if trial.config.train.optimizer == wanted]


def tuned_recipe(
    sweep: SweepRecord, band: int, arm: Arm, optimizer: str | None = None
) -> tuple[float, float, int] | None:
    """Learning rate and weight decay of this band's controls, and of how many trials they are the best.

    The most accurate on validation, the first of equal ones. None where nothing was tuned: a control then
    has its partner's own.
    """
    tried = [trial for trial in tuning_trials(sweep, band, optimizer) if trial.purpose == TUNING[arm]]
    done = [trial for trial in tried if trial.status == "completed" and trial.epochs]
    if not done:
        return None
    best = max(done, key=accuracy).config.train
    return best.lr, best.weight_decay, len(tried)


def expected_pair(sweep: SweepRecord, trial: TrialRecord, arm: Arm) -> TrialConfig:
    """The control that this trial is compared with: all equal but the distillation, lr and weight decay."""
    control = plain(sweep, trial.config, arm)
    tuned = tuned_recipe(sweep, trial.band, arm, trial.config.train.optimizer)
    return control if tuned is None else with_recipe(control, *tuned[:2])


@dataclass(frozen=True)
class Confirmed:
    """A student and its completed repeats, by seed; beside each of these its completed controls.

    `no_kd` and `kd` are as long as `runs`, with None where the control is not there: not run yet, failed, or
    never to be run. The second and further students of a trial have none: nothing but that trial begins with
    their initial weights.
    """

    student: TrialRecord
    runs: tuple[TrialRecord, ...]
    no_kd: tuple[TrialRecord | None, ...]
    kd: tuple[TrialRecord | None, ...]


def confirmed(sweep: SweepRecord) -> list[Confirmed]:
    """Every student that was repeated at least once to the end, by params; those off the front too.

    Trials that differ in their seed alone are one student, the most accurate of them.
    """
    known = by_config([*completed(sweep, "control"), *completed(sweep, "confirm")])
    found = []
    for student in _distinct(completed(sweep, "search")):
        done = [one for one in repeats(sweep, student) if one.status == "completed" and one.epochs]
        if done:
            runs = tuple(one.students()[student.student_number - 1] for one in done)
            found.append(Confirmed(student, runs, *(_partners(sweep, runs, arm, known) for arm in ARMS)))
    return sorted(found, key=lambda one: (one.student.cost["params"], one.student.student_id))


def _partners(
    sweep: SweepRecord, runs: Iterable[TrialRecord], arm: Arm, known: Mapping[str, TrialRecord]
) -> tuple[TrialRecord | None, ...]:
    return tuple(
        known.get(key(expected_pair(sweep, run, arm))) if run.student_number == 1 else None for run in runs
    )


@dataclass(frozen=True)
class Left:
    """Trainings still to be started. Pairs are at most so many: equal ones are run once."""

    tuning: int = 0
    repeats: int = 0
    pairs: int = 0

    @property
    def total(self) -> int:
        return self.tuning + self.repeats + self.pairs
