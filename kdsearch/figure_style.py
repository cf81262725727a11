"""One look for all figures: a light and a dark theme, one colour per method, one marker per family.

Goes in: a sweep, for which methods and families it has. Comes out: a `Style`, the same in every figure, and
what every figure begins and ends with: an empty canvas, a size axis, a PNG.
Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from kdsearch import results
from kdsearch.progress import count
from kdsearch.records import SweepRecord, TrialConfig

DPI = 150  # 9 inches make 1350 pixels: sharp at the page's 900 on a high-density screen
OTHER = "other methods"
MARKERS = "os^vPhp<>8"  # neither star, diamond nor cross: teacher, control, failed


@dataclass(frozen=True)
class Theme:
    """Colours of paper, ink and methods; `muted` is for controls, the teacher and what is not the point."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    methods: tuple[str, ...]

    def rc(self) -> dict[str, Any]:
        ink = {f"{part}color": self.ink for part in ("text.", "axes.label", "axes.title", "xtick.", "ytick.")}
        return ink | {
            "figure.facecolor": self.paper,
            "savefig.facecolor": self.paper,
            "axes.facecolor": self.paper,
            "axes.edgecolor": self.muted,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlelocation": "left",
            "axes.titlesize": 13,
            "axes.titleweight": "bold",
            "axes.titlepad": 12,
            "grid.color": self.grid,
            "grid.linewidth": 0.8,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "font.family": "DejaVu Sans",
            "font.size": 11,
        }


LIGHT = Theme(
    "light",
    *("#ffffff", "#1c2430", "#7b8492", "#e4e7ec"),
    methods=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
)
DARK = Theme(
    "dark",
    *("#14181f", "#e6e9ef", "#8b95a5", "#2b323d"),
    methods=("#4b9fe0", "#f0743a", "#22b98e", "#e09cc4", "#f0b429", "#a5dbff"),
)


@dataclass(frozen=True)
class Style:
    """What a method and a family look like in every figure of one report."""

    theme: Theme
    colours: Mapping[str, str]  # by legend entry: method label, or OTHER
    markers: Mapping[str, str]

    def entry(self, config: TrialConfig) -> str:
        """The legend entry of a configuration: its methods, or OTHER where colours ran out."""
        label = results.method_label(config)
        return label if label in self.colours else OTHER

    def colour(self, config: TrialConfig) -> str:
        return self.colours[self.entry(config)]

    def marker(self, config: TrialConfig) -> str:
        return self.markers[config.student.name]


def style(sweep: SweepRecord, theme: Theme) -> Style:
    """Colours go to the methods on the front first, then to the most frequent; the rest share the ink."""
    trials = sweep.of_role("search")
    frequent = Counter(results.method_label(trial.config) for trial in trials)
    on_front = Counter(results.method_label(trial.config) for trial in results.front(sweep))
    ordered = sorted(frequent, key=lambda label: (-on_front[label], -frequent[label], label))
    families = sorted({trial.config.student.name for trial in sweep.trials.values()})
    return Style(
        theme,
        dict(zip(ordered, theme.methods, strict=False)) | {OTHER: theme.ink},
        {family: MARKERS[index % len(MARKERS)] for index, family in enumerate(families)},
    )


def canvas(
    title: str, xlabel: str, ylabel: str, size: tuple[float, float] = (9.0, 5.4)
) -> tuple[Figure, Axes]:
    """A figure with one titled axes, without pyplot and its global state."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def count_ticks(axis: Axis, unit: str = "") -> None:
    """Ticks of a log axis that read 20k, 50k, 100k (or 2×, 5×, 10×)."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{count(value)}{unit}"))


def lay_out(figure: Figure) -> None:
    """Find every artist's place, once: constrained layout costs more than all the drawing."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)


def png(figure: Figure) -> bytes:
    if figure.get_layout_engine() is not None:
        lay_out(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def themed(theme: Theme) -> Any:
    """A context in which matplotlib draws in this theme, whatever the user's own settings say."""
    return matplotlib.style.context(["default", theme.rc()])
