"""What to run next and what to make of a report, without Ray.

Goes in: the spec, the journal and the sweep's state so far. Comes out: tasks for workers, one queue by
role, and for every report the answer go on or stop. Every event is on disk before the sampler, the
stopping rule or anyone else hears of it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kdsearch import online
from kdsearch.journal import Journal
from kdsearch.losses.deployed import deployed
from kdsearch.pairing import ARMS, Left
from kdsearch.records import Choice, Role, SweepRecord, TrialConfig, TrialRecord, replay, trial_id
from kdsearch.search import budgets
from kdsearch.search.afterwards import Afterwards
from kdsearch.search.bands import CostOf, band_of
from kdsearch.search.judge import Judge
from kdsearch.search.messages import Report, Task
from kdsearch.search.queue import Wanted, queue
from kdsearch.search.sampler import Policy
from kdsearch.spec import Stages, SweepSpec

logger = logging.getLogger(__name__)

MAX_LOST_WORKERS = 2  # a trial whose worker dies twice is a failed trial: the cause is probably its own
MASS_FAILURE = 5  # that many search trials ended, every one of them failed: the sweep cannot succeed


class Conductor:
    """The state of the search: pending and running trials, and the budget.

    `cost_of` measures a student without training it; `settle` fills in what of a proposal follows from the
    student's size: the teacher assistants. `num_test` counts the images of the test split, 0 without one.
    """

    def __init__(
        self,
        spec: SweepSpec,
        journal: Journal,
        num_teacher_stages: Stages,
        cost_of: CostOf,
        clock: Callable[[], float] = time.time,
        settle: Callable[[TrialConfig], TrialConfig] = lambda config: config,
        num_test: int = 0,
        policy: Policy | None = None,
    ) -> None:
        self._spec = spec
        self._journal = journal
        self._cost_of = cost_of
        self._clock = clock
        self._settle = settle
        self._num_test = num_test
        self.sweep: SweepRecord = replay(journal.events)
        self._edges: list[float] = self.sweep.header["bands"]["edges"]
        self._judge = Judge(spec, self.sweep)
        self._lost: dict[str, int] = {}
        self._queue = queue(
            spec,
            num_teacher_stages,
            cost_of,
            self.sweep,
            policy,
            lambda config: self._costs_of(settle(config)),
        )
        self._afterwards = Afterwards(spec, self.sweep)
        self._requeued = [t.trial_id for t in self.sweep.trials.values() if t.status == "running"]
        self.mass_failure = False

    @property
    def num_trials(self) -> int:
        """Search trials that the spec asks for."""
        return self._queue.num_trials

    @property
    def left(self) -> Left:
        """What still comes after the search, as far as it is known yet."""
        return Left() if self._queue.has_next(self._is_cut_short) else self._afterwards.left()

    def running(self) -> list[TrialRecord]:
        return [trial for trial in self.sweep.trials.values() if trial.status == "running"]

    @property
    def finished(self) -> bool:
        """Nothing left to start and nothing running; after a mass failure, what waits is left to a resume."""
        waiting = set(self._requeued) if self.mass_failure else set()
        return not self._can_start() and all(trial.trial_id in waiting for trial in self.running())

    def _can_start(self) -> bool:
        if self.mass_failure:
            return False
        if self._requeued or self._queue.has_next(self._is_cut_short):
            return True
        return self._afterwards.next() is not None

    @property
    def search_is_over(self) -> bool:
        """Whether a budget is used up. It stays so, whatever the running trials bring, until it is raised."""
        return self.sweep.budget_reached is not None

    @property
    def _is_cut_short(self) -> bool:
        """Whether the search is over before all its trials were started."""
        event = self.sweep.budget_reached
        return event is not None and event["budget"] != "trials"

    def all_failed(self) -> bool:
        """Whether search trials ended and not one of them well."""
        ended = self._ended_search()
        return (
            all(trial.status == "failed" for trial in ended) and next(self._ended_search(), None) is not None
        )

    def _ended_search(self) -> Iterator[TrialRecord]:
        return (trial for trial in self.sweep.of_role("search") if trial.status != "running")

    def next_task(self) -> Task | None:
        """The next attempt to run, journalled; None when nothing is left to start.

        First what an interruption left unfinished, then what the queue wants, then what follows the search.
        """
        if self.mass_failure:
            return None
        while self._requeued:
            trial = self.sweep.trials[self._requeued.pop(0)]
            task = self._restart(trial) if trial.status == "running" else None
            if task is not None:
                return task
        self._look_at_budgets()
        wanted = self._queue.next(self._is_cut_short) or self._afterwards.next()
        return None if wanted is None else self._start(wanted)

    def _look_at_budgets(self) -> None:
        """Journal the budget that ends the search, once."""
        if self.search_is_over:
            return
        spent_s = self.sweep.spent_until(self._clock())
        found = budgets.reached(self._spec, self.sweep, self.num_trials, spent_s)
        if found is not None:
            self._write("budget_reached", None, **dataclasses.asdict(found))

    def _start(self, wanted: Wanted) -> Task:
        role, config = wanted.role, self._settle(wanted.config)
        cost, *others = self._costs_of(config)
        peers = [
            {"student": dataclasses.asdict(one), "cost": cost, "band": band_of(cost["params"], self._edges)}
            for one, cost in zip(online.peers(config.student, config.online)[1:], others, strict=True)
        ]
        name = trial_id(role, wanted.number)
        self._write(
            "trial_started",
            name,
            number=wanted.number,
            role=role,
            seed=config.seed,
            attempt=1,
            config=config.to_json(),
            cost=cost,
            band=band_of(cost["params"], self._edges),
            peers=peers,
            params=wanted.params,
            distributions=wanted.distributions,
            max_epochs=config.train.epochs,
            origin=wanted.origin,
            from_epoch=0,
            purpose=wanted.purpose,
            partner=wanted.partner,
        )
        return self._allowed(Task(name, 1, config, self._rungs_for(role)))

    def _costs_of(self, config: TrialConfig) -> list[dict[str, float]]:
        """What each student of a trial costs with all that the trial's methods leave in it."""
        event = self.sweep.teacher_of(config)
        teacher = None if event is None else Choice(event["family"], event["options"])
        return [dict(self._cost_of(deployed(one, teacher))) for one in online.configs(config)]

    def _restart(self, trial: TrialRecord) -> Task | None:
        """A further attempt, from the last checkpoint if there is one; the worker verifies its sha256.

        None when there is nothing to run: a crash between a report's epochs and the verdict on them leaves
        that verdict to be given here, as it would have been.
        """
        self._stop_if_hopeless(trial, 0)
        if trial.status != "running":
            self._after_end(trial)
            return None
        checkpoint = trial.checkpoint or {}
        self._write(
            "trial_started",
            trial.trial_id,
            number=trial.number,
            role=trial.role,
            attempt=trial.attempt + 1,
            from_epoch=checkpoint.get("epoch", 0),
        )
        task = Task(
            trial.trial_id,
            trial.attempt,
            trial.config,
            self._rungs_for(trial.role),
            checkpoint.get("path", ""),
            checkpoint.get("sha256", ""),
        )
        return self._allowed(task)

    def _allowed(self, task: Task) -> Task:
        """The task, told when to validate, and allowed to open the test split, which is journalled first.

        Every attempt counts as an opening: of one that is lost nobody knows how far it came.
        """
        trial = self.sweep.trials[task.trial_id]
        task = dataclasses.replace(task, evaluated_epochs=self._evaluated_for(trial))
        if not self._num_test or not (trial.role == "confirm" or trial.purpose in ARMS):
            return task
        self._write("test_opened", task.trial_id, attempt=task.attempt, num_images=self._num_test)
        return dataclasses.replace(task, opens_test=True)

    def _rungs_for(self, role: Role) -> tuple[int, ...]:
        return self._judge.rungs if role == "search" else ()

    def _evaluated_for(self, trial: TrialRecord) -> tuple[int, ...] | None:
        """Rungs, unless the spec asks for every epoch.

        The floors are the ruler at every rung, and its noise is measured over neighbouring epochs too: where
        there are rungs, floors are validated in all epochs.
        """
        is_ruler = trial.purpose == "floor" and bool(self._judge.rungs)
        if self._spec.evaluate == "every_epoch" or is_ruler:
            return None
        return self._rungs_for(trial.role)

    def on_report(self, name: str, attempt: int, report: Report) -> bool:
        """Journal a worker's report and say whether the trial goes on."""
        trial = self.sweep.trials[name]
        if trial.status != "running" or attempt != trial.attempt:
            return False  # an orphan of an earlier attempt
        if report.reason == "storage":
            raise OSError(f"{name}: {report.error}")  # the trial stays unfinished, for a resume
        if trial.checkpoint and report.epochs and report.epochs[0]["epoch"] == 1:
            logger.warning("%s begins again: its checkpoint is damaged or of another version", name)
        known = trial.num_epochs
        report = _up_to_what_is_not_finite(report)
        new = [epoch for epoch in report.epochs if epoch["epoch"] > known]
        where = {"node": report.node} | ({} if report.gpus is None else {"gpus": report.gpus})
        entries = [("epoch", name, {"attempt": attempt, **where, **epoch}) for epoch in new]
        if report.checkpoint:
            entries.append(("checkpoint", name, {"attempt": attempt, **report.checkpoint}))
        if report.error:
            entries.append(("trial_ended", name, _ended("failed", report.reason, error=report.error)))
        elif report.finished:
            end = _ended("completed", "full budget", student=report.student)
            entries.append(("trial_ended", name, end | _tested(report)))
        self._write_all(entries)
        self._stop_if_hopeless(trial, known)
        if trial.status != "running":
            self._after_end(trial)
        return trial.status == "running"

    def on_lost_worker(self, name: str, error: str) -> None:
        """A worker died (killed, crashed, its node gone): try again once, from the last checkpoint."""
        trial = self.sweep.trials[name]
        if trial.status != "running":
            return
        self._lost[name] = self._lost.get(name, 0) + 1
        if self._lost[name] < MAX_LOST_WORKERS:
            logger.warning("%s: its worker died (%s); starting it again", name, error)
            self._requeued.append(name)
            return
        text = f"its worker process died {self._lost[name]} times: {error}"
        self._write("trial_ended", name, **_ended("failed", "lost worker", error=text))
        self._after_end(trial)

    def _after_end(self, trial: TrialRecord) -> None:
        if trial.role == "search":
            self.mass_failure = self.all_failed() and sum(1 for _ in self._ended_search()) >= MASS_FAILURE

    def _stop_if_hopeless(self, trial: TrialRecord, known_epochs: int) -> None:
        """Judge a running search trial as things stand; `known_epochs` it had before its newest report."""
        if trial.role != "search" or trial.status != "running":
            return
        decision = self._judge.decide(trial, known_epochs)
        if not decision.goes_on:
            end = _ended("stopped", decision.reason, rule=decision.rule)
            self._write("trial_ended", trial.trial_id, **end)

    def _write(self, kind: str, name: str | None, **data: Any) -> None:
        self._write_all([(kind, name, data)])

    def _write_all(self, entries: Sequence[tuple[str, str | None, dict[str, Any]]]) -> None:
        for event in self._journal.append_all(entries):
            self.sweep.apply(event)


def _tested(report: Report) -> dict[str, Any]:
    """Accuracies on the test split as the journal keeps them; nothing where it stayed closed."""
    if not report.test_accuracies:
        return {}
    first, *others = report.test_accuracies
    return {"test_accuracy": first} | ({"peer_test_accuracies": others} if others else {})


def _ended(status: str, reason: str, *, rule: str = "", error: str = "", student: str = "") -> dict[str, Any]:
    return {"status": status, "reason": reason, "rule": rule, "error": error, "student": student}


def _up_to_what_is_not_finite(report: Report) -> Report:
    """The report itself, or what came before an accuracy that is no number: that trial failed."""
    for position, epoch in enumerate(report.epochs):
        for name, value in epoch["metrics"].items():
            if name.startswith("val_accuracy") and not math.isfinite(value):
                error = f"not finite in epoch {epoch['epoch']}: {name} = {value}"
                known = report.epochs[:position]
                return Report(known, error=error, reason="diverged", node=report.node, gpus=report.gpus)
    return report
