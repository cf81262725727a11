"""What the runs of a benchmark say: ratios of useful work with intervals, a table, a figure.

Goes in: lines of `benchmarks/results/search_quality.jsonl`, of one table and one number of slots. Comes
out: markdown and a PNG. Works are shares of the work of training the whole table once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import pairs
from benchmarks.pairs import Ratio
from benchmarks.table import Table
from kdsearch import figure_style

MARKS = (0.9, 0.95, 0.99)
EQUAL_WORK = (0.02, 0.05, 0.1)  # shares of training every cell once
WHOLE = 1.0  # what a run counts as that never got there

Line = Mapping[str, Any]
Lines = Sequence[Line]


def by_side(lines: Lines) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line["side"], []).append(line)
    return found


def work_to(line: Line, mark: float) -> float | None:
    """The work of a run until this share of the table's hypervolume, None where it never got there."""
    return next((work for work, share, _ in line["steps"] if share >= mark), None)


def works(lines: Lines, mark: float) -> NDArray[np.float64]:
    """The work of every run; of one that never got there the whole table's."""
    return np.array([WHOLE if (work := work_to(line, mark)) is None else work for line in lines])


def missed(lines: Lines, mark: float) -> int:
    return sum(work_to(line, mark) is None for line in lines)


def ratio(other: NDArray[np.float64], own: NDArray[np.float64]) -> Ratio:
    """A side's work over kdsearch's, by seed; the oracle's one run is compared with every one."""
    return pairs.ratio((np.broadcast_to(other, own.shape) / own).tolist())


def log_distance(random: float, own: float, oracle: float) -> float:
    """Which part of the way from random to the oracle, in the logarithm of work, was covered."""
    return math.log(random / own) / math.log(random / oracle)


def markdown(lines: Lines, table: Table, own: str) -> str:
    """The table of all sides, and the runs behind it."""
    sides = by_side(lines)
    mine = sides[own]
    rows = []
    for name, runs in sides.items():
        cells = [name if len(runs) in (1, len(mine)) else f"{name} ({len(runs)} seeds)"]
        for mark in MARKS:
            spent = works(runs, mark)
            late = missed(runs, mark)
            cells.append(f"{np.median(spent):.4f}" + (f" ({late} of {len(runs)} never)" if late else ""))
            seeds = {line["seed"] for line in (mine if name == "oracle" else runs)}
            found = ratio(spent, works([line for line in mine if line["seed"] in seeds], mark))
            is_own = name == own
            cells.append("1" if is_own else f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})")
        gap = 100 * float(np.median([line["steps"][-1][2] if line["steps"] else 1.0 for line in runs]))
        trials = float(np.median([line["num_trials"] for line in runs]))
        full = float(np.median([line["num_full"] for line in runs]))
        found_at = np.median([shares_at(line, np.array(EQUAL_WORK)) for line in runs], axis=0)
        cells += [f"{share:.1%}" for share in found_at]
        rows.append([*cells, f"{gap:.2f}", f"{trials:.0f}", f"{full:.0f}"])
    head = ["side"]
    for mark in MARKS:
        head += [f"work to {mark:.0%}", "ratio to kdsearch"]
    head += [*(f"found at {work:g}" for work in EQUAL_WORK), "points short", "trials", "full"]
    text = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    text += ["| " + " | ".join(row) + " |" for row in rows]
    first = lines[0]
    slots = "one slot" if first["slots"] == 1 else f"{first['slots']} slots"
    about = (
        f"{first['table']}: {len(table.cells)} cells of {table.epochs} epochs, {len(table.sizes)} sizes, "
        f"{len(table.front)} on the front; {slots}, {len(mine)} seeds. Work is a share of training every "
        "cell once; a run that never got there counts as 1. Medians; ratios with a bootstrap interval of "
        "95 %. Found at: the share of the table's hypervolume after so much work. Points short: how far, at "
        "the end of a run, the front over the smallest third of sizes stayed behind the table's, in points "
        "of accuracy."
    )
    halted = [sum(line["halted_front"].values()) for line in mine]
    extra = f"kdsearch stopped {np.mean(halted):.1f} proposals of the table's front a run."
    distance = []
    if "random" in sides and "oracle" in sides:
        for mark in MARKS:
            three = [float(np.median(works(sides[name], mark))) for name in ("random", own, "oracle")]
            distance.append(f"{log_distance(*three):.0%} at {mark:.0%}")
        extra += f" Of the log-distance from random to the oracle it covered {', '.join(distance)}."
    return "\n".join([about, "", *text, "", extra, ""])


def figure(lines: Lines, own: str) -> bytes:
    """Hypervolume against useful work: the median of the runs, and the middle half of them as a band."""
    theme = figure_style.LIGHT
    with figure_style.themed(theme):
        canvas, axes = figure_style.canvas(
            f"How soon the front is found: {lines[0]['table']}, {lines[0]['slots']} slots",
            "useful work, as a share of training every cell once",
            "share of the table's hypervolume",
        )
        colours = iter([*theme.methods[1:], theme.muted])
        grid = np.geomspace(min(line["steps"][0][0] for line in lines if line["steps"]) * 0.9, 1.0, 400)
        for name, runs in shown(by_side(lines)).items():
            curves = np.array([shares_at(line, grid) for line in runs])
            middle = np.median(curves, axis=0)
            low, high = np.quantile(curves, [0.25, 0.75], axis=0)
            colour = theme.methods[0] if name == own else theme.ink if name == "oracle" else next(colours)
            axes.plot(grid, middle, color=colour, linewidth=2.6 if name == own else 1.6, label=name)
            axes.fill_between(grid, low, high, color=colour, alpha=0.12, linewidth=0)
        for mark in MARKS:
            axes.axhline(mark, color=theme.muted, linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.set_ylim(0.6, 1.005)
        axes.legend(loc="upper left")
        return figure_style.png(canvas)


def shown(sides: Mapping[str, list[Line]]) -> dict[str, list[Line]]:
    """Of the one-epoch sides only the one that found most in the end; all others."""
    tops = [name for name in sides if name.startswith("one epoch")]
    ends = {name: np.median([shares_at(line, np.array([WHOLE])) for line in sides[name]]) for name in tops}
    best = max(tops, key=lambda name: float(ends[name]), default="")
    return {name: runs for name, runs in sides.items() if name not in tops or name == best}


def shares_at(line: Line, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the hypervolume that a run had reached at each work of the grid."""
    spent = np.array([0.0, *(work for work, _, _ in line["steps"])])
    shares = np.array([0.0, *(share for _, share, _ in line["steps"])])
    return shares[np.searchsorted(spent, grid, side="right") - 1]
