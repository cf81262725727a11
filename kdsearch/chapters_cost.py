"""What a report says of time and money: phases, kinds of work, each front student's cost.

Goes in: a `SweepRecord`, the events behind it, the figures. Comes out: blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdsearch import costs, results, summary
from kdsearch.confirmation import front_of_record
from kdsearch.document import Block, Heading, Paragraph, Picture, Table, literal
from kdsearch.progress import count, duration
from kdsearch.records import Event, SweepRecord

SHARE = (
    "Own is the training that the search chose; confirming its repeats and paired controls, those shared "
    "with others split evenly. Everything else that was trained in its size band (floors, tuning, trials "
    "that were stopped, failed or dominated, repeats and controls of students off the front) is shared "
    "evenly by the band's front students; a band without one is shared by the whole front. So the totals "
    "add up to all that was spent on students; the teacher is not in them."
)


def chapter(sweep: SweepRecord, events: Sequence[Event], figure: Picture | str) -> list[Block]:
    return [*_time(sweep, events), *_accounts(sweep, events), *_front(sweep, figure)]


def _time(sweep: SweepRecord, events: Sequence[Event]) -> list[Block]:
    runs = summary.sessions(events)
    phases = summary.phases(runs)
    rows = tuple(
        (literal(name), duration(spent["wall_s"]), duration(spent["cpu_s"])) for name, spent in phases.items()
    )
    text = f"{duration(summary.wall_s(runs))} on the wall clock." + (
        "" if phases else " The phases are known once the sweep has ended."
    )
    return [
        Heading("Time and cost"),
        Paragraph(text),
        *([Table(("phase", "wall", "CPU of the driver"), "lrr", rows)] if rows else []),
    ]


def _accounts(sweep: SweepRecord, events: Sequence[Event]) -> list[Block]:
    found = list(costs.accounts(sweep, events).values())
    if not found:
        return []
    has_gpus = costs.uses_gpus(sweep)
    whole = math.fsum(account.device_s for account in found)
    header = ("work", "n", "epochs", "time", "CPU", *(["GPU"] if has_gpus else []), "share")
    rows = tuple(
        (
            account.label,
            f"{account.num_trials:,}",
            f"{account.epochs:,}",
            duration(account.time_s),
            duration(account.cpu_s),
            *([duration(account.gpu_s)] if has_gpus else []),
            f"{account.device_s / whole:.0%}" if whole else "",
        )
        for account in found
    )
    text = (
        "Epochs by what they were for. Trials run side by side, so their times can add up to more than the "
        f"wall clock; the share is of {costs.unit(sweep)}. Not counted: starting processes, idle slots, "
        "epochs that a crash lost; a teacher that was there before."
    )
    return [Paragraph(text), Table(header, "l" + "r" * (len(header) - 1), rows)]


def _front(sweep: SweepRecord, figure: Picture | str) -> list[Block]:
    spent = costs.of_front(sweep)
    if not spent:
        return []
    rows = tuple(
        (
            trial.student_id,
            f"{count(trial.cost['params'])}",
            f"{results.accuracy(trial):.4f}",
            *(duration(seconds) for seconds in (cost.own, cost.confirming, cost.share, cost.total)),
        )
        for trial in front_of_record(sweep)
        for cost in [spent[trial.student_id]]
    )
    header = ("student", "params", "accuracy", "own", "confirming", "share of the rest", "cost")
    return [
        Heading("What a student of the front cost", 3),
        Paragraph(f"In {costs.unit(sweep)}. {SHARE}"),
        Table(header, "lrrrrrr", rows),
        Paragraph(figure) if isinstance(figure, str) else figure,
    ]
