"""Asynchronous workers on a virtual clock, and what a search had found when.

Goes in: a `Side`, which says what to train next and whether to go on, a table that knows every curve, and a
number of slots. Comes out: a `Trace`. An epoch takes its MACs' worth of time; nothing trains here.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.table import Cell, Table
from kdsearch.records import TrialConfig

ENOUGH = 0.99  # of the table's hypervolume: a search ends there


@dataclass(frozen=True)
class Job:
    """A training to run, from epoch `begun` on; `counts` is whether its student may be on the front."""

    name: Hashable
    config: TrialConfig
    begun: int = 0
    counts: bool = True


class Side(Protocol):
    """A search. `next` is asked whenever a worker is free; None: nothing now, ask again after a report.

    `report` hears of every epoch and answers whether the job goes on. `epoch` counts from 1; an accuracy of
    None: the training broke off in this epoch, and its answer is not read.
    """

    def next(self) -> Job | None: ...

    def report(self, job: Job, epoch: int, accuracy: float | None) -> bool: ...


@dataclass
class Trace:
    """What a search had found after how much useful work: epochs times MACs, of all that ran.

    `steps` has a row (work, share of the table's hypervolume, shortfall of its small end) whenever the
    first of them changed. `work` is that of the whole search.
    """

    steps: list[tuple[float, float, float]] = field(default_factory=list)
    work: float = 0.0
    num_trials: int = 0
    num_epochs: int = 0
    num_full: int = 0  # trained to the end
    halted_front: dict[str, int] = field(default_factory=dict)  # by epoch: members of the table's front

    def work_to(self, share: float) -> float | None:
        """The useful work until this share of the table's hypervolume; None where it was never reached."""
        return next((work for work, reached, _ in self.steps if reached >= share), None)


def simulate(side: Side, table: Table, slots: int, budget: float, enough: float = ENOUGH) -> Trace:
    """Run a search until it has found enough, has spent its budget of useful work, or wants nothing more.

    Only students trained to the end count, and controls do not. An epoch that broke off counts as work.
    A search trial shows the curve of the first seed whatever its own, so to propose a cell again brings
    nothing new, and its student counts with the mean of its cell's seeds. Controls show that of their seed.
    """
    trace = Trace()
    points: list[tuple[float, float]] = []
    front = {id(cell) for cell in table.front}
    busy: list[tuple[float, int, Job, int, Cell]] = []  # end of the epoch, order of its start, job, epoch
    ticket = itertools.count()
    now = 0.0
    while True:
        while len(busy) < slots and (job := side.next()) is not None:
            trace.num_trials += job.begun == 0
            cell = table.cell(job.config)
            heapq.heappush(busy, (now + cell.cost["macs"], next(ticket), job, job.begun + 1, cell))
        if not busy or trace.work >= budget:
            return trace
        now, _, job, epoch, cell = heapq.heappop(busy)
        curve = cell.curve(0 if job.counts else job.config.seed)
        trace.work += cell.cost["macs"]
        trace.num_epochs += 1
        broke = epoch > len(curve.accuracies)
        accuracy = None if broke else curve.accuracies[epoch - 1]
        goes_on = side.report(job, epoch, accuracy) and not broke
        if goes_on and epoch < table.epochs:
            heapq.heappush(busy, (now + cell.cost["macs"], next(ticket), job, epoch + 1, cell))
        elif accuracy is not None and epoch == table.epochs:
            trace.num_full += job.counts
            if job.counts:
                points.append((cell.final, cell.cost["params"]))
                share = table.hypervolume(points) / table.best_hypervolume
                if not trace.steps or share > trace.steps[-1][1]:
                    trace.steps.append((trace.work, share, table.shortfall(points)))
                if share >= enough:
                    return trace
        elif job.counts and not broke and id(cell) in front:
            trace.halted_front[str(epoch)] = trace.halted_front.get(str(epoch), 0) + 1
