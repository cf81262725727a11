"""The chapter of a report that compares methods on equal terms.

Goes in: a `Comparison` and its figures. Comes out: blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kdsearch import words
from kdsearch.comparison import KD, Comparison, Row
from kdsearch.document import Block, Bullets, Heading, Paragraph, Picture, Table, literal
from kdsearch.results import method_label
from kdsearch.statistics import CONFIDENCE, Estimate

DEARER = 1.1  # times kd's time: below it a difference may be the machine's

RULE = (
    "Helped or hurt: the whole interval lies above or below zero. Not separated: it does not, or there is "
    "none, because there is one seed or all differences are equal."
)


def chapter(found: Comparison, figures: Mapping[str, Picture | str]) -> list[Block]:
    """What every configuration gained, at which cost; failed trials by name; accuracy against temperature."""
    gains, temperature = figures["gains"], figures["temperature"]
    blocks: list[Block] = [
        Heading("Methods compared"),
        Paragraph(_terms(found)),
        *_failed(found),
        Paragraph(gains) if isinstance(gains, str) else gains,
        _table(found),
        Bullets(tuple(_findings(found))),
        Paragraph(f"{RULE}{_by_chance(found)}"),
        Paragraph(_cost(found)),
    ]
    if isinstance(temperature, Picture):
        blocks += [Heading("Accuracy against temperature", 3), temperature]
    return blocks


def _terms(found: Comparison) -> str:
    times = f"with {found.num_seeds} seeds" if found.num_seeds > 1 else "once"
    configurations = "1 configuration" if len(found.rows) == 1 else f"{len(found.rows)} configurations"
    text = (
        f"{configurations}, each trained {times}, all for the same epochs on the same views of the same "
        "images. Gain is the validation accuracy less that of the control without distillation that has the "
        "same student, recipe and seed, and so the same initial weights and order; in points."
    )
    if found.num_seeds == 1:
        return f"{text} One seed has no interval: nothing here can be told from chance. Raise `search.seeds`."
    return (
        f"{text} It is the mean over the seeds, with its {CONFIDENCE:.0%} interval by Student's t over the "
        "paired differences; ± is the standard deviation of single trainings."
    )


def _by_chance(found: Comparison) -> str:
    """What many intervals promise together, which is less than each alone."""
    judged = sum(row.gain is not None and row.gain.low is not None for row in found.rows)
    if not judged:
        return ""
    return (
        f" Each interval stands for itself: if none of these {judged} configurations changed anything, about "
        f"{judged * (1 - CONFIDENCE):.1f} would still be called helped or hurt."
    )


def _table(found: Comparison) -> Table:
    """Sizes have a column where they differ: some methods leave a part of their own in the student."""
    rows = (*found.rows, *found.controls)
    interval = f"{CONFIDENCE:.0%} interval"
    header = ("method", "n", "accuracy", "gain", interval, "verdict", "epoch", "cost")
    if len({row.params for row in rows}) == 1:
        return Table(header, "lrrrrlrr", tuple(_cells(row) for row in rows))
    return Table((*header, "params"), "lrrrrlrrr", tuple((*_cells(row), f"{row.params:,}") for row in rows))


def _cells(row: Row) -> tuple[str, ...]:
    gain = row.gain
    interval = "" if gain is None or gain.low is None else f"{_points(gain.low)} to {_points(gain.high)}"
    return (
        literal(row.label),
        str(len(row.completed)) + (f" of {len(row.completed) + len(row.failed)}" if row.failed else ""),
        _accuracy(row.accuracy),
        "" if gain is None else _points(gain.mean),
        interval,
        "failed" if row.failed and not row.completed else row.verdict,
        "" if row.epoch_s is None else f"{row.epoch_s:.3g} s",
        "" if row.cost is None else f"{row.cost:.2f}×",
    )


def _points(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:+.2f}"


def _accuracy(known: Estimate | None) -> str:
    if known is None:
        return ""
    return f"{known.mean:.4f}" + ("" if known.std is None else f" ± {known.std:.4f}")


def _findings(found: Comparison) -> Iterable[str]:
    if found.num_seeds > 1:
        for verdict in ("helped", "hurt", "not separated"):
            named = [row.label for row in found.rows if row.verdict == verdict]
            yield f"{verdict.capitalize()}: {literal(words.listed(named)) or 'none'}."
    dearer = [row.label for row in found.rows if _is_dearer_for_nothing(row, found)]
    if dearer:
        these = literal(words.listed(dearer))
        yield f"Dearer than kd, by {DEARER - 1:.0%} or more, without a larger gain: {these}."


def _is_dearer_for_nothing(row: Row, found: Comparison) -> bool:
    """Whether it costs clearly more than kd on the same student and gained no more on average."""
    plain = [
        other.gain.mean
        for other in found.rows
        if other.gain and method_label(other.config) == KD and other.config.control == row.config.control
    ]
    if row.gain is None or row.cost is None or not plain:
        return False
    return row.cost_base == KD and row.cost >= DEARER and row.gain.mean <= max(plain)


def _cost(found: Comparison) -> str:
    bases = {row.cost_base for row in found.rows if row.cost_base}
    base = "kd's" if bases == {KD} else "the control's, because kd was not run"
    if len(bases) > 1:
        base = "kd's, or where kd was not run to the control's"
    seconds = "processor time" if found.clock == "cpu_s" else "time on the wall clock"
    return (
        f"Epoch is the mean {seconds} of a trial's epochs, with validation and whatever the method prepares, "
        f"as median over the seeds; cost is relative to {base}, with the same student and recipe. Methods "
        "that read no maps take the teacher's outputs from files, where resources.cache_gb allows it; the "
        "others run the teacher. Trials that run side by side share the machine: a difference of a tenth "
        "means little. Memory is not measured in a sweep."
    )


def _failed(found: Comparison) -> list[Block]:
    lines = [
        f"{trial.trial_id} ({literal(row.label)}, seed {trial.seed}) failed and is in no mean: "
        f"{literal(trial.error or trial.reason)}"
        for row in (*found.rows, *found.controls)
        for trial in row.failed
    ]
    return [Bullets(tuple(lines), is_warning=True)] if lines else []
