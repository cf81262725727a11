"""`python -m kdsearch.pick DIR --max-params 50k`: the best student within limits, and a copy of it.

Goes in: a sweep's folder and limits. Comes out: the student with the highest validation accuracy among the
completed search trials within them, or exit 1 and the nearest miss. Once the front was confirmed, the choice
is made among the students that were trained again, by the mean accuracies of their repeats, and the copy is
the repeat with the median accuracy; before, on the search's own accuracies (one seed). The answer says which.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsearch import cli, results
from kdsearch.confirmation import Student, confirmation, front_of_record, no_kd_controls
from kdsearch.records import SweepRecord, TrialRecord

STUDENT_FILES = ("student.safetensors", "student.json")
BASIS = "one seed, chosen on the validation split; it has not been confirmed"
CONFIRMED_BASIS = "mean validation accuracy of repeats with fresh seeds; this is the median one of them"
_WORDS = {"params": "params", "macs": "MACs", "size_mb": "MB"}
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


@dataclass(frozen=True)
class Limit:
    """One condition: `value` is the largest cost allowed, for val_accuracy the smallest."""

    option: str  # as typed, for messages
    measure: str  # params, macs, size_mb or val_accuracy
    value: float

    def excess(self, trial: TrialRecord) -> float:
        """How far a student is beyond the limit, relative to it; 0 or less within."""
        actual = results.objective(trial, self.measure)
        beyond = self.value - actual if self.measure == "val_accuracy" else actual - self.value
        return beyond / self.value if self.value else beyond


@dataclass(frozen=True)
class Pick:
    """The answer: a student, or None and the student that misses the limits by least."""

    student: TrialRecord | None
    nearest: TrialRecord | None
    control: TrialRecord | None  # a no-KD control within the limits that is more accurate than the student
    confirmed: Student | None = None  # the repeats behind `student`, one of them, or else behind `nearest`


def pick(sweep: SweepRecord, limits: Sequence[Limit]) -> Pick:
    """Highest validation accuracy within all limits; of equal ones the fewest params, then the lowest id.

    Every student of a completed search trial is a candidate. Where the limits are on the sweep's objectives
    the answer is on the front; a limit on another cost can leave only students that are not. After
    confirmation the candidates are the students that were repeated, as far as any of them is within the
    limits on costs: a single lucky run is no answer where their means fall short. What distillation is worth
    is then said by paired seeds and not by the luckiest control.
    """
    confirmed = confirmation(sweep)
    repeats = (
        {s.record.student_id: s for s in confirmed.students} if confirmed and confirmed.is_complete else {}
    )
    repeated = [student.as_confirmed for student in repeats.values()]  # smallest first, like `completed`
    others = [trial for trial in results.completed(sweep, "search") if trial.student_id not in repeats]
    on_costs = [limit for limit in limits if limit.measure != "val_accuracy"]
    found = [trial for trial in repeated if _fits(trial, on_costs)] or others
    within = [trial for trial in found if _fits(trial, limits)]
    missing = [trial for trial in (*repeated, *others) if not _fits(trial, limits)]
    floor = [trial for trial in no_kd_controls(sweep) if _fits(trial, limits)]
    student = max(within, key=results.accuracy, default=None)
    nearest = None if within else min(missing, key=lambda trial: _excess(trial, limits), default=None)
    shown = student or nearest
    chosen = repeats.get(shown.student_id) if shown else None
    control = None if chosen and chosen.gain else max(floor, key=results.accuracy, default=None)
    if control and student and results.accuracy(control) <= results.accuracy(student):
        control = None
    return Pick(chosen.median_run if student and chosen else student, nearest, control, chosen)


def _excess(trial: TrialRecord, limits: Sequence[Limit]) -> float:
    """How far a student is beyond the limit that it misses most."""
    return max((limit.excess(trial) for limit in limits), default=0.0)


def _fits(trial: TrialRecord, limits: Sequence[Limit]) -> bool:
    return _excess(trial, limits) <= 0


def miss_words(trial: TrialRecord, limits: Sequence[Limit]) -> str:
    """What a student would need, limit by limit."""
    return " and ".join(_miss(trial, limit) for limit in limits if limit.excess(trial) > 0)


def _miss(trial: TrialRecord, limit: Limit) -> str:
    actual = results.objective(trial, limit.measure)
    if limit.measure == "val_accuracy":
        gap = 100 * (limit.value - actual)
        return f"its accuracy {actual:.4f} is {gap:.2f} points below {limit.option} {limit.value:g}"
    over = actual - limit.value
    return (
        f"its {_number(actual)} {_WORDS[limit.measure]} are {_number(over)} ({over / limit.value:.1%}) over "
        f"{limit.option} {_number(limit.value)}"
    )


def description(
    sweep: SweepRecord, trial: TrialRecord, folder: Path, confirmed: Student | None = None
) -> dict[str, Any]:
    """The answer for programs (--json): a row of trials.csv, with the configuration apart.

    Of a repeat also what it repeats (`confirmed` has the mean): whether that one is on the front.
    """
    of_record = {other.student_id for other in front_of_record(sweep)}
    is_on_front = trial.student_id in of_record if confirmed is None else confirmed.is_on_front
    row = results.trial_row(sweep, trial, is_on_front)
    fixed = {name: value for name, value in row.items() if name in results.RESULT_COLUMNS}
    config = {name: value for name, value in row.items() if name not in results.RESULT_COLUMNS}
    more = {} if confirmed is None else _of_repeats(confirmed)
    basis = BASIS if confirmed is None else CONFIRMED_BASIS
    return {**fixed, **more, "basis": basis, "path": str(folder / trial.student), "config": config}


def _of_repeats(confirmed: Student) -> dict[str, Any]:
    return {
        "repeats": confirmed.record.student_id,
        "num_seeds": confirmed.validation.n,
        "confirmed_val_accuracy_mean": confirmed.validation.mean,
        "test_accuracy_mean": confirmed.test and confirmed.test.mean,
        "p_on_front": confirmed.p_on_front,
        "gain": confirmed.gain and confirmed.gain.mean,
        "verdict": confirmed.verdict,
    }


def copy_student(source: Path, out: Path) -> None:
    """Copy a saved student into a new folder, which appears with both files or not at all, or an empty one.

    Raises UsageError where `out` already holds something, NotFinishedError where the student is gone.
    """
    _check_empty(out)
    out = out.absolute()
    missing = [name for name in STUDENT_FILES if not (source / name).is_file()]
    if missing:
        raise cli.NotFinishedError(
            f"{source}: {' and '.join(missing)} missing; was the sweep copied without students/?"
        )
    half = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        half.mkdir(parents=True)
        for name in STUDENT_FILES:
            shutil.copyfile(source / name, half / name)
        if out.exists():  # somebody may be in it: it stays the folder that it is
            for name in STUDENT_FILES:
                os.replace(half / name, out / name)
        else:
            os.replace(half, out)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise cli.UsageError(f"--out {out}: {what}; give a new folder, or remove it first")


def number(text: str) -> float:
    """`50k`, `1.5M`, `2e6` or `50000` as a positive number. Raises ArgumentTypeError."""
    unit = text[-1:].lower() if text[-1:].isalpha() else ""
    try:
        value = float(text[: len(text) - len(unit)]) * _UNITS[unit]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 50000, 50k or 1.5M") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be above 0")
    return value


def fraction(text: str) -> float:
    """An accuracy in 0 to 1. Raises ArgumentTypeError, with the fraction meant by a percentage."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction such as 0.7") from None
    if 0 <= value <= 1 and not text.endswith("%"):
        return value
    hint = f"; did you mean {value / 100:g}?" if 0 <= value <= 100 else ""
    raise argparse.ArgumentTypeError(f"{text!r} is not a fraction between 0 and 1{hint}")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdsearch pick", description="The best student of a sweep within limits."
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the sweep's folder")
    parser.add_argument(
        "--max-params", metavar="N", type=number, help="learnable parameters: 50000, 50k, 1.5M"
    )
    parser.add_argument("--max-macs", metavar="N", type=number, help="multiply-accumulates of one input: 5M")
    parser.add_argument(
        "--max-size-mb", metavar="X", type=number, help="parameters and buffers in 10^6 bytes"
    )
    parser.add_argument(
        "--min-accuracy", metavar="X", type=fraction, help="validation accuracy, a fraction: 0.7"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="copy the student into this new folder")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def limits_of(options: argparse.Namespace) -> list[Limit]:
    asked = (
        ("--max-params", "params", options.max_params),
        ("--max-macs", "macs", options.max_macs),
        ("--max-size-mb", "size_mb", options.max_size_mb),
        ("--min-accuracy", "val_accuracy", options.min_accuracy),
    )
    return [Limit(option, measure, value) for option, measure, value in asked if value is not None]


def command(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    sweep, _ = results.load(options.folder)
    limits = limits_of(options)
    found = pick(sweep, limits)
    if found.student is None:
        return _no_answer(sweep, found, limits, options)
    answer = description(sweep, found.student, options.folder, found.confirmed)
    if options.out is not None:
        copy_student(options.folder / found.student.student, options.out)
        answer["copied_to"] = str(options.out)
    print(json.dumps(answer, indent=2) if options.json else "\n".join(_lines(sweep, found, answer)))
    return cli.DONE


def _no_answer(sweep: SweepRecord, found: Pick, limits: Sequence[Limit], options: argparse.Namespace) -> int:
    nearest, message = None, "no search trial has completed yet"
    if found.nearest is not None:
        run = found.confirmed.median_run if found.confirmed else found.nearest
        nearest = description(sweep, run, options.folder, found.confirmed)
        miss = miss_words(found.nearest, limits)
        message = f"no student within the limits; the nearest is {found.nearest.student_id}: {miss}"
    if options.json:
        print(json.dumps({"student_id": None, "message": message, "nearest": nearest}, indent=2))
    print(message, file=sys.stderr)
    return cli.NO_ANSWER


def _lines(sweep: SweepRecord, found: Pick, answer: dict[str, Any]) -> list[str]:
    lines = [
        f"student     {answer['student_id']}",
        f"accuracy    {answer['val_accuracy']:.4f} on validation{_of_teacher(answer)}",
        f"params      {answer['params']:,}{_smaller(answer)}",
        f"MACs        {answer['macs']:,}",
        f"size        {answer['size_mb']:.3g} MB",
        f"path        {answer['path']}",
        *([f"copied to   {answer['copied_to']}"] if "copied_to" in answer else []),
        *_repeat_lines(answer),
        f"basis       {answer['basis']}",
    ]
    if not answer["on_front"]:
        names = " and ".join(results.objectives(sweep))
        lines.append(f"note        best within the limits, though not on the front in {names}")
    if found.control is not None:
        lines.append(
            f"note        the no-KD control {found.control.trial_id} within the limits is more accurate: "
            f"{results.accuracy(found.control):.4f} with {found.control.cost['params']:,} params"
        )
    width = max(len(name) for name in answer["config"])
    config = [f"  {name:{width}}  {value}" for name, value in answer["config"].items() if value != ""]
    return [*lines, "configuration", *config]


def _of_teacher(answer: dict[str, Any]) -> str:
    return "" if answer["retention"] is None else f", {answer['retention']:.1%} of the teacher's"


def _smaller(answer: dict[str, Any]) -> str:
    return "" if answer["compression"] is None else f", {answer['compression']:.1f}x fewer than the teacher's"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def _repeat_lines(answer: dict[str, Any]) -> list[str]:
    """What the student repeats, and the mean by which it was chosen."""
    if "repeats" not in answer:
        return []
    test = answer["test_accuracy_mean"]
    mean, seeds = answer["confirmed_val_accuracy_mean"], answer["num_seeds"]
    on_test = "" if test is None else f", {test:.4f} on test"
    repeats = f"repeats     {answer['repeats']}: mean of {seeds} seeds {mean:.4f}{on_test}"
    if answer["gain"] is None:
        return [repeats]
    gain = f"{100 * answer['gain']:+.2f} points over no distillation, paired by seed: {answer['verdict']}"
    return [repeats, f"gain        {gain}"]


def main() -> int:
    return cli.guarded(command)


if __name__ == "__main__":
    sys.exit(main())
