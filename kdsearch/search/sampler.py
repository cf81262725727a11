"""Optuna proposes: asks for search trials and tells it what became of them.

Goes in: the spec and the trials so far. Comes out: the next trial's configuration, with Optuna's
parameters and distributions for the journal.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from kdsearch import space
from kdsearch.records import Scalar, TrialConfig, TrialRecord
from kdsearch.spec import Stages, SweepSpec

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Proposal:
    config: TrialConfig
    params: dict[str, Scalar]
    distributions: dict[str, str]  # Optuna's JSON of each


def proposal(spec: SweepSpec, num_teacher_stages: Stages, params: Mapping[str, Any], seed: int) -> Proposal:
    """The configuration that these answers make, with the distributions that they are drawn from."""
    trial = optuna.trial.FixedTrial(dict(params))
    config = space.suggest(trial, spec, num_teacher_stages, seed)
    return Proposal(config, dict(trial.params), _texts(trial.distributions))


class Sampler:
    """A study in memory, rebuilt from the journal on resume.

    The TPE sampler is built afresh for every ask, seeded from (seed, trial number), because its own
    `reseed_rng` takes entropy from the system: so a resumed sweep proposes what an uninterrupted one would.
    Costs are told as log10, in which the front is evenly spread.
    """

    def __init__(self, spec: SweepSpec, num_teacher_stages: Stages) -> None:
        self._spec = spec
        self._num_teacher_stages = num_teacher_stages
        costs = [StudyDirection.MINIMIZE for _ in spec.search.objectives[1:]]
        self._study = optuna.create_study(directions=[StudyDirection.MAXIMIZE, *costs])

    def restore(self, records: Iterable[TrialRecord]) -> None:
        """Take in search trials 0, 1, ... of earlier sessions, in that order; unfinished ones are running."""
        for record in records:
            assert record.number == len(self._study.get_trials(deepcopy=False))
            distributions = {name: json_to_distribution(text) for name, text in record.distributions.items()}
            self._study.add_trial(
                create_trial(
                    state=TrialState.RUNNING, params=dict(record.params), distributions=distributions
                )
            )
            if record.status != "running":
                self.tell(record)

    def ask(self, number: int) -> Proposal:
        """The configuration of search trial `number`."""
        seed = space.trial_seed(self._spec, number)  # of initial weights and order; also of the proposal
        self._study.sampler = _fresh_sampler(seed)
        trial = self._study.ask()
        assert trial.number == number
        config = space.suggest(trial, self._spec, self._num_teacher_stages, seed)
        # Optuna lets a running trial count with parameters that it drew and never used; a restored one has
        # only those it used. Blanking the drawn ones makes a resumed study equal an uninterrupted one.
        self._study._storage.set_trial_system_attr(trial._trial_id, "tpe:relative_params:0", "")
        return Proposal(config, dict(trial.params), _texts(trial.distributions))

    def tell(self, record: TrialRecord) -> None:
        """Completed trials with their values, stopped ones as pruned, failed ones as failed."""
        if record.status == "completed":
            assert record.val_accuracy is not None
            self._study.tell(record.number, objective_values(record, self._spec.search.objectives))
        else:
            state = TrialState.PRUNED if record.status == "stopped" else TrialState.FAIL
            self._study.tell(record.number, state=state)


def objective_values(record: TrialRecord, objectives: Iterable[str]) -> list[float]:
    """Validation accuracy and log10 of each cost, in the order of the spec's objectives."""
    measured: Mapping[str, Any] = {"val_accuracy": record.val_accuracy}
    return [measured[name] if name in measured else math.log10(record.cost[name]) for name in objectives]


def _texts(distributions: Mapping[str, BaseDistribution]) -> dict[str, str]:
    return {name: distribution_to_json(distribution) for name, distribution in distributions.items()}


def _fresh_sampler(seed: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # multivariate and group
        return optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed)
