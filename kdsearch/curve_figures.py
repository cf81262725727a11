"""The learning curves of a sweep's trials.

Goes in: a `SweepRecord` and its front. Comes out: a figure, or the sentence that says why there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdsearch import curve, results
from kdsearch import figure_parts as parts
from kdsearch.figure_style import Style, canvas
from kdsearch.records import SweepRecord, TrialRecord


def draw_curves(sweep: SweepRecord, front: Sequence[TrialRecord], looks: Style) -> Figure | str:
    """Validation accuracy by epoch: the front in colour, controls dashed, the rest in the background."""
    found = [trial for trial in results.students(sweep, "control", "search") if _has_a_curve(trial)]
    if all(len(curve.points(trial)) < 2 for trial in found):
        return "No student has been evaluated twice yet; with `train.evaluate: every_epoch` each of them is."
    figure, axes = canvas("Learning curves", "epoch", "validation accuracy (fraction)")
    strong: dict[str, Any] = {"linewidth": 1.9, "zorder": 4}
    faint: dict[str, Any] = {"linewidth": 0.9, "zorder": 2, "alpha": 0.4}
    on_front = {trial.student_id for trial in front}
    for trial in found:
        is_control = trial.role == "control"
        colour = looks.theme.muted if is_control else looks.colour(trial.config)
        epochs, values = zip(*curve.points(trial), strict=True)
        lines = strong if is_control or trial.student_id in on_front else faint
        axes.plot(epochs, values, color=colour, linestyle="--" if is_control else "-", **lines)
        if len(epochs) == 1:
            axes.plot(epochs, values, ".", color=colour, **lines)
        if trial.status != "completed":
            marker = "x" if trial.status == "failed" else "o"
            fill: Any = parts.FILL[trial.status]
            axes.plot(epochs[-1], values[-1], marker, color=colour, fillstyle=fill, markersize=5, zorder=5)
    parts.teacher_line(axes, looks, sweep)
    last = max(trial.max_epochs for trial in found)
    axes.set_xlim(0, last * 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    parts.end_labels(
        axes, [(_curve_end(trial), trial.student_id, looks.colour(trial.config)) for trial in front]
    )
    parts.legend(figure, looks, found, _curve_marks(looks, found), with_families=False)
    return figure


def _has_a_curve(trial: TrialRecord) -> bool:
    """Whether its learning curve is drawn: the search's and the floors', not what repeats or tunes them."""
    return bool(curve.points(trial)) and trial.purpose in ("", "floor")


def _curve_end(trial: TrialRecord) -> parts.Point:
    return trial.num_epochs, results.accuracy(trial)


def _curve_marks(looks: Style, trials: Sequence[TrialRecord]) -> list[Line2D]:
    """Legend entries for the lines and ends of learning curves."""
    ink = looks.theme.ink
    front = [parts.handle("on the front", marker="", linestyle="-", color=ink, linewidth=1.9)]
    ends = [
        mark
        for mark in parts.status_marks(looks, trials)
        if mark.get_label() in ("stopped early", "running", "failed")
    ]
    controls = [trial for trial in trials if trial.role == "control"]
    dashed = parts.handle("no-KD control", marker="", linestyle="--", color=looks.theme.muted, linewidth=1.9)
    return [*front, *ends, *([dashed] if controls else [])]
