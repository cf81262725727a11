"""Methods compared on equal terms: what a search that lists its configurations found.

Goes in: a `SweepRecord` whose configurations were all tried with the same seeds. Comes out: a row for every
configuration, with its mean paired difference to the control of the same student, recipe and seed.
"""

from __future__ import annotations

import dataclasses
import math
import statistics as plain_statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdsearch import costs, results, statistics, words
from kdsearch.records import SweepRecord, TrialConfig, TrialRecord
from kdsearch.spec_schema import LISTING
from kdsearch.statistics import Estimate

KD = "kd"  # what costs are relative to, where it was run

METHOD_COLUMNS = (
    *("methods", "configuration", "params", "num_completed", "num_failed"),
    *("val_accuracy_mean", "val_accuracy_std", "num_pairs", "gain", "gain_low", "gain_high", "verdict"),
    *("epoch_s", "cost", "cost_base", "trial_ids"),
)


@dataclass(frozen=True)
class Row:
    """One configuration, whatever its seed. Estimates and times are None before a trial completed.

    `differences` are validation accuracies less those of the paired controls, by seed; `epoch_s` is the
    median over the seeds of a trial's mean epoch, and `cost` that over the same of `cost_base`.
    """

    label: str
    config: TrialConfig  # with the first seed
    completed: tuple[TrialRecord, ...]
    failed: tuple[TrialRecord, ...]
    unfinished: tuple[TrialRecord, ...]
    accuracy: Estimate | None
    differences: tuple[float, ...] = ()
    epoch_s: float | None = None
    cost: float | None = None
    cost_base: str = ""

    @property
    def params(self) -> int:
        """Of the student that is saved; a method may leave a part of its own in it."""
        return int((*self.completed, *self.failed, *self.unfinished)[0].cost["params"])

    @property
    def gain(self) -> Estimate | None:
        return statistics.estimate(self.differences) if self.differences else None

    @property
    def verdict(self) -> str:
        """Of `statistics.verdict`; blank where there is nothing to compare."""
        return statistics.verdict(self.gain) if self.gain else ""


@dataclass(frozen=True)
class Comparison:
    """`rows`: the largest gain first, those without one last. `controls`: one for each student and recipe."""

    rows: tuple[Row, ...]
    controls: tuple[Row, ...]
    num_seeds: int
    clock: str  # which seconds `epoch_s` and `cost` count: cpu_s, or time_s where trials use a GPU


def compare(sweep: SweepRecord) -> Comparison | None:
    """None where the trials were proposed one by one and cannot be compared so."""
    if not is_listed(sweep):
        return None
    clock = _clock(sweep)
    floors = [trial for trial in sweep.of_role("control") if trial.purpose in ("", "floor")]
    controls = _rows(floors, clock)
    partners = {
        _key(trial.config): results.accuracy(trial) for control in controls for trial in control.completed
    }
    rows = [
        dataclasses.replace(row, differences=_differences(row, partners))
        for row in _rows(sweep.of_role("search"), clock)
    ]
    priced = [_priced(row, rows, controls, clock) for row in [*rows, *controls]]
    ranked = sorted(
        priced[: len(rows)], key=lambda row: (row.gain is None, -(row.gain.mean if row.gain else 0))
    )
    num_seeds = sweep.header["spec"]["search"].get("seeds", 1)
    return Comparison(tuple(ranked), tuple(priced[len(rows) :]), num_seeds, clock)


def is_listed(sweep: SweepRecord) -> bool:
    """Whether every configuration was listed, not proposed for what others had found."""
    return sweep.header["spec"].get("search", {}).get("sampler") in LISTING


def by_temperature(found: Comparison) -> list[tuple[str, list[Row]]]:
    """Configurations that differ in temperature alone, lowest first, with what they have in common."""
    lines: dict[str, list[Row]] = {}
    for row in found.rows:
        if row.config.temperature is not None and row.accuracy is not None:
            lines.setdefault(repr(dataclasses.replace(row.config, temperature=None)), []).append(row)
    several = [sorted(rows, key=_temperature) for rows in lines.values() if len(rows) > 1]
    labels = _labels([rows[0].config for rows in several])
    return sorted(zip(labels, several, strict=True))


def method_columns(rows: Sequence[results.Row]) -> list[str]:
    """The fixed columns, then the configuration as in trials.csv."""
    return [*METHOD_COLUMNS, *results.config_columns(rows, METHOD_COLUMNS)]


def method_rows(found: Comparison) -> list[results.Row]:
    """methods.csv: a line for every configuration, the largest gain first, then the controls."""
    return [_method_row(row) for row in (*found.rows, *found.controls)]


def _method_row(row: Row) -> results.Row:
    gain = row.gain
    return {
        "methods": results.method_label(row.config),
        "configuration": row.label,
        "params": row.params,
        "num_completed": len(row.completed),
        "num_failed": len(row.failed),
        "val_accuracy_mean": row.accuracy and row.accuracy.mean,
        "val_accuracy_std": row.accuracy and row.accuracy.std,
        "num_pairs": len(row.differences),
        **({"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high} if gain else {}),
        "verdict": row.verdict or None,
        "epoch_s": row.epoch_s,
        "cost": row.cost,
        "cost_base": row.cost_base or None,
        "trial_ids": " ".join(trial.trial_id for trial in (*row.completed, *row.failed)),
        **row.config.flat(),
    }


def _clock(sweep: SweepRecord) -> str:
    """Which seconds of an epoch count: the processor's, which other work on the machine does not change.

    Where trials use a GPU the wall clock's: the processor only waits for it.
    """
    return "time_s" if costs.uses_gpus(sweep) else "cpu_s"


def _rows(trials: Sequence[TrialRecord], clock: str) -> list[Row]:
    """Trials that differ in their seed alone are one row."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        groups.setdefault(_key(dataclasses.replace(trial.config, seed=0)), []).append(trial)
    labels = _labels([group[0].config for group in groups.values()])
    return [_row(label, group, clock) for label, group in zip(labels, groups.values(), strict=True)]


def _row(label: str, group: Sequence[TrialRecord], clock: str) -> Row:
    done = tuple(trial for trial in group if trial.status == "completed" and trial.epochs)
    values = [results.accuracy(trial) for trial in done]
    return Row(
        label,
        group[0].config,
        done,
        tuple(trial for trial in group if trial.status == "failed"),
        tuple(trial for trial in group if trial.status == "running"),
        statistics.estimate(values) if values else None,
        epoch_s=plain_statistics.median(_epoch_s(trial, clock) for trial in done) if done else None,
    )


def _differences(row: Row, partners: dict[str, float]) -> tuple[float, ...]:
    pairs = [(results.accuracy(trial), partners.get(_key(trial.config.control))) for trial in row.completed]
    return tuple(accuracy - control for accuracy, control in pairs if control is not None)


def _priced(row: Row, rows: Sequence[Row], controls: Sequence[Row], clock: str) -> Row:
    """The row with its cost relative to kd's on the same student and recipe; without kd, to the control's."""
    alone = _key(dataclasses.replace(row.config.control, seed=0))
    for base, candidates in ((KD, rows), ("control", controls)):
        times = [
            _epoch_s(trial, clock)
            for other in candidates
            if base == "control" or results.method_label(other.config) == KD
            if _key(dataclasses.replace(other.config.control, seed=0)) == alone
            for trial in other.completed
        ]
        if times and row.epoch_s is not None:
            return dataclasses.replace(row, cost=row.epoch_s / plain_statistics.median(times), cost_base=base)
    return row


def _epoch_s(trial: TrialRecord, clock: str) -> float:
    """Seconds of an epoch, the mean of all: stages and preparations that only some epochs have count."""
    return math.fsum(epoch[clock] for epoch in trial.epochs) / trial.num_epochs


def _labels(configs: Sequence[TrialConfig]) -> list[str]:
    """The methods of each, and where several have the same methods, the settings in which those differ."""
    names = [results.method_label(config) for config in configs]
    flats = [config.flat() for config in configs]
    alike: dict[str, list[dict[str, Any]]] = {}
    for name, flat in zip(names, flats, strict=True):
        alike.setdefault(name, []).append(flat)
    varied = {name: _varied(several) for name, several in alike.items()}
    return [_label(name, flat, varied[name]) for name, flat in zip(names, flats, strict=True)]


def _label(methods: str, flat: dict[str, Any], varied: Sequence[str]) -> str:
    settings = ", ".join(f"{_short(key)} {words.number(flat[key])}" for key in varied if key in flat)
    return f"{methods} {settings}".strip()


def _varied(flats: Sequence[dict[str, Any]]) -> list[str]:
    """The settings that are not the same in all."""
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [key for key in keys if len({repr(flat.get(key)) for flat in flats}) > 1]


def _short(name: str) -> str:
    """`distill.feature.weight` is `feature weight`, `train.lr` is `lr`, `student.width` stays."""
    return name.removeprefix("distill.").removeprefix("train.").replace(".", " ").replace("_", " ")


def _temperature(row: Row) -> float:
    assert row.config.temperature is not None
    return row.config.temperature


def _key(config: TrialConfig) -> str:
    return repr(config)
