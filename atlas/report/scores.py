"""Scores of a model as a picture: every case, and the mean of each class with its interval."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

ROW = 0.27
"""Inches a class."""

COLOURS = {"organ": "#2a6fbb", "lesion": "#d1495b", "vessel": "#8e5ea2", "bone": "#8a7350", "muscle": "#3d9970"}
OTHER = "#6b7280"
SPREAD = 0.24
"""Of the cases of a class about its line, in rows."""

TITLES = {"dice": "Dice", "nsd": "surface Dice at {tolerance:g} mm"}


def draw_scores(scores: pd.DataFrame, classes: pd.DataFrame, tolerance_mm: float) -> bytes:
    """Draw an evaluation.

    Parameters
    ----------
    scores
        One row a case and class: class, kind, truth_ml, dice, nsd.
    classes
        One row a class, from top to bottom: class, kind, and for both metrics _n, _mean, _low and _high.
    tolerance_mm
        Of the surface Dice.

    Returns
    -------
    bytes
        PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.5 + ROW * len(classes)), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(TITLES), sharey=True)
    for axes, (metric, title) in zip(panels, TITLES.items(), strict=True):
        _panel(axes, scores, classes, metric)
        axes.set_xlabel(title.format(tolerance=tolerance_mm), size=9)
    panels[0].set_yticks(range(len(classes)), classes["class"], size=8)
    panels[0].set_ylim(len(classes) - 0.4, -0.6)
    for label, kind in zip(panels[0].get_yticklabels(), classes["kind"], strict=True):
        label.set_color(COLOURS.get(kind, OTHER))
    _legend(figure, bool(((scores["truth_ml"] == 0) & scores["dice"].notna()).any()))
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def _panel(axes: Axes, scores: pd.DataFrame, classes: pd.DataFrame, metric: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#e2e2e2", linewidth=0.7)
    axes.tick_params(axis="both", length=0, labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    by_class = dict(iter(scores[scores[metric].notna()].groupby("class", sort=False)))
    for place, row in enumerate(classes.to_dict("records")):
        axes.axhspan(place - 0.5, place + 0.5, color="#f6f6f6" if place % 2 else "white", zorder=-1)
        if row["class"] not in by_class:
            axes.text(0.5, place, "absent everywhere, and not predicted", ha="center", va="center", size=7, color=OTHER)
            continue
        cases, colour = by_class[row["class"]], COLOURS.get(row["kind"], OTHER)
        _cases(axes, place, cases[metric].to_numpy(), (cases["truth_ml"] > 0).to_numpy(), colour)
        low, high = np.nan_to_num([row[f"{metric}_low"], row[f"{metric}_high"]], nan=row[f"{metric}_mean"])
        axes.plot([low, high], [place, place], color="black", linewidth=1.4, solid_capstyle="butt", zorder=4)
        axes.plot(row[f"{metric}_mean"], place, "D", color="black", markersize=4, zorder=5)
        text = f"{row[f'{metric}_mean']:.3f}  n={row[f'{metric}_n']}"
        axes.annotate(
            text, (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", size=7, color="#333333", annotation_clip=False,
        )  # fmt: skip


def _cases(axes: Axes, place: int, values: NDArray[np.float64], present: NDArray[np.bool_], colour: str) -> None:
    """One dot a case, beside each other as far as there is room; the same picture every time."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    golden = (order * 0.6180339887) % 1 - 0.5  # neighbours in value lie far apart across
    across = place + 2 * SPREAD * golden * (len(values) > 1)
    shown = 0.55 if len(values) < 100 else 0.25  # noqa: PLR2004
    axes.scatter(values[present], across[present], s=11, color=colour, alpha=shown, linewidth=0, zorder=3)
    axes.scatter(values[~present], across[~present], s=13, facecolor="none", edgecolor=colour, linewidth=0.8, zorder=3)


def _legend(figure: Figure, absent: bool) -> None:
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4}
    entries = {
        "a case": Line2D([], [], color=OTHER, alpha=0.7, markeredgewidth=0, **dot),
        "mean, 95 % interval": Line2D([], [], color="black", marker="D", markersize=4, linewidth=1.4),
    }
    if absent:
        entries["predicted, but absent in the case"] = Line2D([], [], mfc="none", mec=OTHER, **dot)
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=3, fontsize=8, frameon=False)
