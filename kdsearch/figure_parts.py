"""What figures put on their axes: a trial's mark, the controls' line, the teacher, the legend, labels.

Goes in: axes, a `Style`, trials or points. Comes out: nothing; the axes have been drawn on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from kdsearch import results
from kdsearch.figure_style import Style, lay_out
from kdsearch.progress import count
from kdsearch.records import SweepRecord, TrialRecord

Point = tuple[float, float]
Fill = Literal["full", "none", "bottom"]

FILL: dict[str, Fill] = {"completed": "full", "stopped": "none", "failed": "full", "running": "bottom"}
SMALL, MEDIUM, LARGE = 5.5, 7.0, 9.0
STRIP = 0.065  # height of the strip below the axis, as a share of the axes


def mark(axes: Axes, looks: Style, trial: TrialRecord, place: Point, is_on_front: bool) -> None:
    """One trial: colour by method, marker by family, fill by status; large and outlined on the front."""
    colour = looks.colour(trial.config)
    axes.plot(
        *place,
        marker=looks.marker(trial.config),
        markersize=LARGE if is_on_front else SMALL,
        color=colour,
        markeredgecolor=looks.theme.ink if is_on_front else colour,
        fillstyle=FILL[trial.status],
        alpha=1.0 if is_on_front else 0.6,
        zorder=5 if is_on_front else 3,
    )


def bottom_strip(axes: Axes, looks: Style, trials: Sequence[tuple[float, TrialRecord]]) -> None:
    """Trials (cost, trial) whose accuracy is unknown or below the axis keep their place in cost only."""
    if not trials:
        return
    low, high = axes.get_ylim()
    axes.axhspan(low, low + STRIP * (high - low), color=looks.theme.grid, alpha=0.55, zorder=0)
    note: Any = {"transform": axes.transAxes, "ha": "right", "va": "bottom", "fontsize": 9}
    axes.text(
        0.995,
        STRIP + 0.008,
        "in the strip: failed, or stopped below this axis",
        color=looks.theme.muted,
        **note,
    )
    for cost, trial in trials:
        axes.plot(
            cost,
            STRIP / 2,
            marker="x" if trial.status == "failed" else looks.marker(trial.config),
            transform=axes.get_xaxis_transform(),
            color=looks.colour(trial.config),
            markersize=SMALL,
            fillstyle=FILL[trial.status],
            alpha=0.8,
            zorder=3,
        )


def control_line(axes: Axes, looks: Style, points: Sequence[Point]) -> None:
    """Grey diamonds, smallest first, joined: the floor without distillation."""
    if points:
        colour = looks.theme.muted
        axes.plot(*zip(*points, strict=True), "D--", color=colour, markersize=MEDIUM, linewidth=1.3, zorder=4)


def step_line(axes: Axes, looks: Style, points: Sequence[Point]) -> None:
    """The best accuracy that each size buys; beyond the largest front student it stays."""
    if points:
        right = (axes.get_xlim()[1], points[-1][1])
        xs, ys = zip(*points, right, strict=True)
        axes.step(xs, ys, where="post", color=looks.theme.ink, linewidth=1.4, alpha=0.8, zorder=2)


def teacher_line(axes: Axes, looks: Style, sweep: SweepRecord) -> None:
    """A dotted line at the teacher's accuracy, with its family and size written on it."""
    accuracy = results.teacher_accuracy(sweep)
    if sweep.teacher is not None and accuracy is not None:
        params = sweep.teacher.get("params")
        size = f", {count(params)} parameters" if params else ""
        level_line(axes, looks, accuracy, f"teacher {sweep.teacher['family']}: {accuracy:.4f}{size}")


def level_line(
    axes: Axes, looks: Style, level: float, text: str, side: Literal["left", "right"] = "left"
) -> None:
    axes.axhline(level, color=looks.theme.muted, linewidth=1.2, linestyle=":", zorder=1)
    anchor: Any = ("axes fraction", "data")
    x, offset = (0, (6, 4)) if side == "left" else (1, (-4, 4))
    axes.annotate(
        text, (x, level), offset, anchor, "offset points", ha=side, color=looks.theme.muted, fontsize=9.5
    )


def legend(
    figure: Figure,
    looks: Style,
    trials: Sequence[TrialRecord],
    marks: Sequence[Line2D],
    *,
    with_families: bool = True,
) -> None:
    """Right of the axes: colours of the methods, markers of the families, and what else the figure has."""
    entries = {looks.entry(trial.config) for trial in trials if trial.role == "search"}
    families = sorted({trial.config.student.name for trial in trials}) if with_families else []
    sections = {
        "Methods": [
            handle(name, marker="s", color=c) for name, c in looks.colours.items() if name in entries
        ],
        "Families": [handle(name, marker=looks.markers[name], color=looks.theme.ink) for name in families],
        "Trials": marks,
    }
    handles = [entry for title, part in sections.items() if part for entry in (handle(title), *part)]
    box = figure.legend(handles=handles, loc="outside right upper", handlelength=1.6, labelspacing=0.45)
    for text in box.get_texts():
        if text.get_text() in sections:
            text.set_fontweight("bold")


def status_marks(looks: Style, trials: Sequence[TrialRecord]) -> list[Line2D]:
    """Legend entries for the states that these trials are in."""
    ink, muted = looks.theme.ink, looks.theme.muted
    states = {"control" if trial.role == "control" else trial.status for trial in trials}
    marks = [
        (
            "completed",
            handle("on the front", marker="o", color=muted, markeredgecolor=ink, markersize=LARGE),
        ),
        ("completed", handle("completed", marker="o", color=ink, markersize=SMALL)),
        (
            "stopped",
            handle("stopped early", marker="o", color=ink, fillstyle="none", markersize=SMALL),
        ),
        (
            "running",
            handle("running", marker="o", color=ink, fillstyle="bottom", markersize=SMALL),
        ),
        ("failed", handle("failed", marker="x", color=ink, markersize=SMALL)),
        ("control", handle("no-KD control", marker="D", color=muted, linestyle="--")),
    ]
    return [mark for state, mark in marks if state in states]


def handle(label: str, **looks: Any) -> Line2D:
    """A legend entry: a marker without a line unless it says otherwise; bare, a section's title."""
    options: dict[str, Any] = {"linestyle": "none", "markersize": MEDIUM} | looks
    return Line2D([], [], label=label, **options)


def end_labels(axes: Axes, ends: Sequence[tuple[Point, str, str]]) -> None:
    """Write (point, text, colour) right of the axes, spread where they would overlap, joined by a line."""
    low, high = axes.get_ylim()
    ordered = sorted(ends, key=lambda end: end[0][1])
    rows = _spread([y for (_, y), _, _ in ordered], gap=(high - low) / 30)
    for row, (point, text, colour) in zip(rows, ordered, strict=True):
        axes.annotate(
            text,
            point,
            (axes.get_xlim()[1], row),
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.8,
                "relpos": (0, 0.5),
                "shrinkB": 0,
            },
        )


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """The nearest sorted values at least `gap` apart (least squares: pool adjacent violators)."""
    pools: list[list[float]] = []  # of values less their index times the gap, so that only order matters
    for index, value in enumerate(values):
        pools.append([value - index * gap])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    flat = [_mean(pool) for pool in pools for _ in pool]
    return [value + index * gap for index, value in enumerate(flat)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# Where a label may stand: offset in points, and where the text's corner or middle goes (-1, 0, 1 of its
# width and height: 1 is right of or above the point). Of equally good places the first is taken.
_PLACES = (
    *((-5, 5, -1, 1), (0, 8, 0, 1), (6, 5, 1, 1), (6, -5, 1, -1), (0, -8, 0, -1), (-5, -5, -1, -1)),
    *((0, 20, 0, 1), (-14, 15, -1, 1), (12, -15, 1, -1), (0, -20, 0, -1), (0, 32, 0, 1), (0, -32, 0, -1)),
)
_FAR = 9.0  # points; from there on a thin line joins text and point
_CROSSED_LINE = 30.0  # square pixels of overlap that crossing a line counts as

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


def label_points(axes: Axes, looks: Style, points: Sequence[tuple[Point, str]]) -> None:
    """Write each text beside its point, where it covers least of what is drawn so far or around the axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    lay_out(figure)
    pixel = figure.dpi / 72
    drawn = [(line, line.get_transform().transform(line.get_xydata())) for line in axes.lines]
    squares = [
        _around(at, LARGE / 2 * pixel) for line, ats in drawn if line.get_marker() != "None" for at in ats
    ]
    taken: list[Box] = [*squares, *(text.get_window_extent().extents for text in axes.texts)]
    frame: Box = (axes.bbox.x0, axes.bbox.y0, axes.bbox.x1, axes.bbox.y1)
    paths = [line.get_path().transformed(line.get_transform()) for line, ats in drawn if len(ats) > 1]
    for point, text in points:
        label = axes.annotate(text, point, (0, 0), textcoords="offset points", fontsize=9, va="bottom")
        extent = label.get_window_extent()
        x, y = axes.transData.transform(point)
        boxes = [_place(x, y, extent.width, extent.height, place, pixel) for place in _PLACES]
        clashes = [
            sum(_overlap(box, other) for other in taken)
            + _overlap(box, box)
            - _overlap(box, frame)
            + _CROSSED_LINE
            * sum(path.intersects_bbox(Bbox.from_extents(*box), filled=False) for path in paths)
            for box in boxes
        ]
        best = clashes.index(min(clashes))
        taken.append(boxes[best])
        label.set_position(((boxes[best][0] - x) / pixel, (boxes[best][1] - y) / pixel))
        if abs(_PLACES[best][1]) > _FAR:
            end = (_PLACES[best][0], _PLACES[best][1])
            thin: Any = {"arrowstyle": "-", "color": looks.theme.muted, "linewidth": 0.7, "shrinkA": 0}
            axes.annotate("", point, end, textcoords="offset points", arrowprops=thin, zorder=2)


def _place(
    x: float, y: float, width: float, height: float, place: tuple[int, int, int, int], pixel: float
) -> Box:
    dx, dy, horizontal, vertical = place
    left = x + dx * pixel + (horizontal - 1) / 2 * width
    bottom = y + dy * pixel + (vertical - 1) / 2 * height
    return left, bottom, left + width, bottom + height


def _around(centre: Any, radius: float) -> Box:
    x, y = centre
    return x - radius, y - radius, x + radius, y + radius


def _overlap(box: Box, other: Box) -> float:
    """The area that two boxes share."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0
