"""The searches that are compared: kdsearch's own, and what else one could do.

Goes in: a table, a seed. Comes out: a `Side` for `benchmarks.simulation`. Every side begins with the
`STARTING_POINTS` proposals that kdsearch's sampler makes before it has been told anything, and every side
that stops trials does so from the same grace on and by the same reduction factor.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from benchmarks.simulation import Job
from benchmarks.table import Cell, Table, key_of, num_stages
from kdsearch import journal, pareto, session, space
from kdsearch.records import Event, TrialConfig
from kdsearch.search import asha
from kdsearch.search.conductor import Conductor
from kdsearch.search.messages import Report
from kdsearch.spec import SweepSpec

SCHEDULER = "pareto"  # kdsearch's own rule
GRACE = 3  # epochs, as in search_spaces/digits.yaml: one epoch of 16 steps says next to nothing
REDUCTION = 3
STARTING_POINTS = 10  # TPE's own default of random proposals before its model
VERSION = 2  # raise it when a side acts otherwise than before: recorded results are of one version
ROUND = 96  # one epoch, then top k: configurations that are compared with one another
TOP_KS = (3, 6, 12, 24)


class MemoryJournal:
    """What a conductor needs of a `kdsearch.journal.Journal`, on no disk and without a clock."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, kind: str, trial_id: str | None = None, **data: Any) -> Event:
        return self.append_all([(kind, trial_id, data)])[0]

    def append_all(self, entries: Sequence[tuple[str, str | None, dict[str, Any]]]) -> list[Event]:
        first = len(self.events)
        events = [
            {"v": journal.VERSION, "seq": first + i, "time": 0.0, "kind": kind, "trial_id": trial, **data}
            for i, (kind, trial, data) in enumerate(entries)
        ]
        self.events += events
        return events


class Conducted:
    """kdsearch itself: its conductor, queue, sampler and stopping rule, with every curve from the table."""

    def __init__(self, table: Table, spec: SweepSpec) -> None:
        journal: Any = MemoryJournal()
        self._epochs = spec.epochs
        session.begin(spec, journal, table.cost_of, data={"num_validation": spec.data.validation})
        self.conductor = Conductor(spec, journal, num_stages(spec), table.cost_of, clock=lambda: 0.0)

    def next(self) -> Job | None:
        task = self.conductor.next_task()
        return None if task is None else Job(task.trial_id, task.config, counts=task.trial_id[0] == "t")

    def report(self, job: Job, epoch: int, accuracy: float | None) -> bool:
        name = str(job.name)
        if accuracy is None:
            report = Report(error="diverged", reason="diverged")
        else:
            metrics = {"train_loss": 0.0, "val_accuracy": accuracy, "lr": 0.0}
            result = {"epoch": epoch, "metrics": metrics, "terms": {}, "time_s": 0.0, "cpu_s": 0.0}
            report = Report([result], finished=epoch == self._epochs, student="in the table")
        return self.conductor.on_report(name, 1, report)


def without_stopping(spec: SweepSpec, sampler: str | None = None) -> SweepSpec:
    """The spec with every trial trained to the end, by another sampler where one is given."""
    early = replace(spec.search.early_stopping, scheduler="none")
    search = replace(spec.search, early_stopping=early, sampler=sampler or spec.search.sampler)
    return replace(spec, search=search)


class Listed:
    """Full trainings in a given order."""

    def __init__(self, configs: Iterator[TrialConfig]) -> None:
        self._left = enumerate(configs)

    def next(self) -> Job | None:
        found = next(self._left, None)
        return None if found is None else Job(*found)

    def report(self, job: Job, epoch: int, accuracy: float | None) -> bool:
        return True


class OneEpochThenTop:
    """Rounds of `ROUND` random configurations: one epoch each, then the best k go on to the end.

    Best by non-domination rank of accuracy and params, within a rank by accuracy. Egele et al., 2023,
    arXiv 2307.15422, find it to rival multi-fidelity methods; k is told, which no user is.
    """

    def __init__(self, table: Table, configs: Iterator[TrialConfig], k: int) -> None:
        self._table, self._k = table, k
        self._left = enumerate(configs)
        self._wanted: list[Job] = []
        self._waiting = 0  # jobs of this round's first epoch that have not reported
        self._seen: list[tuple[Job, float]] = []

    def next(self) -> Job | None:
        if not self._wanted and not self._waiting:
            self._wanted = [Job(*found) for _, found in zip(range(ROUND), self._left, strict=False)]
            self._waiting = len(self._wanted)
        return self._wanted.pop(0) if self._wanted else None

    def report(self, job: Job, epoch: int, accuracy: float | None) -> bool:
        if epoch > 1:
            return True
        self._waiting -= 1
        if accuracy is not None:
            self._seen.append((job, accuracy))
        if not self._waiting:
            points = [[-a, self._table.cell(one.config).cost["params"]] for one, a in self._seen]
            order = sorted(zip(pareto.ranks(points), points, range(len(points)), strict=True))
            self._wanted = [replace(self._seen[i][0], begun=1) for _, _, i in order[: self._k]]
            self._seen = []
        return False


class Proposed:
    """Multi-objective TPE, told as Ray's OptunaSearch tells it, with any rule that stops trials.

    A stopped trial is COMPLETE with its early value (ray 2.60). Multivariate and by groups, with costs in
    log10: what kdsearch proposes with, but one sampler that learns from all trials.
    """

    def __init__(self, table: Table, spec: SweepSpec, goes_on: Callable[[Job, int, float], bool]) -> None:
        self._table, self._spec, self._goes_on = table, spec, goes_on
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(multivariate=True, group=True, seed=spec.search.seed)
        directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
        self._study = optuna.create_study(sampler=sampler, directions=directions)
        for params in starting_points(table, spec):
            self._study.enqueue_trial(dict(params))
        self._num_started = 0

    def next(self) -> Job | None:
        assert self._spec.search.trials is not None
        if self._num_started == self._spec.search.trials:
            return None
        number = self._num_started
        self._num_started += 1
        trial = self._study.ask()
        return Job(number, space.suggest(trial, self._spec, num_stages(self._spec), seed=number))

    def report(self, job: Job, epoch: int, accuracy: float | None) -> bool:
        number = int(str(job.name))
        if accuracy is None:
            self._study.tell(number, state=TrialState.FAIL)
            return False
        goes_on = self._goes_on(job, epoch, accuracy)
        if not goes_on or epoch == self._spec.epochs:
            cost = self._table.cell(job.config).cost["params"]
            self._study.tell(number, [accuracy, math.log10(cost)])
        return goes_on


def ray_asha(max_epochs: int) -> Callable[[Job, int, float], bool]:
    """Ray's own ASHAScheduler on accuracy, spoken to as Tune does."""
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(
        metric="val_accuracy", mode="max", max_t=max_epochs, grace_period=GRACE, reduction_factor=REDUCTION
    )
    added = set()

    controller: Any = None  # of which it asks nothing

    def goes_on(job: Job, epoch: int, accuracy: float) -> bool:
        trial: Any = SimpleNamespace(trial_id=job.name)
        if job.name not in added:
            added.add(job.name)
            scheduler.on_trial_add(controller, trial)
        result = {"training_iteration": epoch, "val_accuracy": accuracy}
        return bool(scheduler.on_trial_result(controller, trial, result) == ASHAScheduler.CONTINUE)

    return goes_on


class MultiObjectiveAsha:
    """At a rung a trial goes on when it is in the best 1/reduction by non-domination rank, itself included.

    Schmucker et al., 2021, arXiv 2106.12639, with the stopping variant's rungs: first arrivals go on.
    Of equal ranks as many go on as there is room for all of them: a tie at the cutoff passes.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rungs: dict[int, list[list[float]]] = {
            rung: [] for rung in asha.rungs(GRACE, REDUCTION, table.epochs)
        }

    def __call__(self, job: Job, epoch: int, accuracy: float) -> bool:
        seen = self._rungs.get(epoch)
        if seen is None:
            return True
        seen.append([-accuracy, self._table.cell(job.config).cost["params"]])
        ranks = pareto.ranks(seen)
        promising = math.ceil(len(seen) / REDUCTION)
        return int((ranks < ranks[-1]).sum()) < promising


def starting_points(table: Table, spec: SweepSpec) -> list[Mapping[str, Any]]:
    """What kdsearch runs first, before any result has reached it, by Optuna's names and values."""
    side = Conducted(table, without_stopping(spec))
    trials = side.conductor.sweep
    while len(trials.of_role("search")) < STARTING_POINTS:
        side.next()
    return [trial.params for trial in trials.of_role("search")]


def shuffled(table: Table, spec: SweepSpec) -> Iterator[TrialConfig]:
    """The starting points, then every other cell in random order."""
    stages = num_stages(spec)
    first = [
        space.suggest(optuna.trial.FixedTrial(dict(params)), spec, stages, 0)
        for params in starting_points(table, spec)
    ]
    begun = dict.fromkeys(map(key_of, first))
    rest = [key for key in table.cells if key not in begun]
    np.random.default_rng(spec.search.seed).shuffle(rest)
    return iter([table.cells[key].config for key in [*begun, *rest]])


def oracle(table: Table) -> Iterator[TrialConfig]:
    """Only what is on the table's front, each time what adds most hypervolume for its work."""
    left: list[Cell] = list(table.front)
    points: list[tuple[float, float]] = []
    while left:
        reached = table.hypervolume(points)

        def gain(cell: Cell, reached: float = reached) -> float:
            own = (cell.final, cell.cost["params"])
            return (table.hypervolume([*points, own]) - reached) / cell.cost["macs"]

        best = max(left, key=gain)
        left.remove(best)
        points.append((best.final, best.cost["params"]))
        yield best.config
