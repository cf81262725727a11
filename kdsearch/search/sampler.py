"""Optuna proposes: the configuration of the next search trial, from what became of the others.

Goes in: the spec and the search trials so far. Comes out: the next trial's configuration, with Optuna's
parameters and distributions for the journal. A proposal is a function of (spec, trials, number) and of
nothing else, so a resumed sweep proposes what an uninterrupted one would.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from kdsearch import online, space
from kdsearch.records import Scalar, TrialConfig, TrialRecord
from kdsearch.search.bands import CostOf, cost_bounds
from kdsearch.search.fidelity import final_accuracy
from kdsearch.spec import Stages, SweepSpec

optuna.logging.set_verbosity(optuna.logging.WARNING)

GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 cover an interval evenly, however many there are

MAX_REDRAWS = 4  # where everything drawn was tried already, as in a small space of stepped dimensions
NUM_STRAYS = 16  # random draws where the model knows of nothing new: on digits 4 of 6 proposals were repeats
NUM_RANDOM = 10  # ended trials before the proposals are more than random: TPESampler's own n_startup_trials

CostsOf = Callable[[TrialConfig], Sequence[Mapping[str, float]]]  # of every student that it saves


@dataclass(frozen=True)
class Proposal:
    config: TrialConfig
    params: dict[str, Scalar]
    distributions: dict[str, str]  # Optuna's JSON of each
    origin: str = ""  # of one that was not proposed


@dataclass(frozen=True)
class Policy:
    """How trials are proposed; docs/search.md has the reasons for the defaults.

    `stopped`: what Optuna hears of a stopped trial: that it was pruned; its last value with the epochs left
    as a constraint; or the accuracy that it would probably have reached. `window`: how many trials nearest to
    the trial's target size a proposal learns from, None: all. `draws`: proposals made for a trial, of which
    the one nearest to its target size is taken; `first_draws` while they are still random. `usual`: whether
    the papers' settings are among the first proposals.
    """

    stopped: Literal["pruned", "constrained", "extrapolated"] = "extrapolated"
    window: int | None = 60
    draws: int = 1
    first_draws: int = 16
    usual: bool = True


def proposal(
    spec: SweepSpec, num_teacher_stages: Stages, params: Mapping[str, Any], seed: int, origin: str = ""
) -> Proposal:
    """The configuration that these answers make, with the distributions that they are drawn from."""
    trial = optuna.trial.FixedTrial(dict(params))
    config = space.suggest(trial, spec, num_teacher_stages, seed)
    return Proposal(config, dict(trial.params), texts(trial.distributions), origin)


class Sampler:
    """Makes proposals. Costs are told as log10, in which the front is evenly spread.

    `costs_of` measures the students that a configuration saves, the first one first; without it they are
    those that the spec names, with nothing that a method leaves in them.
    """

    def __init__(
        self,
        spec: SweepSpec,
        num_teacher_stages: Stages,
        cost_of: CostOf,
        policy: Policy | None = None,
        costs_of: CostsOf | None = None,
    ) -> None:
        self._spec = spec
        self._num_teacher_stages = num_teacher_stages
        self.costs_of = costs_of or (lambda config: [cost_of(one.student) for one in online.configs(config)])
        self._policy = policy or Policy()
        self._cost = spec.search.objectives[1]
        low, high = cost_bounds(spec, cost_of)[self._cost]
        self._low, self._span = math.log10(low), math.log10(high / low)
        self._told: dict[str, FrozenTrial] = {}  # reading its distributions is the dear part of a trial

    def ask(self, number: int, records: Sequence[TrialRecord]) -> Proposal:
        """The configuration of search trial `number`, given the search trials that were started before."""
        seed = space.trial_seed(self._spec, number)  # of initial weights and order; also of the proposal
        target = self.target(number)
        known = self._near(records, target)
        costs = [StudyDirection.MINIMIZE for _ in self._spec.search.objectives[1:]]
        study = optuna.create_study(
            storage=_Shown(self.told(known)),
            sampler=_fresh_sampler(seed),
            directions=[StudyDirection.MAXIMIZE, *costs],
        )
        is_random = sum(record.status in ("completed", "stopped") for record in known) < NUM_RANDOM
        num_draws = self._policy.first_draws if is_random else self._policy.draws
        drawn = [self._draw(study, seed) for _ in range(num_draws)]
        tried = [record.params for record in records]
        while all(one.params in tried for one in drawn) and len(drawn) < num_draws + MAX_REDRAWS:
            drawn.append(self._draw(study, seed))
        if all(one.params in tried for one in drawn):
            study.sampler = optuna.samplers.RandomSampler(seed)
            drawn += [self._draw(study, seed) for _ in range(NUM_STRAYS)]
        new = [one for one in drawn if one.params not in tried]
        return min(new or drawn, key=lambda one: self.distance(one.config, target))

    def target(self, number: int) -> float:
        """log10 of the size that trial `number` is to have: a sequence that covers the axis evenly."""
        return self._low + self._span * ((0.5 + number * GOLDEN) % 1)

    def distance(self, config: TrialConfig, target: float) -> float:
        """How far a configuration's student is from a size, in powers of ten."""
        return abs(self._size(self.costs_of(config)[0]) - target)

    def place(self, cost: Mapping[str, float]) -> float:
        """Where a size lies between the smallest student, 0, and the largest, 1, by its logarithm."""
        return (self._size(cost) - self._low) / self._span if self._span else 0.0

    def _draw(self, study: optuna.Study, seed: int) -> Proposal:
        trial = study.ask()
        config = space.suggest(trial, self._spec, self._num_teacher_stages, seed)
        return Proposal(config, dict(trial.params), texts(trial.distributions))

    def _size(self, cost: Mapping[str, float]) -> float:
        return math.log10(cost[self._cost])

    def _near(self, records: Sequence[TrialRecord], target: float) -> list[TrialRecord]:
        """The trials to learn from, by number."""
        usable = [record for record in records if record.status != "failed"]
        window = self._policy.window
        if window is not None and len(usable) > window:
            usable.sort(key=lambda record: (abs(self._size(record.cost) - target), record.number))
            usable = usable[:window]
        return sorted(usable, key=lambda record: record.number)

    def told(self, records: Sequence[TrialRecord]) -> list[FrozenTrial]:
        """The trials as Optuna hears of them, for one proposal and for no one else: not all of it is true."""
        usable = [record for record in records if record.status != "failed"]
        finished = [record for record in usable if record.status == "completed"]
        return [
            self._frozen(record, finished, number)
            # A new trial of the study has number 0: below it there is no conflict.
            for number, record in enumerate(usable, start=-len(usable))
        ]

    def _frozen(self, record: TrialRecord, finished: Sequence[TrialRecord], number: int) -> FrozenTrial:
        """A trial as Optuna hears of it; a stopped one by the policy, an unfinished one as running."""
        trial = self._told.get(record.trial_id)
        if trial is None:
            distributions = {name: json_to_distribution(text) for name, text in record.distributions.items()}
            trial = create_trial(
                state=TrialState.RUNNING, params=dict(record.params), distributions=distributions
            )
            self._told[record.trial_id] = trial
        trial.number = number
        accuracy = record.val_accuracy if record.status == "completed" else None
        if record.status == "stopped" and self._policy.stopped == "extrapolated":
            accuracy = final_accuracy(record, finished)
        elif record.status == "stopped" and self._policy.stopped == "constrained":
            accuracy = record.val_accuracy
            if not trial.constraints:
                trial.set_constraint("epochs left", record.max_epochs - record.num_epochs)
        if accuracy is not None:
            trial.state = TrialState.COMPLETE
            trial.values = objective_values(record, self._spec.search.objectives, accuracy)
        elif record.status != "running":
            trial.state, trial.values = TrialState.PRUNED, None
        return trial


class _Shown(InMemoryStorage):
    """Shows a study the trials that a proposal learns from, and not the ones that it draws."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._shown = trials

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self._shown if states is None or trial.state in states]


def objective_values(record: TrialRecord, objectives: Iterable[str], accuracy: float) -> list[float]:
    """Accuracy and log10 of each cost, in the order of the spec's objectives."""
    return [accuracy if name == "val_accuracy" else math.log10(record.cost[name]) for name in objectives]


def texts(distributions: Mapping[str, BaseDistribution]) -> dict[str, str]:
    return {name: distribution_to_json(distribution) for name, distribution in distributions.items()}


def _fresh_sampler(seed: int) -> optuna.samplers.TPESampler:
    """Seeded for one proposal: its own `reseed_rng` takes entropy from the system."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # multivariate and group
        return optuna.samplers.TPESampler(
            n_startup_trials=NUM_RANDOM, multivariate=True, group=True, seed=seed
        )
