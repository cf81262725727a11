"""Which trials a sweep still wants: controls and search trials in one queue.

Goes in: the spec and the sweep's state so far. Comes out: one trial after another, and how many there are.
A queue is a pure function of (spec, what is in the journal), so a resumed sweep goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kdsearch import listing, space
from kdsearch.records import Choice, Purpose, Role, Scalar, SweepRecord, TrialConfig, trial_id
from kdsearch.search.bands import CostOf, floor_controls
from kdsearch.search.proposals import Proposer
from kdsearch.search.sampler import CostsOf, Policy, proposal
from kdsearch.spec import Stages, SweepSpec


@dataclass(frozen=True)
class Wanted:
    """A trial to start. `params` and `distributions` are Optuna's; only a search trial has some."""

    role: Role
    number: int
    config: TrialConfig
    params: dict[str, Scalar]
    distributions: dict[str, str]
    purpose: Purpose = ""  # of a control
    partner: str = ""  # the trial that it is compared with or repeats
    origin: str = ""  # of a search trial that was not proposed


class Queue(Protocol):
    """`num_trials` counts search trials. Once it is cut short, only other roles' trials are left."""

    num_trials: int

    def has_next(self, is_cut_short: bool) -> bool: ...

    def next(self, is_cut_short: bool) -> Wanted | None: ...


def queue(
    spec: SweepSpec,
    num_teacher_stages: Stages,
    cost_of: CostOf,
    sweep: SweepRecord,
    policy: Policy | None = None,
    costs_of: CostsOf | None = None,
) -> Queue:
    """The queue of the spec's sampler, as far as `sweep` has come; `sweep` is watched from then on.

    `costs_of` is the sampler's: what a configuration's students cost as they are saved.
    """
    if listing.is_listed(spec):
        return _ListedTrials(spec, num_teacher_stages, sweep)
    return _ProposedTrials(spec, num_teacher_stages, cost_of, sweep, policy, costs_of)


class _ProposedTrials:
    """A student of each size band without distillation, then what Optuna proposes."""

    def __init__(
        self,
        spec: SweepSpec,
        num_teacher_stages: Stages,
        cost_of: CostOf,
        sweep: SweepRecord,
        policy: Policy | None,
        costs_of: CostsOf | None,
    ) -> None:
        self._spec, self._sweep = spec, sweep
        self.num_trials = listing.num_search_trials(spec, num_teacher_stages)
        self._proposer = Proposer(spec, num_teacher_stages, cost_of, sweep, policy, costs_of)
        self._controls: list[Choice] = floor_controls(spec, cost_of)
        for trial in sweep.of_role("control"):
            if trial.purpose == "floor" and trial.config.student in self._controls:
                self._controls.remove(trial.config.student)

    def has_next(self, is_cut_short: bool) -> bool:
        return bool(self._controls) or (self._num_started() < self.num_trials and not is_cut_short)

    def next(self, is_cut_short: bool) -> Wanted | None:
        if self._controls:
            number = len(self._sweep.of_role("control"))
            student, seed = self._controls.pop(0), space.trial_seed(self._spec, number)
            return Wanted("control", number, space.control(self._spec, student, seed), {}, {}, "floor")
        if not self.has_next(is_cut_short):
            return None
        number = self._num_started()
        asked = self._proposer.propose(number)
        return Wanted("search", number, asked.config, asked.params, asked.distributions, origin=asked.origin)

    def _num_started(self) -> int:
        return len(self._sweep.of_role("search"))


class _ListedTrials:
    """Configurations that are known from the start, each beside its control, seed by seed."""

    def __init__(self, spec: SweepSpec, num_teacher_stages: Stages, sweep: SweepRecord) -> None:
        self._spec, self._num_teacher_stages = spec, num_teacher_stages
        trials = listing.listed(spec, num_teacher_stages)
        self.num_trials = sum(trial.role == "search" for trial in trials)
        self._left = [trial for trial in trials if trial_id(trial.role, trial.number) not in sweep.trials]

    def has_next(self, is_cut_short: bool) -> bool:
        return bool(self._left) and not is_cut_short

    def next(self, is_cut_short: bool) -> Wanted | None:
        if not self.has_next(is_cut_short):
            return None
        trial = self._left.pop(0)
        if trial.role == "control":
            return Wanted(trial.role, trial.number, trial.config, {}, {}, "floor")
        made = proposal(self._spec, self._num_teacher_stages, trial.params, trial.config.seed)
        return Wanted(trial.role, trial.number, made.config, made.params, made.distributions)
