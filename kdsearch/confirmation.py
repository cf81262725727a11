"""What is left of the front after its students were trained again with fresh seeds.

Goes in: a `SweepRecord`. Comes out: every repeated student with its accuracies over the fresh seeds, its
paired gain over no distillation and over plain kd, and how likely it is on the true front; and the front of
record, which is the search's own until all of it has been repeated. The run by which the search chose a
student is in none of these numbers: it was chosen for being good, luck included.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kdsearch import membership, pairing, pareto, statistics
from kdsearch.front import accuracy, completed, front, objectives
from kdsearch.pairing import Confirmed
from kdsearch.records import SweepRecord, TrialRecord
from kdsearch.statistics import Estimate

Split = Literal["test", "validation"]
Spread = tuple[float, int]  # a variance and its degrees of freedom


@dataclass(frozen=True)
class Student:
    """A student and its repeats. Accuracies are fractions; the intervals are by the pooled spread.

    `test` is None without a test split, `no_kd` and gains without a finished pair (a student of plain kd has
    none over it). The accuracy of the no-KD controls and the gains, paired by seed, are those on the split of
    the `Confirmation`. `p_on_front` is None until the whole front of the search was repeated.
    """

    record: TrialRecord
    runs: tuple[TrialRecord, ...]
    validation: Estimate
    test: Estimate | None
    no_kd: Estimate | None
    gain: Estimate | None
    gain_over_kd: Estimate | None
    p_on_front: float | None
    was_on_front: bool
    is_on_front: bool

    @property
    def as_confirmed(self) -> TrialRecord:
        """The record with the mean accuracy of the repeats as its last epoch's."""
        *before, last = self.record.epochs
        last = {**last, "metrics": last["metrics"] | {"val_accuracy": self.validation.mean}}
        return dataclasses.replace(self.record, epochs=[*before, last])

    @property
    def median_run(self) -> TrialRecord:
        """The repeat with the median validation accuracy, of an even number the lower one."""
        return sorted(self.runs, key=accuracy)[(len(self.runs) - 1) // 2]

    @property
    def verdict(self) -> str:
        """Of distillation against none: `statistics.verdict`, blank without a pair."""
        return statistics.verdict(self.gain) if self.gain else ""

    @property
    def verdict_over_kd(self) -> str:
        """Of the recipe that was found against plain kd."""
        return statistics.verdict(self.gain_over_kd) if self.gain_over_kd else ""


@dataclass(frozen=True)
class Confirmation:
    """`students` by params; `unrepeated` are front students of the search without a finished repeat.

    `split` is where gains are measured: the test split where one was opened. `spread` is the variance between
    seeds of a validation accuracy, pooled over the students. `is_complete`: every front student was repeated
    at least once, or could not be.
    """

    students: tuple[Student, ...]
    unrepeated: tuple[TrialRecord, ...]
    split: Split
    spread: Spread
    is_complete: bool

    @property
    def of_search(self) -> list[Student]:
        """The search's front."""
        return [student for student in self.students if student.was_on_front]

    @property
    def on_front(self) -> list[Student]:
        return [student for student in self.students if student.is_on_front]

    @property
    def left(self) -> list[Student]:
        return [student for student in self.of_search if not student.is_on_front]

    @property
    def bias(self) -> float | None:
        """What the search's front promised too much: mean of search less repeated validation accuracy."""
        found = [accuracy(student.record) - student.validation.mean for student in self.of_search]
        return math.fsum(found) / len(found) if found else None


def confirmation(sweep: SweepRecord) -> Confirmation | None:
    """None before the first repeat was trained to its end."""
    found = pairing.confirmed(sweep)
    if not found:
        return None
    members = {trial.student_id: trial for trial in front(sweep)}
    repeated = {pairing.recipe_key(one.student) for one in found}  # a trial proposed twice is repeated once
    unrepeated = tuple(trial for trial in members.values() if pairing.recipe_key(trial) not in repeated)
    is_complete = all(_could_not_be_repeated(sweep, trial) for trial in unrepeated)
    values = [[accuracy(run) for run in one.runs] for one in found]
    spread = membership.pooled_variance(values)
    shares = _shares(sweep, found, values, spread) if is_complete else None
    on_front = _front_by_means(sweep, found, values) if is_complete else set(members)
    split: Split = "test" if any(_tests(one.runs) for one in found) else "validation"
    gains = {arm: [_differences(one, arm, split) for one in found] for arm in pairing.ARMS}
    tests = [_tests(one.runs) for one in found]
    controls = [_on_split([run for run in one.no_kd if run is not None], split) for one in found]
    students = tuple(
        Student(
            one.student,
            one.runs,
            statistics.pooled_estimate(values[index], *spread),
            test=_estimate(tests, index),
            no_kd=_estimate(controls, index),
            gain=_estimate(gains["no_kd"], index),
            gain_over_kd=_estimate(gains["kd"], index),
            p_on_front=None if shares is None else shares[index],
            was_on_front=one.student.student_id in members,
            is_on_front=one.student.student_id in on_front,
        )
        for index, one in enumerate(found)
    )
    return Confirmation(students, unrepeated, split, spread, is_complete)


def front_of_record(sweep: SweepRecord) -> list[TrialRecord]:
    """By params: the front by the means of the repeats; the search's own until all of it was repeated."""
    found = confirmation(sweep)
    if found is None or not found.is_complete:
        return front(sweep)
    return [student.record for student in found.on_front]


def no_kd_controls(sweep: SweepRecord) -> list[TrialRecord]:
    """Completed controls without distillation, of whatever purpose, the smallest first."""
    return [trial for trial in completed(sweep, "control") if not trial.config.is_distilled]


def floors(sweep: SweepRecord) -> list[TrialRecord]:
    """The no-KD controls at the start: what size alone gives, with a recipe that nobody chose."""
    return [trial for trial in no_kd_controls(sweep) if trial.purpose in ("", "floor")]


def _could_not_be_repeated(sweep: SweepRecord, trial: TrialRecord) -> bool:
    repeats = pairing.repeats(sweep, trial)
    return bool(repeats) and all(run.status == "failed" for run in repeats)


def _costs(sweep: SweepRecord, found: Sequence[Confirmed]) -> list[list[float]]:
    return [[one.student.cost[name] for name in objectives(sweep)[1:]] for one in found]


def _shares(
    sweep: SweepRecord, found: Sequence[Confirmed], values: Sequence[Sequence[float]], spread: Spread
) -> list[float] | None:
    """p_on_front of each; None where no student has two repeats and so the spread is not known."""
    variance, degrees = spread
    if not degrees:
        return None
    means, counts = [math.fsum(own) / len(own) for own in values], [len(own) for own in values]
    seed = int(sweep.header["seed"])
    shares = membership.p_on_front(means, counts, _costs(sweep, found), variance, degrees, seed=seed)
    return [float(share) for share in shares]


def _front_by_means(
    sweep: SweepRecord, found: Sequence[Confirmed], values: Sequence[Sequence[float]]
) -> set[str]:
    pairs = zip(values, _costs(sweep, found), strict=True)
    mask = pareto.non_dominated([[-math.fsum(own) / len(own), *costs] for own, costs in pairs])
    return {one.student.student_id for one, is_on_front in zip(found, mask, strict=True) if is_on_front}


def _tests(runs: Sequence[TrialRecord]) -> list[float]:
    return [run.test_accuracy for run in runs if run.test_accuracy is not None]


def _on_split(runs: Sequence[TrialRecord], split: Split) -> list[float]:
    return _tests(runs) if split == "test" else [accuracy(run) for run in runs]


def _differences(one: Confirmed, arm: pairing.Arm, split: Split) -> list[float]:
    """The student's accuracy less its control's, seed by seed, where both are there and not one training.

    None against no distillation for a student that was trained without: its control differs in the recipe.
    """
    if arm == "no_kd" and not one.student.config.is_distilled:
        return []
    pairs = zip(one.runs, one.no_kd if arm == "no_kd" else one.kd, strict=True)
    both = [
        (_accuracy(run, split), _accuracy(control, split))
        for run, control in pairs
        if control is not None and control.config != run.config
    ]
    return [own - other for own, other in both if own is not None and other is not None]


def _accuracy(run: TrialRecord, split: Split) -> float | None:
    return run.test_accuracy if split == "test" else accuracy(run)


def _estimate(groups: Sequence[Sequence[float]], index: int) -> Estimate | None:
    """Of one student's values, by the spread of all students' together."""
    if not groups[index]:
        return None
    return statistics.pooled_estimate(groups[index], *membership.pooled_variance(groups))
