"""Prediction: from scans as published to masks on their own grids."""

from atlas.predict.run import Prediction, predict_scan, predict_scans
from atlas.predict.scans import CaseScan, FileScan, corpus_scans, scans_at
from atlas.predict.select import Selection, select

__all__ = [
    "CaseScan",
    "FileScan",
    "Prediction",
    "Selection",
    "corpus_scans",
    "predict_scan",
    "predict_scans",
    "scans_at",
    "select",
]
