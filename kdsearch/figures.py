"""The figures of a report, drawn from the replayed journal alone.

Goes in: a `SweepRecord`. Comes out: by name a PNG, or the sentence that says why there is nothing to draw.
Colour is the method, the marker the family; filled is completed, hollow stopped, half filled still running.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from kdsearch import (
    comparison,
    comparison_figures,
    confirmation_figures,
    curve_figures,
    importance,
    results,
    transfer_figures,
)
from kdsearch import figure_parts as parts
from kdsearch.comparison import Comparison
from kdsearch.confirmation import Confirmation, confirmation, floors
from kdsearch.figure_style import Style, Theme, canvas, count_ticks, png, style, themed
from kdsearch.records import SweepRecord, TrialRecord
from kdsearch.transfer import Transfer, transfer

ACCURACY = "validation accuracy (fraction)"
COSTS = {
    "params": "learnable parameters",
    "macs": "multiply-accumulates (MACs) of one input",
    "size_mb": "parameters and buffers (10^6 bytes)",
}
MAX_BARS = 12
LISTED = "Every configuration was tried as often as any other: they are compared directly."


@dataclass(frozen=True)
class Findings:
    """What figures are drawn from: the sweep, and what is worth finding out once for all themes."""

    sweep: SweepRecord
    front: list[TrialRecord]
    cost: str  # the first cost among the objectives: what the front is drawn against
    importances: dict[str, float]
    compared: Comparison | None  # None where trials were proposed one by one
    confirmed: Confirmation | None  # None before a student was trained again
    transfer: Transfer


@dataclass(frozen=True)
class Drawing:
    """One figure: its file under `figures/`, how to read it, and how it is drawn."""

    name: str
    title: str
    caption: str
    draw: Callable[[Findings, Style], Figure | str]

    @property
    def file(self) -> str:
        return f"{self.name}.png"


def draw(sweep: SweepRecord, *themes: Theme) -> dict[str, tuple[bytes, ...] | str]:
    """Every drawing by name: a PNG for each theme, or why there is nothing to draw."""
    found = find(sweep)
    return {drawing.name: _in_themes(drawing, found, themes) for drawing in DRAWINGS}


def find(sweep: SweepRecord) -> Findings:
    """What all drawings of a sweep share."""
    cost = next((name for name in results.objectives(sweep) if name in COSTS), "params")
    compared = comparison.compare(sweep)
    shares = importance.importances(sweep) if compared is None else {}
    return Findings(sweep, results.front(sweep), cost, shares, compared, confirmation(sweep), transfer(sweep))


def _in_themes(drawing: Drawing, findings: Findings, themes: Sequence[Theme]) -> tuple[bytes, ...] | str:
    pictures = []
    for theme in themes:
        with themed(theme):
            figure = drawing.draw(findings, style(findings.sweep, theme))
            if isinstance(figure, str):
                return figure
            pictures.append(png(figure))
    return tuple(pictures)


def draw_front(findings: Findings, looks: Style) -> Figure | str:
    """Accuracy against cost: all trials, the front as a step line, the controls, the teacher."""
    sweep, front, cost = findings.sweep, findings.front, findings.cost
    controls, search = floors(sweep), results.students(sweep, "search")
    full = [*results.completed(sweep, "search"), *controls]
    if not full:
        return "No trial has completed yet."
    figure, axes = canvas("Accuracy against size", f"{COSTS[cost]} (log scale)", ACCURACY)
    floor = _set_accuracy_range(axes, sweep, full)
    _set_cost_range(axes, sweep, cost)
    on_front, off_axis = {trial.student_id for trial in front}, []
    for trial in search:
        if trial.status == "failed" or trial.val_accuracy is None or results.accuracy(trial) < floor:
            off_axis.append((trial.cost[cost], trial))
        elif trial.student_id not in on_front:
            parts.mark(axes, looks, trial, _place(trial, cost), is_on_front=False)
    parts.bottom_strip(axes, looks, off_axis)
    parts.control_line(axes, looks, sorted(_place(trial, cost) for trial in controls))
    if results.objectives(sweep) == ("val_accuracy", cost):
        parts.step_line(axes, looks, sorted(_place(trial, cost) for trial in front))
    for trial in front:
        parts.mark(axes, looks, trial, _place(trial, cost), is_on_front=True)
    parts.teacher_line(axes, looks, sweep)
    _teacher_star(axes, looks, sweep, cost)
    parts.legend(figure, looks, [*search, *controls], parts.status_marks(looks, [*search, *controls]))
    parts.label_points(axes, looks, [(_place(trial, cost), trial.student_id) for trial in front])
    return figure


def draw_retention(findings: Findings, looks: Style) -> Figure | str:
    """How much of the teacher's accuracy is left after how much compression; completed trials only."""
    sweep, front = findings.sweep, findings.front
    search, controls = results.completed(sweep, "search"), floors(sweep)
    if not search or np.isnan(_relative(sweep, search[0])).any():
        return "No trial has completed yet, or the teacher's accuracy or size is not known."
    figure, axes = canvas(
        "What compression costs",
        "compression: teacher over student parameters (log scale)",
        "retention: student over teacher accuracy (%)",
    )
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.1)
    count_ticks(axes.xaxis, unit="×")
    places = {trial.student_id: _relative(sweep, trial) for trial in [*search, *controls]}
    on_front = {trial.student_id for trial in front}
    for trial in search:
        if trial.student_id not in on_front:
            parts.mark(axes, looks, trial, places[trial.student_id], is_on_front=False)
    parts.control_line(axes, looks, [places[trial.student_id] for trial in controls])
    points = [places[trial.student_id] for trial in front]
    axes.plot(*zip(*points, strict=True), color=looks.theme.ink, linewidth=1.4, alpha=0.8, zorder=2)
    for trial, place in zip(front, points, strict=True):
        parts.mark(axes, looks, trial, place, is_on_front=True)
    parts.level_line(axes, looks, 100, "as accurate as the teacher", side="right")
    parts.legend(figure, looks, [*search, *controls], parts.status_marks(looks, [*search, *controls]))
    parts.label_points(axes, looks, [(places[trial.student_id], trial.student_id) for trial in front])
    return figure


def draw_recipe(findings: Findings, looks: Style) -> Figure | str:
    """Accuracy against temperature and against alpha, coloured by size: one panel for each that varies."""
    if findings.compared is not None:
        return LISTED
    names = {"temperature": "temperature (log scale)", "alpha": "alpha: weight of the teacher's term"}
    search = results.completed(findings.sweep, "search")
    panels = {
        name: [trial for trial in search if getattr(trial.config, name) is not None]
        for name in names
        if len({getattr(trial.config, name) for trial in search} - {None}) > 1
    }
    if not panels:
        return "Neither temperature nor alpha differs between completed trials."
    figure, first = canvas("", "", "", (9.0, 4.6))
    figure.delaxes(first)
    grid = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    sizes = [trial.cost["params"] for trial in search]
    norm = LogNorm(min(sizes), max(max(sizes), 1.001 * min(sizes)))
    for axes, (name, found) in zip(grid, panels.items(), strict=True):
        dots = axes.scatter(
            [getattr(trial.config, name) for trial in found],
            [results.accuracy(trial) for trial in found],
            c=[trial.cost["params"] for trial in found],
            norm=norm,
            cmap="viridis",
            s=52,
            edgecolors=[looks.theme.ink if trial in findings.front else looks.theme.muted for trial in found],
            linewidths=[1.6 if trial in findings.front else 0.5 for trial in found],
        )
        axes.set_xlabel(names[name])
    if "temperature" in panels:
        grid[0].set_xscale("log")
        grid[0].xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        grid[0].xaxis.set_minor_locator(NullLocator())
        grid[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    grid[0].set_ylabel(ACCURACY)
    grid[0].set_title(f"Accuracy against {' and '.join(panels)}")
    bar = figure.colorbar(dots, ax=list(grid), label="learnable parameters", pad=0.02)
    count_ticks(bar.ax.yaxis)
    return figure


def draw_importance(findings: Findings, looks: Style) -> Figure | str:
    """Optuna's importance of every searched setting for accuracy."""
    if findings.compared is not None:
        return LISTED
    shares = findings.importances
    n = sum(trial.student_number == 1 for trial in results.completed(findings.sweep, "search"))
    if not shares:
        return (
            f"Importances need {importance.MIN_TRIALS} completed search trials of searched settings, not {n}."
        )
    top = dict(list(shares.items())[:MAX_BARS])
    size = (9.0, 1.5 + 0.32 * len(top))
    title = f"What mattered for accuracy ({n} completed trials)"
    figure, axes = canvas(title, "importance (share of all settings, PED-ANOVA)", "", size)
    bars = axes.barh(list(top), list(top.values()), color=looks.theme.methods[0], height=0.62)
    axes.bar_label(
        bars,
        [f"{share:.2f}" if share >= 0.01 else "< 0.01" for share in top.values()],
        padding=5,
        fontsize=10,
    )
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.1)
    return figure


DRAWINGS: Sequence[Drawing] = (
    Drawing(
        "front",
        "Accuracy against size",
        "The step line is the best accuracy that distillation reached within a size; the dashed line joins "
        "the no-KD controls. Trials that failed or were stopped below the axis are in the bottom strip.",
        draw_front,
    ),
    Drawing(
        "confirmed",
        "The front after confirmation",
        "Hollow is the search's value, filled the mean of the repeats on validation, the three-pointed "
        "mark their mean on the test split. In the middle the same beside the confirmed value, whose 95 % "
        "interval is the bar: a hollow mark above it was luck. At the bottom the paired gain over no "
        "distillation: a bar clear of the line helped or hurt. Faint students are not on the front of "
        "record.",
        lambda findings, looks: confirmation_figures.draw_confirmed(
            findings.sweep, findings.confirmed, findings.cost, COSTS[findings.cost], looks
        ),
    ),
    Drawing(
        "retention",
        "Retention against compression",
        "The same students relative to the teacher; the line joins the front. Completed trials only.",
        draw_retention,
    ),
    Drawing(
        "recipe",
        "Accuracy against the recipe",
        "Compare dots of one colour: much of the vertical spread is size. Outlined dots are on the front.",
        draw_recipe,
    ),
    Drawing(
        "importance",
        "What mattered",
        "A long bar separates the most accurate tenth (at least five) of the completed trials from all of "
        "them. Size settings count too, since larger students are more accurate.",
        draw_importance,
    ),
    Drawing(
        "transfer",
        "Does a recipe hold at another size",
        "Row: whose best fifth of recipes; column: where the recipes most like them were looked up. 100 is "
        "the best trial of the column's band for its size, 50 what a random recipe gets. On the diagonal "
        "the nearest other recipe of the same band: how much likeness says at all.",
        lambda findings, looks: transfer_figures.draw_transfer(findings.transfer, looks),
    ),
    Drawing(
        "volume",
        "Hypervolume against cost",
        "What each further second of training students bought: the hypervolume of the search's front, as "
        "in `summary.json`. The diamond is the front of record by the means of its repeats: the difference "
        "is what the search only seemed to have found. The teacher's training is not on the axis.",
        lambda findings, looks: confirmation_figures.draw_volume(findings.sweep, findings.confirmed, looks),
    ),
    Drawing(
        "curves",
        "Learning curves",
        "Trial ids name the front; thin lines are all other trials.",
        lambda findings, looks: curve_figures.draw_curves(findings.sweep, findings.front, looks),
    ),
    Drawing(
        "gains",
        "What each method gained",
        "Squares are means over the seeds, bars their 95 % intervals (cut at the edge of the figure), thin "
        "marks the single seeds. Left of the line is worse than no distillation.",
        lambda findings, looks: comparison_figures.draw_gains(findings.compared, looks.theme),
    ),
    Drawing(
        "temperature",
        "Accuracy against temperature",
        "Means over the seeds with their 95 % intervals; dashed is the control without distillation. All "
        "dots share their seeds, so a difference between two is less uncertain than either.",
        lambda findings, looks: comparison_figures.draw_temperature(findings.compared, looks.theme),
    ),
)


def _place(trial: TrialRecord, cost: str) -> parts.Point:
    return trial.cost[cost], results.accuracy(trial)


def _relative(sweep: SweepRecord, trial: TrialRecord) -> parts.Point:
    """(compression, retention in %), NaN where the teacher is not known."""
    smaller, kept = results.compression(sweep, trial), results.retention(sweep, trial)
    return smaller or float("nan"), 100 * (kept or float("nan"))


def _set_accuracy_range(axes: Axes, sweep: SweepRecord, full: Sequence[TrialRecord]) -> float:
    """Fit the y axis to completed trials and the teacher; returns where the strip at the bottom begins."""
    values = [results.accuracy(trial) for trial in full]
    teacher = results.teacher_accuracy(sweep)
    low, high = min(values), max(values if teacher is None else [*values, teacher])
    span = max(high - low, 0.02)
    axes.set_ylim(low - 0.17 * span, high + 0.12 * span)
    return low - 0.06 * span


def _set_cost_range(axes: Axes, sweep: SweepRecord, cost: str) -> None:
    """All students, and the teacher where it is not so large that it would squeeze them."""
    students = [trial.cost[cost] for trial in sweep.trials.values()]
    teacher = (sweep.teacher or {}).get(cost)
    shown = [*students, teacher] if teacher and teacher <= 10 * max(students) else students
    axes.set_xscale("log")
    axes.set_xlim(min(shown) / 1.25, max(shown) * 1.25)
    count_ticks(axes.xaxis)


def _teacher_star(axes: Axes, looks: Style, sweep: SweepRecord, cost: str) -> None:
    accuracy, size = results.teacher_accuracy(sweep), (sweep.teacher or {}).get(cost)
    if accuracy is not None and size and size <= axes.get_xlim()[1]:
        axes.plot(size, accuracy, "*", color=looks.theme.muted, markersize=15, zorder=4)
