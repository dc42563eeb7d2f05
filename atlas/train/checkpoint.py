"""What training needs to go on: RUN/checkpoints/last.pt, and the one before it.

    last.pt        tensors, numbers, texts, and dictionaries and lists of these
    previous.pt    the one that was written before

Read with torch's `weights_only` reader, and only if it is a zip file: nothing is unpickled but plain values.
"""

from __future__ import annotations

import os
import pickle
import uuid
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from atlas.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "atlas checkpoint 1"
FOLDER, LAST, PREVIOUS = "checkpoints", "last.pt", "previous.pt"
PARTS = {
    "step",
    "validated",
    "best_step",
    "best_score",
    "seconds",
    "recipe",
    "stream",
    "network",
    "average",
    "optimiser",
    "scaler",
}
"""Entries of a checkpoint."""


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint in one step; the last one becomes the previous one.

    Raises
    ------
    CheckpointError
        If it cannot be written; the last one is then kept.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    last, beside = folder / LAST, folder / f".{LAST}.{uuid.uuid4().hex}.partial"
    try:
        with beside.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        if last.exists():
            last.replace(folder / PREVIOUS)
        beside.replace(last)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{last}: cannot be written ({error}); see to it, and --resume goes on from the last one"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def load_checkpoint(run: Path) -> dict[str, Any] | None:
    """The last checkpoint of a run on the host, or where it is missing the previous one; None: there is none.

    Raises
    ------
    CheckpointError
        If it is damaged. Names the file, and what to do.
    """
    found = _found(run)
    return None if found is None else _read(found)


def has_checkpoint(run: Path) -> bool:
    """Whether a run has been trained so far that it can go on from a checkpoint."""
    return _found(run) is not None


def _found(run: Path) -> Path | None:
    paths = (run / FOLDER / name for name in (LAST, PREVIOUS))
    return next((path for path in paths if path.exists()), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise _damaged(path, f"{broken} has another checksum than it states")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or not state.keys() >= PARTS:
        raise _damaged(path, f"not of the format {FORMAT!r}, or a part is missing")
    return state


def _damaged(path: Path, why: str) -> CheckpointError:
    previous = path.with_name(PREVIOUS)
    if path.name == LAST and previous.exists():
        way_out = f"delete it, and --resume goes on from {PREVIOUS} beside it"
    else:
        way_out = "delete it, and training begins anew with --resume"
    return CheckpointError(f"{path}: damaged, cannot go on from it ({why}); {way_out}")
