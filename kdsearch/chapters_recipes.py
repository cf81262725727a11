"""What a report says of recipes: methods, layer maps and settings, within size bands and across them.

Goes in: a `SweepRecord` whose trials were proposed one by one, and the figures. Comes out: blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kdsearch import importance, results, summary, transfer, words
from kdsearch.confirmation import floors
from kdsearch.document import Block, Heading, Paragraph, Picture, Table
from kdsearch.progress import count
from kdsearch.records import SweepRecord

MAX_GROUPS = 20  # of a table by method or layer map; `searched` maps can be as many as there are trials
MAX_SETTINGS = 12
CLEARLY = 10  # percentiles from chance, by which a mean over few pairs of bands may miss it


def recipes(sweep: SweepRecord, figures: Mapping[str, Picture | str]) -> list[Block]:
    """Which methods, layer maps and settings did well among students of one size."""
    floor = floors(sweep)
    bare = [summary.group(sweep, "no-KD control", floor)] if floor else []
    methods = summary.groups(sweep, lambda config: [results.method_label(config)])
    maps = summary.groups(sweep, results.layer_map_labels)
    return [
        Heading("Methods and settings"),
        Paragraph(
            "Mean / best accuracy and, in brackets, the number of students of completed search trials, in "
            "bands of size: compare down a column. The search tries more of what looks good and stops the "
            "rest early, so these are no fair samples."
        ),
        *_groups(sweep, "By method", "methods", methods, bare),
        *_groups(sweep, "By layer map", "method and map (student>teacher)", maps),
        Heading("Temperature and alpha", 3),
        figure(figures, "recipe"),
        Heading("What mattered", 3),
        figure(figures, "importance"),
        *_importances_by_band(sweep),
        Heading("Does a recipe hold at another size?", 3),
        *_transfer(sweep),
        figure(figures, "transfer"),
    ]


def _groups(
    sweep: SweepRecord,
    title: str,
    name: str,
    found: Sequence[summary.Group],
    always: Sequence[summary.Group] = (),
) -> list[Block]:
    """The most frequent ones, and those that are shown always below them."""
    if not found and not always:
        return []
    edges = summary.bands(sweep)
    listed = [*found[:MAX_GROUPS], *always]
    used = [index for index in range(len(edges)) if any(group.bands[index] for group in listed)]
    header = (name, *(_size(edges[i]) for i in used), "all sizes")
    rows = tuple(
        (group.label, *(_cell(group.bands[i]) for i in used), _cell(group.overall)) for group in listed
    )
    left = len(found) - MAX_GROUPS
    rest: list[Block] = [Paragraph(f"and {left} more with no more trials than these")] if left > 0 else []
    return [Heading(title, 3), Table(header, "l" + "r" * (len(used) + 1), rows), *rest]


def _cell(cell: summary.Cell | None) -> str:
    return f"{cell.mean:.4f} / {cell.best:.4f} ({cell.n})" if cell else ""


def _importances_by_band(sweep: SweepRecord) -> list[Block]:
    """The importances again within each size band, where size cannot be what mattered most."""
    used = sorted({trial.band for trial in results.completed(sweep, "search")})
    edges = [summary.bands(sweep)[band] for band in used]
    shares = [importance.importances(sweep, band) for band in used]
    if not any(shares):
        return []
    names = sorted(
        {name for own in shares for name in own}, key=lambda name: -max(own.get(name, 0.0) for own in shares)
    )
    rows = tuple(
        (f"`{name}`", *(f"{own[name]:.2f}" if name in own else "" for own in shares))
        for name in names[:MAX_SETTINGS]
    )
    few = [_size(edge) for edge, own in zip(edges, shares, strict=True) if not own]
    text = (
        "The same within each size band, for accuracy beyond what a straight line in log size explains "
        "there: shares of what separates the best tenth, at least five, of its completed trials. The fewer "
        "trials, the rougher."
    )
    if few:
        text += f" {words.listed(few)}: fewer than {importance.MIN_TRIALS} completed trials."
    header = ("setting", *(_size(edge) for edge in edges))
    return [Paragraph(text), Table(header, "l" + "r" * len(edges), rows)]


def _transfer(sweep: SweepRecord) -> list[Block]:
    found = transfer.transfer(sweep)
    if not found.across:
        return []
    across = _mean(found.across)
    within = f" (within the same band: {_mean(found.within):.0f})" if found.within else ""
    if across >= 50 + CLEARLY:
        says = "so much of what is good at one size is good at another."
    elif across <= 50 - CLEARLY:
        says = "so what is good at one size is bad at another."
    else:
        says = "that is about chance, so look for the recipe at the size that is wanted."
    return [
        Paragraph(
            f"Recipes like the best fifth of one band do better in another band than {across:.0f} % of its "
            f"trials on average{within}, 50 being chance: {says}"
        )
    ]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _size(edge: tuple[float, float]) -> str:
    return f"{count(edge[0])} to {count(edge[1])} params"


def figure(figures: Mapping[str, Picture | str], name: str) -> Block:
    found = figures[name]
    return Paragraph(found) if isinstance(found, str) else found
