"""The folder of an evaluation.

scores.csv      one row a case and class
summary.csv     one row a class: means, intervals, medians
datasets.csv    one row a dataset and class: the same
detection.csv   one row a lesion class: sensitivity and specificity
summary.json    all of it but the single cases, and what was evaluated how
scores.png      a figure
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import atlas
from atlas.report.scores import draw_scores
from atlas.train.evaluation.tables import METRICS, class_table, detection_table
from atlas.train.run import replace

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from atlas.train.evaluation.run import Evaluation

DIGITS = 6


@dataclass(frozen=True, eq=False)
class Summary:
    """Tables of an evaluation, see `atlas.train.evaluation.tables`.

    Attributes
    ----------
    classes, datasets
        Means by class, and by dataset and class.
    detection
        Of lesions.
    document
        All of it and what was evaluated how, ready for JSON.
    """

    classes: pd.DataFrame
    datasets: pd.DataFrame
    detection: pd.DataFrame
    document: dict[str, Any]


def summarise(evaluation: Evaluation, minimum_ml: float = 0.0, seed: int = 0) -> Summary:
    """Put the scores of an evaluation together.

    Parameters
    ----------
    evaluation
        See `atlas.train.evaluation.run.evaluate`.
    minimum_ml
        Of a predicted lesion, see `atlas.train.evaluation.tables.detection_table`.
    seed
        Of the bootstrap.
    """
    order = {name: bit for bit, name in enumerate(evaluation.trained.classes)}
    scores = evaluation.scores.sort_values("class", key=lambda names: names.map(order), kind="stable")
    classes = class_table(scores, seed=seed)
    datasets = class_table(scores.sort_values("dataset", kind="stable"), ("dataset", "class"), seed)
    detection = detection_table(scores, minimum_ml)
    document = {
        **_about(evaluation, minimum_ml),
        "mean": {metric: _number(classes[f"{metric}_mean"].mean()) for metric in METRICS},
        "classes": _records(classes),
        "datasets": _records(datasets),
        "detection": _records(detection),
    }
    return Summary(classes, datasets, detection, document)


def write_evaluation(folder: Path, evaluation: Evaluation, summary: Summary) -> None:
    """Write all files of an evaluation; earlier ones are replaced."""
    tables = {
        "scores.csv": evaluation.scores,
        "summary.csv": summary.classes,
        "datasets.csv": summary.datasets,
        "detection.csv": summary.detection,
    }
    for name, table in tables.items():
        replace(folder / name, table.to_csv(index=False, float_format=f"%.{DIGITS}g").encode())
    replace(folder / "summary.json", (json.dumps(summary.document, indent=1, allow_nan=False) + "\n").encode())
    tolerance = evaluation.method.tolerance_mm
    replace(folder / "scores.png", draw_scores(evaluation.scores, summary.classes, tolerance))


def _about(evaluation: Evaluation, minimum_ml: float) -> dict[str, Any]:
    trained, method, scores = evaluation.trained, evaluation.method, evaluation.scores
    return {
        "atlas": atlas.__version__,
        "run": str(trained.folder),
        "recipe": trained.description.recipe.name,
        "model_sha256": trained.digest,
        "corpus": evaluation.corpus.location,
        "grid": method.grid,
        "spacing_mm": trained.description.corpus.spacing if method.grid == "corpus" else None,
        **{name: None if chosen is None else list(chosen) for name, chosen in evaluation.selection.items()},
        "tolerance_mm": method.tolerance_mm,
        "overlap": method.overlap,
        "provenance": list(method.provenance),
        "postprocess": method.postprocess.model_dump(mode="json"),
        "minimum_ml": minimum_ml,
        "cases": int(scores["case_id"].nunique()),
        "patients": int(scores["group"].nunique()),
        "not_scored": list(evaluation.unscored),
        "unlabelled": list(evaluation.unlabelled),
        "failed": evaluation.failures,
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON, where NaN is null."""
    records: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=DIGITS))
    return records


def _number(value: float) -> float | None:
    return None if value != value else round(float(value), DIGITS)  # noqa: PLR0124 - NaN
