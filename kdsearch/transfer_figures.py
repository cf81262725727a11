"""Whether recipes hold at another size, as a grid of size bands.

Goes in: a `Transfer` and a `Style`. Comes out: a figure, or the sentence that says why there is none.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from kdsearch.figure_style import Style, canvas
from kdsearch.progress import count
from kdsearch.transfer import MIN_TRIALS, Transfer


def draw_transfer(found: Transfer, looks: Style) -> Figure | str:
    """Percentile in the column's band of the recipes most like the best fifth of the row's band."""
    if not found.across:
        return (
            f"Whether a recipe holds at another size needs {MIN_TRIALS} trials, completed or stopped, in at "
            f"least two size bands; there are {', '.join(map(str, found.num_trials))}."
        )
    names = [
        f"{count(low)} to {count(high)}\n({n} trials)"
        for (low, high), n in zip(found.bands, found.num_trials, strict=True)
    ]
    title, xlabel = "Does a recipe hold at another size?", "tried at (params)"
    figure, axes = canvas(title, xlabel, "best fifth of (params)", (7.2, 4.8))
    grid = np.array([[np.nan if value is None else value for value in row] for row in found.percentiles])
    shown = axes.imshow(grid, cmap="RdYlBu", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for row, values in enumerate(found.percentiles):
        for column, value in enumerate(values):
            text = "too few" if value is None else f"{value:.0f}"
            is_dark = value is not None and not 20 <= value <= 85
            colour = looks.theme.ink if value is None else "#ffffff" if is_dark else "#1c2430"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=13)
    bar = figure.colorbar(shown, ax=axes, label="mean percentile there (50: chance)", pad=0.02)
    bar.outline.set_visible(False)
    return figure
