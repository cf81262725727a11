"""What a report says, chapter by chapter, before anyone decides how it looks.

Goes in: a `SweepRecord`, the events behind it, and the figures. Comes out: blocks. Every number comes from
`results` and `summary`; here they only get words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from kdsearch import chapters_teachers, comparison, comparison_chapter, results, summary, words
from kdsearch.document import Block, Bullets, Code, Facts, Heading, Paragraph, Picture, Table, literal
from kdsearch.progress import count, duration
from kdsearch.records import Event, SweepRecord, TrialRecord
from kdsearch.warnings_chapter import warnings

MAX_GROUPS = 20  # of a table by method or layer map; `searched` maps can be as many as there are trials
GOOD_RETENTION = 0.95

Figures = Mapping[str, Picture | str]  # by drawing name: the picture, or why there is none


def chapters(sweep: SweepRecord, events: Sequence[Event], figures: Figures) -> list[Block]:
    """The whole report in reading order; a comparison of methods stands in for three of its chapters."""
    compared = comparison.compare(sweep)
    return [
        *opening(sweep, events),
        *(comparison_chapter.chapter(compared, figures) if compared else []),
        *warnings(sweep),
        *front(sweep, figures),
        *(controls(sweep) if compared is None else []),
        *chapters_teachers.teachers(sweep),
        Heading("How far to trust this"),
        Bullets(tuple(_limits(sweep))),
        *(recipes(sweep, figures) if compared is None else []),
        Heading("Learning curves"),
        _figure(figures, "curves"),
        *failures(sweep),
        *time_spent(sweep, events),
        *reproduction(sweep),
    ]


def opening(sweep: SweepRecord, events: Sequence[Event]) -> list[Block]:
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
    urgent = tuple(_warnings(sweep))
    return [
        Heading(literal(header["name"]), 1),
        Paragraph(intro),
        *([Bullets(urgent, is_warning=True)] if urgent else []),
        Facts(tuple(_facts(sweep))),
        *_counts(sweep),
    ]


def _facts(sweep: SweepRecord) -> Iterable[tuple[str, str, str]]:
    found = results.front(sweep)
    if found:
        best = max(found, key=results.accuracy)
        yield "best student", _accuracy(best), f"{best.student_id}: {_relative(sweep, best)}"
    kept = [trial for trial in found if (results.retention(sweep, trial) or 0) >= GOOD_RETENTION]
    if kept:
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


def _warnings(sweep: SweepRecord) -> Iterable[str]:
    search = sweep.of_role("search")
    if sweep.ended is None:
        running = sum(trial.status == "running" for trial in sweep.trials.values())
        yield f"The sweep is unfinished ({running} still running or cut off): everything here may change."
    for student, control in results.beaten_by_controls(sweep):
        yield (
            f"Distillation did not help at {student.student_id} ({student.cost['params']:,} params, "
            f"{_accuracy(student)}): the no-KD control {control.trial_id} with "
            f"{control.cost['params']:,} params reaches {_accuracy(control)}."
        )
    failed = sum(trial.status == "failed" for trial in search)
    if 5 * failed > len(search):
        yield f"{failed} of {len(search)} search trials failed: see the errors below."
    teacher = results.teacher_accuracy(sweep)
    better = [
        t.student_id for t in results.front(sweep) if teacher is not None and results.accuracy(t) > teacher
    ]
    if better:
        named = words.listed(better)
        yield f"More accurate on validation than the teacher: {named}. Was the teacher trained long enough?"


def _limits(sweep: SweepRecord) -> Iterable[str]:
    n = len(results.completed(sweep, "search"))
    if sweep.header["spec"].get("search", {}).get("seeds", 1) > 1:
        yield (
            "The front and the learning curves show every seed of a configuration by itself, and the front "
            "takes the luckiest: compare means, as in `methods.csv`."
        )
    yield (
        "One seed: every point is a single training. Repeats of one recipe with other seeds differ by 0.2 to "
        "0.3 points (standard deviation on CIFAR-100), so nearby points may trade places."
    )
    images = _num_validation(sweep)
    if images and n:
        p = max(results.accuracy(trial) for trial in results.completed(sweep, "search"))
        error = 100 * math.sqrt(p * (1 - p) / images)
        yield f"{images:,} validation images: accuracy {p:.3f} has a standard error of {error:.1f} points."
    yield (
        f"Optimistic: the front was chosen among {n} students by the very validation accuracies that "
        "it is shown with. On new data it will be somewhat lower, and the more trials, the more."
    )
    if not results.completed(sweep, "confirm"):
        yield "Unconfirmed: no student of the front was trained again with other seeds."
    opened = len(sweep.test_openings)
    yield f"The test split was {'never opened' if opened == 0 else f'opened {opened} times'}."
    if any(trial.status == "stopped" for trial in sweep.trials.values()):
        yield "A stopped trial's accuracy is the one it was stopped at: not comparable with a completed one."


def _num_validation(sweep: SweepRecord) -> int | None:
    known = sweep.header.get("data", {}).get("num_validation")
    asked = sweep.header["spec"].get("data", {}).get("validation")
    return known or (asked if isinstance(asked, int) and asked > 1 else None)


def front(sweep: SweepRecord, figures: Figures) -> list[Block]:
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
    return [
        Heading("The front"),
        Paragraph(
            f"{len(found)} of {len(of)} students of completed search trials: no other is as good in "
            f"{objectives} and better in one. No-KD controls are the floor, never on the front. Validation "
            "accuracies, one seed each."
        ),
        _figure(figures, "front"),
        Table(header, "lrrrrrlw", rows),
        _figure(figures, "retention"),
    ]


def controls(sweep: SweepRecord) -> list[Block]:
    """Every no-KD control beside the front student nearest to its size."""
    found, students = results.completed(sweep, "control"), results.front(sweep)
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


def recipes(sweep: SweepRecord, figures: Figures) -> list[Block]:
    """Which methods, layer maps and settings did well among students of one size."""
    floor = results.completed(sweep, "control")
    base = [summary.group(sweep, "no-KD control", floor)] if floor else []
    methods = summary.groups(sweep, lambda config: [results.method_label(config)])
    maps = summary.groups(sweep, results.layer_map_labels)
    return [
        Heading("Methods and settings"),
        Paragraph(
            "Mean / best accuracy and, in brackets, the number of students of completed search trials, in "
            "bands of size: compare down a column. The search tries more of what looks good and stops the "
            "rest early, so these are no fair samples."
        ),
        *_groups(sweep, "By method", "methods", [*methods, *base]),
        *_groups(sweep, "By layer map", "method and map (student>teacher)", maps),
        Heading("Temperature and alpha", 3),
        _figure(figures, "recipe"),
        Heading("What mattered", 3),
        _figure(figures, "importance"),
    ]


def _groups(sweep: SweepRecord, title: str, name: str, found: Sequence[summary.Group]) -> list[Block]:
    if not found:
        return []
    edges = summary.bands(sweep)
    used = [index for index in range(len(edges)) if any(group.bands[index] for group in found)]
    header = (name, *(f"{count(edges[i][0])} to {count(edges[i][1])} params" for i in used), "all sizes")
    rows = tuple(
        (group.label, *(_cell(group.bands[i]) for i in used), _cell(group.overall))
        for group in found[:MAX_GROUPS]
    )
    left = len(found) - MAX_GROUPS
    rest: list[Block] = [Paragraph(f"and {left} more with no more trials than these")] if left > 0 else []
    return [Heading(title, 3), Table(header, "l" + "r" * (len(used) + 1), rows), *rest]


def _cell(cell: summary.Cell | None) -> str:
    return f"{cell.mean:.4f} / {cell.best:.4f} ({cell.n})" if cell else ""


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


def time_spent(sweep: SweepRecord, events: Sequence[Event]) -> list[Block]:
    runs = summary.sessions(events)
    phases = summary.phases(runs)
    training = summary.training_time(sweep)
    rows = [
        (literal(name), duration(spent["wall_s"]), duration(spent["cpu_s"]), "")
        for name, spent in phases.items()
    ]
    rows += [
        (
            f"epochs of {role} trials",
            duration(spent["time_s"]),
            duration(spent["cpu_s"]),
            f"{spent['epochs']:,}",
        )
        for role, spent in training.items()
        if spent["epochs"]
    ]
    return [
        Heading("Time"),
        Paragraph(
            f"{duration(summary.wall_s(runs))} on the wall clock. Trials run side by side, so their epochs "
            "can add up to more." + ("" if phases else " The phases are known once the sweep has ended.")
        ),
        Table(("phase", "wall", "CPU", "epochs"), "lrrr", tuple(rows)),
    ]


def reproduction(sweep: SweepRecord) -> list[Block]:
    header = sweep.header
    name = header["name"]
    commands = (
        f"DIR=reports/{name}  # this folder\n"
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
            "Same spec, seed, machine and versions with one slot give the same front to the last digit; with "
            "several slots the order in which trials finish decides what is proposed next."
        ),
        Paragraph(
            "Beside this page: `trials.csv` (one row per student), `curves.csv` (one row per epoch), "
            "`pareto.csv` (the front), `summary.json`, `spec.yaml` (as resolved), `students/` (weights), and "
            "`events.jsonl`, from which all of it is rebuilt."
        ),
    ]


def _relative(sweep: SweepRecord, trial: TrialRecord) -> str:
    kept, smaller = results.retention(sweep, trial), results.compression(sweep, trial)
    if kept is None or smaller is None:
        return f"{trial.cost['params']:,} params"
    return f"{kept:.1%} of the teacher's, {smaller:.1f}× smaller"


def _accuracy(trial: TrialRecord) -> str:
    return f"{results.accuracy(trial):.4f}"


def _figure(figures: Figures, name: str) -> Block:
    found = figures[name]
    return Paragraph(found) if isinstance(found, str) else found
