"""The figures of a comparison of methods: what each gained, and accuracy against temperature.

Goes in: a `Comparison` and a theme. Comes out: a figure, or the sentence that says why there is none.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from kdsearch import comparison
from kdsearch import figure_parts as parts
from kdsearch.comparison import Comparison, Row
from kdsearch.figure_style import Theme, canvas
from kdsearch.statistics import Estimate

NOT_LISTED = "Trials were proposed one by one, so methods were not tried equally often."
MAX_ROWS = 60
POINTS = 100  # percentage points of a fraction
MAX_STRETCH = 2.5  # of the axis beyond the differences themselves: two seeds have endless intervals


def draw_gains(found: Comparison | None, theme: Theme) -> Figure | str:
    """A forest plot: for every configuration its mean gain with interval, and each seed's difference."""
    if found is None:
        return NOT_LISTED
    compared = [row for row in found.rows if row.gain is not None]
    rows = compared[:MAX_ROWS]
    if not rows:
        return "No trial has completed beside its control yet."
    best = f": the best {len(rows)} of {len(compared)}, all in methods.csv" if compared[MAX_ROWS:] else ""
    xlabel = "gain over no distillation, paired (points of validation accuracy)"
    figure, axes = canvas(f"What each method gained{best}", xlabel, "", (9.0, 1.6 + 0.3 * len(rows)))
    colours = {"helped": theme.methods[2], "hurt": theme.methods[1]}
    axes.axvline(0, color=theme.ink, linewidth=1.2, zorder=2)
    for height, row in enumerate(rows):
        gain, colour = row.gain, colours.get(row.verdict, theme.muted)
        assert gain is not None
        if gain.low is not None and gain.high is not None:
            ends = [POINTS * gain.low, POINTS * gain.high]
            axes.plot(ends, [height] * 2, color=colour, linewidth=2.2, solid_capstyle="butt", zorder=3)
        seeds = [POINTS * difference for difference in row.differences]
        axes.plot(seeds, [height] * len(seeds), "|", color=colour, markersize=9, alpha=0.6, zorder=4)
        axes.plot(POINTS * gain.mean, height, "s", color=colour, markersize=parts.MEDIUM, zorder=5)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(*_range(rows))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    for height, row in enumerate(rows):
        assert row.gain is not None
        place: Any = ("axes fraction", "data")
        text = f"{POINTS * row.gain.mean:+.2f}"
        axes.annotate(text, (1.01, height), xycoords=place, va="center", fontsize=9.5, annotation_clip=False)
    verdicts = [
        verdict for verdict in (*colours, "not separated") if verdict in {row.verdict for row in rows}
    ]
    handles = [
        parts.handle(verdict, marker="s", color=colours.get(verdict, theme.muted)) for verdict in verdicts
    ]
    if found.num_seeds > 1:
        handles.append(parts.handle("one seed", marker="|", color=theme.muted, markersize=9))
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles))
    return figure


def _range(rows: list[Row]) -> tuple[float, float]:
    """All differences and, as far as they do not squeeze those, all intervals."""
    differences = [POINTS * difference for row in rows for difference in row.differences]
    low, high = min([0.0, *differences]), max([0.0, *differences])
    margin = 0.05 * max(high - low, 0.1)
    spare = MAX_STRETCH * max(high - low, 0.1)
    gains = [row.gain for row in rows if row.gain]
    ends = [POINTS * end for gain in gains for end in (gain.low, gain.high) if end is not None]
    return max(min([low, *ends]), low - spare) - margin, min(max([high, *ends]), high + spare) + margin


def draw_temperature(found: Comparison | None, theme: Theme) -> Figure | str:
    """Accuracy against temperature with intervals, a line for all that differs in temperature alone."""
    if found is None:
        return NOT_LISTED
    lines = comparison.by_temperature(found)
    if not lines:
        return "No two configurations differ in temperature alone."
    title, xlabel = "Accuracy against temperature", "temperature (log scale)"
    figure, axes = canvas(title, xlabel, "validation accuracy (fraction)", (9.0, 5.0))
    axes.set_xscale("log")
    temperatures = sorted({_temperature(row) for _, rows in lines for row in rows})
    axes.set_xticks(temperatures)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for index, (label, rows) in enumerate(lines):
        shift = 1.025 ** (index - (len(lines) - 1) / 2)  # bars side by side, not on top of each other
        colour = theme.methods[index % len(theme.methods)]
        places = [_temperature(row) * shift for row in rows]
        estimates = [_estimate(row) for row in rows]
        axes.plot(places, [e.mean for e in estimates], "o-", color=colour, linewidth=1.6, label=label)
        for place, known in zip(places, estimates, strict=True):
            axes.plot(
                [place] * 2, [known.low or known.mean, known.high or known.mean], color=colour, linewidth=2
            )
    for control in found.controls:
        if control.accuracy is not None:
            _control_band(axes, theme, control, control.accuracy)
    figure.legend(loc="outside right upper")
    return figure


def _control_band(axes: Any, theme: Theme, control: Row, accuracy: Estimate) -> None:
    axes.axhline(
        accuracy.mean, color=theme.muted, linewidth=1.3, linestyle="--", label=control.label, zorder=1
    )
    if accuracy.low is not None:
        axes.axhspan(accuracy.low, accuracy.high, color=theme.muted, alpha=0.15, zorder=0)


def _temperature(row: Row) -> float:
    assert row.config.temperature is not None
    return row.config.temperature


def _estimate(row: Row) -> Estimate:
    assert row.accuracy is not None
    return row.accuracy
