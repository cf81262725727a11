"""What a report says, chapter by chapter, before anyone decides how it looks.

Goes in: a `SweepRecord`, the events behind it, and the figures. Comes out: blocks. Every number comes from
`results` and `summary`; here they only get words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from kdsearch import (
    chapters_confirmation,
    chapters_cost,
    chapters_recipes,
    chapters_teachers,
    comparison,
    comparison_chapter,
    results,
    statistics,
    summary,
    words,
)
from kdsearch.confirmation import Confirmation, Student, confirmation, floors, front_of_record
from kdsearch.document import Block, Bullets, Code, Facts, Heading, Paragraph, Picture, Table, literal
from kdsearch.progress import count, duration
from kdsearch.records import Event, SweepRecord, TrialRecord
from kdsearch.warnings_chapter import warnings

GOOD_RETENTION = 0.95

Figures = Mapping[str, Picture | str]  # by drawing name: the picture, or why there is none


def chapters(sweep: SweepRecord, events: Sequence[Event], figures: Figures) -> list[Block]:
    """The whole report in reading order; a comparison of methods stands in for three of its chapters."""
    compared, found = comparison.compare(sweep), confirmation(sweep)
    return [
        *opening(sweep, events, found),
        *(comparison_chapter.chapter(compared, figures) if compared else []),
        *warnings(sweep),
        *chapters_confirmation.confirmed(sweep, found, figures["confirmed"]),
        *front(sweep, figures, found),
        *(controls(sweep) if compared is None else []),
        *chapters_teachers.teachers(sweep),
        Heading("How far to trust this"),
        Bullets(tuple(_limits(sweep, found))),
        *chapters_confirmation.did_not_work(sweep, found, is_listed=compared is not None),
        *(chapters_recipes.recipes(sweep, figures) if compared is None else []),
        Heading("Learning curves"),
        _figure(figures, "curves"),
        *failures(sweep),
        *chapters_cost.chapter(sweep, events, figures["volume"]),
        *reproduction(sweep),
    ]


def opening(sweep: SweepRecord, events: Sequence[Event], found: Confirmation | None) -> list[Block]:
    header, runs = sweep.header, summary.sessions(events)
    spec, last = header["spec"], runs[-1]
    families = sorted({trial.config.student.name for trial in sweep.of_role("search")})
    teacher = chapters_teachers.introduced(sweep)
    ended = f"{last.status}{f' ({literal(last.reason)})' if last.reason else ''}"
    sessions = f" in {len(runs)} sessions" if len(runs) > 1 else ""
    dataset = literal(str(spec.get("data", {}).get("dataset", "unknown data")))
    intro = (
        f"A search for small students of `{dataset}`: {teacher}; students from "
        f"{words.listed(families) or 'no family yet'}. Began {words.date(runs[0].started)}, {ended} after "
        f"{duration(summary.wall_s(runs))} of work{sessions}."
    )
    more = header.get("data", {}).get("unlabelled")
    if more:
        intro += (
            f" Without labels, {literal(more['words'])}: {more['ratio']:g} beside each labelled image, the "
            "teacher's outputs their only target; controls do without."
        )
    reached = summary.budget_reached(sweep)
    if reached:
        intro += f" The search ended when {literal(reached['text'])} (`search.{reached['budget']}`)."
    urgent = tuple(_warnings(sweep, found))
    return [
        Heading(literal(header["name"]), 1),
        Paragraph(intro),
        *([Bullets(urgent, is_warning=True)] if urgent else []),
        Facts(tuple(_facts(sweep, found))),
        *_counts(sweep),
    ]


def _facts(sweep: SweepRecord, found: Confirmation | None) -> Iterable[tuple[str, str, str]]:
    known = {student.record.student_id: student for student in found.students} if found else {}
    front = front_of_record(sweep)
    if front:
        best = max(front, key=lambda trial: _level(trial, known))
        note = f"{best.student_id}: {_relative(sweep, best, known)}{_repeats(known.get(best.student_id))}"
        yield "best student", f"{_level(best, known):.4f}", note
    kept = [trial for trial in front if (_retention(sweep, trial, known) or 0) >= GOOD_RETENTION]
    if kept and sweep.teacher and sweep.teacher.get("params"):
        smallest = min(kept, key=lambda trial: trial.cost["params"])
        note = f"{smallest.student_id}: the smallest with {GOOD_RETENTION:.0%} of the teacher's accuracy"
        yield (
            f"at {GOOD_RETENTION:.0%} retention",
            f"{results.compression(sweep, smallest):.1f}× smaller",
            note,
        )
    if sweep.teacher and results.teacher_accuracy(sweep) is not None:
        params, ece = sweep.teacher.get("params"), sweep.teacher.get("ece")
        size = "unknown size" if params is None else f"{count(params)} params"
        calibration = "" if ece is None else f", ECE {ece:.3f}"
        yield "teacher", f"{results.teacher_accuracy(sweep):.4f}", size + calibration
    volume = summary.hypervolume(sweep)
    floor, *costs = volume["reference"].items()
    reference = ", ".join(f"{count(value)} {name}" for name, value in costs)
    yield "hypervolume", f"{volume['value']:.4f}", f"above accuracy {floor[1]:.4f} and below {reference}"


def _level(trial: TrialRecord, known: Mapping[str, Student]) -> float:
    """The mean validation accuracy of the repeats; before there are any, that of the search."""
    student = known.get(trial.student_id)
    return student.validation.mean if student else results.accuracy(trial)


def _repeats(student: Student | None) -> str:
    if student is None:
        return ""
    n = student.validation.n
    test = f"; test {student.test.mean:.4f}" if student.test else ""
    return f"; mean of {n} fresh {'seed' if n == 1 else 'seeds'}{test}"


def _counts(sweep: SweepRecord) -> list[Block]:
    planned = sweep.header["spec"].get("search", {}).get("trials")
    counts = summary.counts(sweep)
    rows = [
        (
            role,
            *(str(counts[role][status]) for status in results.STATUSES),
            f"{_total(counts[role], planned, role)}",
        )
        for role in results.ROLES
        if any(counts[role].values())
    ]
    return [Table(("trials", *results.STATUSES, "in all"), "l" + "r" * 5, tuple(rows))] if rows else []


def _total(counts: Mapping[str, int], planned: int | None, role: str) -> str:
    total = sum(counts.values())
    return f"{total} of {planned}" if role == "search" and planned else str(total)


def _warnings(sweep: SweepRecord, found: Confirmation | None) -> Iterable[str]:
    search = sweep.of_role("search")
    if sweep.ended is None:
        running = sum(trial.status == "running" for trial in sweep.trials.values())
        yield f"The sweep is unfinished ({running} still running or cut off): everything here may change."
    paired = (
        {student.record.student_id: student for student in found.students if student.gain} if found else {}
    )
    front = {trial.student_id for trial in front_of_record(sweep)}
    for verdict, what in (("hurt", "hurt"), ("not separated", "was not shown to help")):
        told = [
            chapters_confirmation.named_gain(student)
            for name, student in paired.items()
            if name in front and student.verdict == verdict
        ]
        if told:
            yield f"Distillation {what}, paired by seed, at {words.listed(told)}."
    beaten = [
        f"{trial.student_id} ({trial.cost['params']:,} params, {_accuracy(trial)}; the no-KD control "
        f"{control.trial_id} with {control.cost['params']:,} params reaches {_accuracy(control)})"
        for trial, control in results.beaten_by_controls(sweep)
        if trial.student_id in front - paired.keys()
    ]
    if beaten:
        yield f"Distillation did not help at {words.listed(beaten)}."
    failed = sum(trial.status == "failed" for trial in search)
    if 5 * failed > len(search):
        yield f"{failed} of {len(search)} search trials failed: see the errors below."
    teacher = results.teacher_accuracy(sweep)
    known = {student.record.student_id: student for student in found.students} if found else {}
    better = [
        trial.student_id
        for trial in front_of_record(sweep)
        if teacher is not None and _level(trial, known) > teacher
    ]
    if better:
        named = words.listed(better)
        yield f"More accurate on validation than the teacher: {named}. Was the teacher trained long enough?"


def _limits(sweep: SweepRecord, found: Confirmation | None) -> Iterable[str]:
    if sweep.header["spec"].get("search", {}).get("seeds", 1) > 1:
        yield (
            "The search's front and the learning curves show every seed of a configuration by itself, and "
            "the front takes the luckiest: compare means, as in `methods.csv`."
        )
    yield from chapters_confirmation.limits(sweep, found)
    images = _num_validation(sweep)
    done = results.completed(sweep, "search")
    if images and done:
        p = max(results.accuracy(trial) for trial in done)
        error = 100 * statistics.binomial_error(p, images)
        yield f"{images:,} validation images: accuracy {p:.3f} has a standard error of {error:.1f} points."
    opened = len(sweep.test_openings)
    times = "never opened" if opened == 0 else f"opened {opened} {'time' if opened == 1 else 'times'}"
    yield f"The test split was {times}."
    if any(trial.status == "stopped" for trial in sweep.trials.values()):
        yield "A stopped trial's accuracy is the one it was stopped at: not comparable with a completed one."


def _num_validation(sweep: SweepRecord) -> int | None:
    known = sweep.header.get("data", {}).get("num_validation")
    asked = sweep.header["spec"].get("data", {}).get("validation")
    return known or (asked if isinstance(asked, int) and asked > 1 else None)


def front(sweep: SweepRecord, figures: Figures, confirmed: Confirmation | None) -> list[Block]:
    """The front by the search's own accuracies: the front of record until it has been confirmed."""
    found, of = results.front(sweep), results.completed(sweep, "search")
    if not of:
        return [Heading("The front"), Paragraph("No search trial has completed yet, so there is no front.")]
    header = ("trial", "accuracy", "retention", "params", "MACs", "compression", "student", "recipe")
    rows = tuple(
        (
            trial.student_id,
            _accuracy(trial),
            words.percent(results.retention(sweep, trial)),
            f"{trial.cost['params']:,}",
            count(trial.cost["macs"]),
            words.times(results.compression(sweep, trial)),
            words.student(trial.config.student),
            words.recipe(trial.config),
        )
        for trial in found
    )
    objectives = words.listed([f"`{name}`" for name in results.objectives(sweep)])
    title = "The front" if confirmed is None else "The front as the search saw it"
    return [
        Heading(title),
        Paragraph(
            f"{len(found)} of {len(of)} students of completed search trials: no other is as good in "
            f"{objectives} and better in one. No-KD controls are the floor, never on the front. Validation "
            "accuracies, one seed each."
        ),
        _figure(figures, "front"),
        Table(header, "lrrrrrlw", rows),
        *_origins(found),
        _figure(figures, "retention"),
    ]


def _origins(found: Sequence[TrialRecord]) -> list[Block]:
    """Which students of the front the search did not propose."""
    given = [f"{trial.student_id} ({literal(trial.origin)})" for trial in found if trial.origin]
    return [Paragraph(f"Not proposed by the search: {words.listed(given)}.")] if given else []


def controls(sweep: SweepRecord) -> list[Block]:
    """Every no-KD control of the start beside the front student nearest to its size."""
    found, students = floors(sweep), results.front(sweep)
    if not found:
        return [Heading("Against no distillation"), Paragraph("No no-KD control has completed yet.")]
    rows = tuple(_control_row(control, students) for control in found)
    names = (
        "control",
        "student",
        "params",
        "accuracy",
        "nearest on the front",
        "its params",
        "its accuracy",
        "difference",
    )
    return [
        Heading("Against no distillation"),
        Paragraph(
            "Controls train without a teacher, with the middle of the recipe's ranges. The difference to the "
            "front student nearest in size is in points; both sides are one seed, and the sizes may differ."
        ),
        Table(names, "llrrlrrr", rows),
    ]


def _control_row(control: TrialRecord, students: Sequence[TrialRecord]) -> tuple[str, ...]:
    own = (
        control.trial_id,
        words.student(control.config.student),
        f"{control.cost['params']:,}",
        _accuracy(control),
    )
    if not students:
        return (*own, "", "", "", "")
    nearest = min(students, key=lambda trial: abs(math.log(trial.cost["params"] / control.cost["params"])))
    gain = 100 * (results.accuracy(nearest) - results.accuracy(control))
    return (*own, nearest.student_id, f"{nearest.cost['params']:,}", _accuracy(nearest), f"{gain:+.2f}")


def failures(sweep: SweepRecord) -> list[Block]:
    failed = [trial for trial in results.trials(sweep) if trial.status == "failed"]
    rows = tuple(
        (
            trial.trial_id,
            f"{trial.num_epochs} of {trial.max_epochs}",
            literal(trial.error or trial.reason),
            words.student(trial.config.student),
            words.recipe(trial.config),
        )
        for trial in failed
    )
    table = Table(("trial", "epochs", "error", "student", "recipe"), "lrwlw", rows)
    return [Heading("Failed trials"), table] if failed else []


def reproduction(sweep: SweepRecord) -> list[Block]:
    header = sweep.header
    name = header["name"]
    commands = (
        f"DIR=reports/{name}  # the folder that this report is in\n"
        f"python -m kdsearch.sweep $DIR/spec.yaml --output reports/{name}-again  # run it again\n"
        "python -m kdsearch.sweep $DIR/spec.yaml --output $DIR --resume  # go on with it\n"
        "python -m kdsearch.report $DIR  # rebuild this report from events.jsonl\n"
        "python -m kdsearch.pick $DIR --max-params 100k --out student  # take a student"
    )
    versions = ", ".join(f"{package} {version}" for package, version in header["versions"].items())
    return [
        Heading("How to reproduce"),
        Code(commands),
        Paragraph(
            f"Seed {header['seed']}, commit `{header['commit'] or 'unknown'}`, spec `{header['spec_hash']}`, "
            f"sweep `{header['sweep_id']}`. {versions}."
        ),
        Paragraph(
            "Same spec, seed, machine and versions with one slot give the same front to the last digit on a "
            "CPU; with several slots the order in which trials finish decides what is proposed next."
        ),
        Paragraph(
            "Beside this page: `trials.csv` (one row per student), `curves.csv` (one row per epoch), "
            "`pareto.csv` (the front), `confirmed.csv` (students that were trained again), `summary.json`, "
            "`spec.yaml` (as resolved), `students/` (the only copy of the weights), and `events.jsonl`, from "
            "which the rest is rebuilt."
        ),
    ]


def _relative(sweep: SweepRecord, trial: TrialRecord, known: Mapping[str, Student]) -> str:
    kept, smaller = _retention(sweep, trial, known), results.compression(sweep, trial)
    if kept is None or smaller is None:
        return f"{trial.cost['params']:,} params"
    return f"{kept:.1%} of the teacher's, {smaller:.1f}× smaller"


def _retention(sweep: SweepRecord, trial: TrialRecord, known: Mapping[str, Student]) -> float | None:
    """By the mean of the repeats, where there are any."""
    teacher = results.teacher_accuracy(sweep)
    return _level(trial, known) / teacher if teacher else None


def _accuracy(trial: TrialRecord) -> str:
    return f"{results.accuracy(trial):.4f}"


def _figure(figures: Figures, name: str) -> Block:
    found = figures[name]
    return Paragraph(found) if isinstance(found, str) else found
