"""The figures of a confirmed front: promised and repeated values with their gains, and volume against cost.

Goes in: a `SweepRecord`, its `Confirmation` (None before there is one), a `Style`. Comes out: a figure, or
the sentence that says why there is none.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from kdsearch import costs, results
from kdsearch import figure_parts as parts
from kdsearch.confirmation import Confirmation, Student
from kdsearch.figure_style import Style, Theme, canvas, count_ticks
from kdsearch.records import SweepRecord
from kdsearch.statistics import Estimate
from kdsearch.volume_by_cost import growth

POINTS = 100  # percentage points of a fraction
FAINT = 0.35  # opacity of students that are not on the front of record
UNCONFIRMED = "No student was trained again yet, so there is nothing to set beside the search's accuracies."


def draw_confirmed(
    sweep: SweepRecord, found: Confirmation | None, cost: str, xlabel: str, looks: Style
) -> Figure | str:
    """Above: accuracies against size. Below: search and test beside the confirmed value; the paired gain."""
    if found is None:
        return UNCONFIRMED
    theme = looks.theme
    figure, first = canvas("", "", "", (9.0, 8.4))
    figure.delaxes(first)
    axes, beside, gains = figure.subplots(3, 1, sharex=True, height_ratios=(2.2, 1, 1))
    axes.set_title("The front after confirmation")
    axes.set_xscale("log")
    axes.set_ylabel("accuracy (fraction)")
    no_kd = [(s.record.cost[cost], s.no_kd.mean) for s in found.students if s.no_kd]
    parts.control_line(axes, looks, sorted(no_kd))
    steps = sorted((s.record.cost[cost], s.validation.mean) for s in found.on_front)
    if found.is_complete and results.objectives(sweep) == ("val_accuracy", cost):
        axes.step(
            *zip(*steps, strict=True), where="post", color=theme.ink, linewidth=1.4, alpha=0.8, zorder=2
        )
    for student in found.students:
        _student(axes, looks, student, student.record.cost[cost])
    parts.teacher_line(axes, looks, sweep)
    beside.axhline(0, color=theme.ink, linewidth=1.2, zorder=2)
    for student in found.students:
        _beside(beside, looks, student, student.record.cost[cost])
    beside.set_ylabel("beside the confirmed\nvalue (points)")
    gains.axhline(0, color=theme.ink, linewidth=1.2, zorder=2)
    for student in found.students:
        if student.gain is not None:
            _gain(gains, theme, student, student.gain, student.record.cost[cost])
    gains.set_ylabel(f"gain over no KD\n({found.split}, points)")
    gains.set_xlabel(f"{xlabel} (log scale)")
    count_ticks(gains.xaxis)
    axes.margins(x=0.08, y=0.1)
    gains.margins(y=0.15)
    parts.legend(figure, looks, [student.record for student in found.students], _marks(found, looks))
    labelled = [
        ((s.record.cost[cost], s.validation.mean), s.record.student_id)
        for s in found.students
        if s.is_on_front
    ]
    parts.label_points(axes, looks, labelled)
    return figure


def _student(axes: Axes, looks: Style, student: Student, x: float) -> None:
    """One student: hollow where the search saw it, filled where its repeats are, a triangle on test."""
    colour, known = looks.colour(student.record.config), student.validation
    marker = looks.marker(student.record.config)
    common: Any = {"color": colour, "alpha": 1.0 if student.is_on_front else FAINT}
    searched = results.accuracy(student.record)
    axes.plot([x, x], [searched, known.mean], linewidth=0.8, linestyle=":", zorder=3, **common)
    axes.plot(x, searched, marker, fillstyle="none", markersize=parts.MEDIUM, zorder=4, **common)
    if known.low is not None and known.high is not None:
        axes.plot([x, x], [known.low, known.high], linewidth=2.2, solid_capstyle="butt", zorder=4, **common)
    axes.plot(x, known.mean, marker, markersize=parts.MEDIUM, zorder=5, **common)
    if student.test is not None:
        axes.plot(x, student.test.mean, "2", markersize=parts.LARGE, markeredgewidth=1.6, zorder=5, **common)


def _beside(axes: Axes, looks: Style, student: Student, x: float) -> None:
    """The search's and the test value less the confirmed one, whose interval is the bar around zero."""
    known, marker = student.validation, looks.marker(student.record.config)
    common: Any = {
        "color": looks.colour(student.record.config),
        "alpha": 1.0 if student.is_on_front else FAINT,
    }
    if known.low is not None and known.high is not None:
        ends = [POINTS * (known.low - known.mean), POINTS * (known.high - known.mean)]
        axes.plot([x, x], ends, linewidth=2.2, solid_capstyle="butt", zorder=3, **common)
    searched = POINTS * (results.accuracy(student.record) - known.mean)
    axes.plot(x, searched, marker, fillstyle="none", markersize=parts.MEDIUM, zorder=4, **common)
    if student.test is not None:
        below = POINTS * (student.test.mean - known.mean)
        axes.plot(x, below, "2", markersize=parts.LARGE, markeredgewidth=1.6, zorder=4, **common)


def _gain(axes: Axes, theme: Theme, student: Student, gain: Estimate, x: float) -> None:
    colour = {"helped": theme.methods[2], "hurt": theme.methods[1]}.get(student.verdict, theme.muted)
    common: Any = {"color": colour, "alpha": 1.0 if student.is_on_front else FAINT}
    if gain.low is not None and gain.high is not None:
        ends = [POINTS * gain.low, POINTS * gain.high]
        axes.plot([x, x], ends, linewidth=2.2, solid_capstyle="butt", zorder=3, **common)
    axes.plot(x, POINTS * gain.mean, "s", markersize=parts.SMALL, zorder=4, **common)


def _marks(found: Confirmation, looks: Style) -> list[Any]:
    ink, theme = looks.theme.ink, looks.theme
    marks = [
        parts.handle("in the search", marker="o", color=ink, fillstyle="none"),
        parts.handle("repeated, 95 %", marker="o", color=ink, linestyle="-", linewidth=2.2),
    ]
    if any(student.test for student in found.students):
        marks.append(parts.handle("repeated, on test", marker="2", color=ink, markersize=parts.LARGE))
    if any(student.no_kd for student in found.students):
        label = f"paired no KD ({found.split})"
        marks.append(parts.handle(label, marker="D", color=theme.muted, linestyle="--"))
    verdicts = {student.verdict for student in found.students}
    colours = {"helped": theme.methods[2], "hurt": theme.methods[1], "not separated": theme.muted}
    return marks + [
        parts.handle(f"gain: {verdict}", marker="s", color=colour)
        for verdict, colour in colours.items()
        if verdict in verdicts
    ]


def draw_volume(sweep: SweepRecord, found: Confirmation | None, looks: Style) -> Figure | str:
    """The hypervolume of the front by what had been spent on students."""
    grown, theme = growth(sweep, found), looks.theme
    if not grown.steps:
        return "No search trial has completed yet."
    seconds, name = _unit(grown.total)
    unit = costs.unit(sweep).replace("seconds", name)
    title = "What the search bought"
    figure, axes = canvas(title, f"{unit} spent on students", "hypervolume of the front", (9.0, 4.6))
    xs = [0.0, *(spent / seconds for spent, _ in grown.steps), grown.total / seconds]
    ys = [0.0, *(volume for _, volume in grown.steps), grown.steps[-1][1]]
    axes.step(xs, ys, where="post", color=theme.methods[0], linewidth=2)
    axes.plot(xs[1:-1], ys[1:-1], "o", color=theme.methods[0], markersize=4)
    if grown.confirming_from is not None:
        axes.axvline(grown.confirming_from / seconds, color=theme.muted, linewidth=1.2, linestyle=":")
        axes.annotate(
            "confirmation begins",
            (grown.confirming_from / seconds, 0),
            (6, 6),
            ("data", "axes fraction"),
            "offset points",
            color=theme.muted,
            fontsize=9.5,
        )
    if grown.confirmed is not None:
        axes.plot(xs[-1], grown.confirmed, "D", color=theme.methods[1], markersize=parts.MEDIUM, zorder=5)
        axes.annotate(
            f"confirmed: {grown.confirmed:.3f}",
            (xs[-1], grown.confirmed),
            (-8, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color=theme.methods[1],
            fontsize=9.5,
        )
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure


def _unit(seconds: float) -> tuple[float, str]:
    """Seconds of the unit that reads well, and its name."""
    if seconds >= 2 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds >= 300 else (1.0, "seconds")
