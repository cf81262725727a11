"""Whether a search trial goes on: the journal's records in the form that the stopping rules take.

Goes in: the spec and the sweep's state. Comes out: the rungs, and a decision about a trial as things stand.
A verdict is a function of the records alone, so a resumed sweep gives the verdicts of an uninterrupted one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from kdsearch.losses.alone import epochs_alone
from kdsearch.records import SweepRecord, TrialConfig, TrialRecord
from kdsearch.search import asha, noise, stopping
from kdsearch.search.stopping import Contender, Decision, History, Settings
from kdsearch.spec import SweepSpec


def rungs(spec: SweepSpec) -> tuple[int, ...]:
    """The epochs at which search trials are judged; none without a scheduler."""
    early = spec.search.early_stopping
    if early.scheduler == "none":
        return ()
    return tuple(asha.rungs(early.grace_epochs, early.reduction_factor, spec.epochs))


class Judge:
    """Judges search trials; `sweep` is watched. Controls enter no rung."""

    def __init__(self, spec: SweepSpec, sweep: SweepRecord) -> None:
        self._sweep = sweep
        self._early = spec.search.early_stopping
        self._costs = spec.search.objectives[1:]
        self._settings = Settings(rungs(spec), self._early.reduction_factor)
        self._known: dict[str, tuple[int, str, list[Contender]]] = {}
        self._noise: dict[tuple[int, int], float] = {}  # by rung and epochs of the controls
        self._num_seen = 0
        self._running: dict[str, TrialRecord] = {}  # search trials when they were last looked at
        self._ended: list[Contender] = []
        self._floor: list[TrialRecord] = []

    @property
    def rungs(self) -> tuple[int, ...]:
        return tuple(self._settings.rungs)

    def decide(self, trial: TrialRecord, known_epochs: int) -> Decision:
        """The verdict on a running search trial that had `known_epochs` before its newest report.

        asha judges a trial when it comes to a rung, by those that came before it: asked again after a crash
        it says what it said. pareto judges again at every report, as its rung fills.
        Of several students that learn together each is judged, and one that goes on is enough.
        """
        reached = [rung for rung in self.rungs if self._is_at(trial, rung)]
        if not reached:
            return Decision(True, "before its first rung")
        if self._early.scheduler == "asha":
            return self._asha(trial, reached[-1], is_new=known_epochs < reached[-1])
        history = self._history(reached[-1])
        decisions = [stopping.judge(student, history, self._settings) for student in self._contenders(trial)]
        return next((decision for decision in decisions if decision.goes_on), decisions[0])

    def _asha(self, trial: TrialRecord, rung: int, is_new: bool) -> Decision:
        factor, rule = self._early.reduction_factor, f"asha rung {rung}"
        if is_new:
            came = trial.epochs[rung - 1]["seq"]
            reached = (other for other in self._sweep.of_role("search") if self._is_at(other, rung))
            earlier = [_accuracy(other, rung) for other in reached if other.epochs[rung - 1]["seq"] < came]
            if asha.is_stopped(_accuracy(trial, rung), earlier, factor):
                return Decision(False, rule, f"below the top 1/{factor} of rung {rung}")
        return Decision(True, rule)

    def _is_at(self, trial: TrialRecord, rung: int) -> bool:
        return self._contenders(trial)[0].is_at(rung)

    def _first_epoch(self, config: TrialConfig) -> int:
        """The first epoch in which a trial is compared.

        A classifier that a method kept from learning at first (`alone`) then has its grace like any other's.
        """
        alone = epochs_alone(config)
        return alone + self._early.grace_epochs if alone else 1

    def _history(self, rung: int) -> History:
        self._look()
        running = [one for trial in self._running.values() for one in self._contenders(trial)]
        return History(
            [*self._ended, *running],
            [self._contenders(control)[0] for control in self._floor],
            {rung: self._seed_sd(rung, self._floor)},
        )

    def _look(self) -> None:
        """Take in what has begun and what has ended: of ten thousand trials few do between two reports."""
        trials = self._sweep.trials
        for trial in itertools.islice(trials.values(), self._num_seen, None):
            if trial.role == "search":
                self._running[trial.trial_id] = trial
            elif trial.purpose == "floor":
                self._floor.append(trial)
        self._num_seen = len(trials)
        for name in [name for name, trial in self._running.items() if trial.status != "running"]:
            self._ended += self._contenders(self._running.pop(name))

    def _seed_sd(self, rung: int, floor: Sequence[TrialRecord]) -> float:
        """The noise of a training at the rung; measured again only when a control has come further."""
        key = rung, sum(control.num_epochs for control in floor)
        if key not in self._noise:
            repeats: dict[str, list[tuple[float, ...]]] = {}
            for control in floor:
                repeats.setdefault(repr(control.config.student), []).append(
                    self._contenders(control)[0].curve
                )
            num_validation = self._sweep.header.get("data", {}).get("num_validation")
            self._noise[key] = noise.seed_sd(list(repeats.values()), rung, num_validation)
        return self._noise[key]

    def _contenders(self, trial: TrialRecord) -> list[Contender]:
        """A trial's students; built again only when it has come further."""
        num_epochs, status, found = self._known.get(trial.trial_id, (-1, "", []))
        if (num_epochs, status) != (trial.num_epochs, trial.status):
            found = [self._contender(student) for student in trial.students()]
            self._known[trial.trial_id] = trial.num_epochs, trial.status, found
        return found

    def _contender(self, student: TrialRecord) -> Contender:
        return Contender(
            student.student_id,
            tuple(math.log10(student.cost[name]) for name in self._costs),
            tuple(epoch["metrics"].get("val_accuracy", math.nan) for epoch in student.epochs),
            student.band,
            student.status == "completed",
            student.config.student.name,
            self._first_epoch(student.config),
        )


def _accuracy(trial: TrialRecord, epoch: int) -> float:
    accuracy: float = trial.epochs[epoch - 1]["metrics"]["val_accuracy"]
    return accuracy
