"""Scores of cases and classes, put together: by class, by dataset, and as detection of lesions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from atlas.train.evaluation.intervals import bootstrap_mean, wilson

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

METRICS = ("dice", "nsd")

SCORES = {
    "case_id": str,
    "dataset": str,
    "group": str,
    "class": str,
    "kind": str,
    "provenance": str,
    "known": float,
    "truth_ml": float,
    "predicted_ml": float,
    "dice": float,
    "nsd": float,
}
"""Columns of the table of scores, one row a case and available class. A group is a patient."""


def class_table(scores: pd.DataFrame, by: Sequence[str] = ("class",), seed: int = 0) -> pd.DataFrame:
    """Means with their intervals.

    Parameters
    ----------
    scores
        See `SCORES`.
    by
        Columns that make a row, "class" among them.
    seed
        Of the bootstrap.

    Returns
    -------
    DataFrame
        The columns `by`; kind; cases (scored); patients; present and absent (cases where the truth has a voxel, or
        none); for dice and for nsd: n (cases where it is defined), mean, low and high (95 % interval), median, and
        present (mean over the cases where the class is present). Rows come in the order of their first score.
    """
    rows = []
    for key, part in scores.groupby(list(by), sort=False):
        present = part["truth_ml"] > 0
        row: dict[Hashable, object] = dict(zip(by, key, strict=True))
        row |= {"kind": part["kind"].iloc[0], "cases": len(part), "patients": part["group"].nunique()}
        row |= {"present": int(present.sum()), "absent": int((~present).sum())}
        for metric in METRICS:
            row |= _summary(part, metric, seed)
        rows.append(row)
    return pd.DataFrame(rows)


def _summary(part: pd.DataFrame, metric: str, seed: int) -> dict[Hashable, object]:
    defined = part[part[metric].notna()]
    values = defined[metric]
    low, high = bootstrap_mean(values, defined["group"].tolist(), seed)
    numbers = {
        "n": len(defined),
        "mean": values.mean(),
        "low": low,
        "high": high,
        "median": values.median(),
        "present": values[defined["truth_ml"] > 0].mean(),
    }
    return {f"{metric}_{name}": number for name, number in numbers.items()}


def detection_table(scores: pd.DataFrame, minimum_ml: float = 0.0) -> pd.DataFrame:
    """Whether lesions are found, case by case: a case is called positive if any voxel is predicted.

    Cases where nothing is known of the class are left out.

    Parameters
    ----------
    scores
        See `SCORES`; rows of classes that are no lesions are passed over.
    minimum_ml
        Less than that is not taken for a lesion, where it is predicted.

    Returns
    -------
    DataFrame
        class; present (cases that have the lesion), found (those of them that are called positive), sensitivity and
        its 95 % interval (low, high); absent (cases that do not have it), cleared (those of them that are called
        negative), specificity and its interval. A share of nothing is NaN.
    """
    lesions = scores[(scores["kind"] == "lesion") & (scores["known"] > 0)]
    called = (lesions["predicted_ml"] > 0) & (lesions["predicted_ml"] >= minimum_ml)
    has = lesions["truth_ml"] > 0
    rows = []
    for name in dict.fromkeys(lesions["class"]):
        of = lesions["class"] == name
        found, present = int((of & has & called).sum()), int((of & has).sum())
        cleared, absent = int((of & ~has & ~called).sum()), int((of & ~has).sum())
        row = {"class": name, "present": present, "found": found, **_share("sensitivity", found, present)}
        rows.append({**row, "absent": absent, "cleared": cleared, **_share("specificity", cleared, absent)})
    return pd.DataFrame(rows, columns=DETECTION)


DETECTION = [
    *("class", "present", "found", "sensitivity", "sensitivity_low", "sensitivity_high"),
    *("absent", "cleared", "specificity", "specificity_low", "specificity_high"),
]


def _share(name: str, hits: int, total: int) -> dict[str, float]:
    low, high = wilson(hits, total)
    return {name: hits / total if total else np.nan, f"{name}_low": low, f"{name}_high": high}
