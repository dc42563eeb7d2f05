"""How far one piece of work is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atlas.cli.output import notes

LINE_EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


class Bar:
    """A bar that is told how far the work is.

    Parameters
    ----------
    work
        What is done: "train".
    unit
        What is counted: "steps".
    """

    def __init__(self, work: str, unit: str) -> None:
        self._unit, self._last = unit, time.monotonic()
        self._bar = Progress(
            TextColumn(f"[bold]{work}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(),
            console=notes,
            transient=True,
            disable=not notes.is_terminal,
        )
        self._task = self._bar.add_task(work, text="", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Take note of how far it is, and of what is in hand."""
        self._bar.update(self._task, completed=done, total=total, text=text)
        now = time.monotonic()
        if not notes.is_terminal and (now - self._last > LINE_EVERY or done == total):
            self._last = now
            notes.print(f"{done}/{total} {self._unit}{text and ': '}{text}", markup=False, soft_wrap=True)
