"""What a training tells while it goes on, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Progress(NamedTuple):
    """Where a training is.

    Attributes
    ----------
    step, steps
        Updates done, and how many there will be.
    figures
        Of the last update: see `atlas.train.log`. Empty where there is a note.
    note
        Something to be told; "" mostly.
    """

    step: int
    steps: int
    figures: dict[str, float]
    note: str = ""


@dataclass(frozen=True)
class TrainSummary:
    """What a training came to.

    Attributes
    ----------
    run
        Its folder.
    step, steps
        Updates done, and how many there are to be.
    stopped
        Name of the signal that stopped it; None: it is done.
    best_step, best_score
        Of the weights to predict with; None: no case was validated, and they are the last ones.
    seconds
        Of training and validation, interruptions left out.
    """

    run: Path
    step: int
    steps: int
    stopped: str | None
    best_step: int | None
    best_score: float | None
    seconds: float


def silent(_: Progress) -> None:
    """Tell nobody."""
