"""Coverage as a picture: which dataset annotates which class in how many cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

CELL = 0.28
"""Inches a cell."""

LIGHT = 0.6
"""Part of the colour scale above which viridis is too light for white letters."""


def heatmap(coverage: pd.DataFrame, by: str, path: Path) -> None:
    """Draw a coverage table.

    Parameters
    ----------
    coverage
        As `Corpus.coverage` gives it.
    by
        Its first column.
    path
        PNG, SVG or PDF to write.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    groups, classes = list(dict.fromkeys(coverage[by])), list(dict.fromkeys(coverage["class"]))
    place = {name: i for i, name in enumerate([*groups, *classes])}
    available, present = np.zeros((2, len(classes), len(groups)), int)
    for group, name, looked, seen in zip(*(coverage[c] for c in (by, "class", "available", "present")), strict=True):
        at = place[name] - len(groups), place[group]
        available[at], present[at] = looked, seen
    size = (3.2 + 1.6 * CELL * len(groups), 1.8 + CELL * len(classes))
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    axes = figure.add_subplot()
    axes.set_facecolor("#f2f2f2")
    top = max(2, int(available.max()))
    mesh = axes.imshow(np.ma.masked_equal(present, 0), aspect="auto", cmap="viridis", norm=LogNorm(1, top))
    for row, column in np.argwhere(available > 0).tolist():
        looked, seen = available[row, column], present[row, column]
        label = f"{seen}" if seen == looked else f"{seen}/{looked}"
        on_light = seen == 0 or np.log(seen) > LIGHT * np.log(top)
        axes.text(column, row, label, ha="center", va="center", size=6, color="black" if on_light else "white")
    axes.set_xticks(range(len(groups)), groups, rotation=60, ha="right", size=7)
    axes.set_yticks(range(len(classes)), classes, size=7)
    bar = figure.colorbar(mesh, ax=axes, location="top", fraction=0.02, aspect=40, pad=0.01)
    bar.set_label("cases with the class present\n(of those annotated, where fewer)", size=8)
    bar.set_ticks(sorted({1, round(top**0.5), top}), labels=[str(n) for n in sorted({1, round(top**0.5), top})])
    bar.minorticks_off()
    figure.savefig(path)
