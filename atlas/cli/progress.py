"""Progress of long work: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.filesize import decimal
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from atlas.cli.output import notes

if TYPE_CHECKING:
    from atlas.build.case import Outcome
    from atlas.build.delivery import Delivery, FetchEvent

LINE_EVERY = 10.0
"""Seconds between two progress lines where there is no terminal."""

FILES_SHOWN = 6
"""Bars of single files; the others are in the total."""


class Display:
    """What is going on, as it happens."""

    def __init__(self, delivery: Delivery | None = None) -> None:
        sizes = [d.size for parcel in delivery.parcels for d in parcel.downloads] if delivery else []
        self.cases = CaseProgress()
        self.files = FileProgress(None if None in sizes else sum(size or 0 for size in sizes))
        self._live = Live(Group(self.files.bars, self.cases.bar), console=notes, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        if notes.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if notes.is_terminal:
            self._live.stop()


class CaseProgress:
    """Cases built."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._bad = 0
        self.bar = Progress(
            TextColumn("[bold]build"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} cases/min"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[bad]} quarantined"),
            console=notes,
        )
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int, outcome: Outcome) -> None:
        """Take note of one more case."""
        self._bad += outcome.state == "quarantined"
        now = time.monotonic()
        rate = 60 * done / max(now - self._start, 1e-3)
        if self._task is None:
            self._task = self.bar.add_task("build", rate=0.0, bad=0)
        self.bar.update(self._task, completed=done, total=total, rate=rate, bad=self._bad)
        if not notes.is_terminal and (now - self._last > LINE_EVERY or done == total):
            self._last = now
            left = (total - done) / rate if rate else 0.0
            notes.print(f"{done}/{total} cases, {rate:.1f} a minute, {left:.1f} minutes left, {self._bad} quarantined")


class FileProgress:
    """Files fetched and unpacked.

    Parameters
    ----------
    expected
        Bytes of all files, if every size is known.
    """

    def __init__(self, expected: int | None) -> None:
        self._start = self._last = time.monotonic()
        self._expected = expected
        self._bytes: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}
        self._total: TaskID | None = None
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=notes,
        )

    def __call__(self, event: FetchEvent) -> None:
        """Take note of how far a file is."""
        if event.stage == "done":
            self._finish(event)
            return
        if self._total is None:
            self._total = self.bars.add_task("[bold]fetch", total=self._expected)
        if event.stage == "fetch":
            self._bytes[event.file] = event.done
            self.bars.update(self._total, completed=sum(self._bytes.values()))
        self._show(event)
        now = time.monotonic()
        if not notes.is_terminal and now - self._last > LINE_EVERY:
            self._last = now
            notes.print(self._line(now), soft_wrap=True)

    def _show(self, event: FetchEvent) -> None:
        name = f"{event.stage} {event.file}"
        finished = event.total is not None and event.done >= event.total
        if name not in self._tasks and not finished and len(self._tasks) < FILES_SHOWN:
            self._tasks[name] = self.bars.add_task(name, total=event.total)
        if name in self._tasks:
            self.bars.update(self._tasks[name], completed=event.done, total=event.total)
            if finished:
                self.bars.remove_task(self._tasks.pop(name))

    def _line(self, now: float) -> str:
        done = sum(self._bytes.values())
        rate = done / max(now - self._start, 1e-3)
        line = f"fetched {decimal(done)}"
        if self._expected:
            line += f" of {decimal(self._expected)}, {(self._expected - done) / max(rate, 1) / 60:.1f} minutes left"
        return f"{line} ({decimal(int(rate))}/s)"

    def _finish(self, event: FetchEvent) -> None:
        for stage in ("fetch", "unpack"):
            task = self._tasks.pop(f"{stage} {event.file}", None)
            if task is not None:
                self.bars.remove_task(task)
        if event.error is None:
            notes.print(f"{event.file}: there ({decimal(event.done)} fetched)", soft_wrap=True)
        else:
            notes.print(f"{event.file}: {event.error}", markup=False, soft_wrap=True)
