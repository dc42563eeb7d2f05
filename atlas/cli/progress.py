"""Progress of long work: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.filesize import decimal
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from atlas.cli.bar import LINE_EVERY
from atlas.cli.output import notes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.build.case import Outcome
    from atlas.build.delivery import Delivery, FetchEvent
    from atlas.build.fetching import Parcel

FILES_SHOWN = 6
"""Bars of single files; the others are in the total."""

LISTED = 50
"""Lines, one for each file, before the rest only counts."""

WINDOW = 30.0
"""Seconds over which a rate is measured."""


class Display:
    """What is going on, as it happens."""

    def __init__(self, delivery: Delivery | None = None) -> None:
        self.cases = CaseProgress()
        self.files = FileProgress(delivery.parcels if delivery else ())
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
    """Files fetched and unpacked; called from several threads.

    Parameters
    ----------
    parcels
        All that will come.
    """

    def __init__(self, parcels: Sequence[Parcel] = ()) -> None:
        files = [(f"{d.dataset}/{d.target}", parcel.name, d.size) for parcel in parcels for d in parcel.downloads]
        self._of = {file: parcel for file, parcel, _ in files}
        self._unknown = {file for file, _, size in files if size is None}
        self._size = sum(size or 0 for _, _, size in files)
        self._bytes: dict[str, int] = {}
        self._parcels, self._over, self._failed = len(parcels), set[str](), 0
        self._there, self._come = 0, _Meter()
        self._last = time.monotonic()
        self._lock = Lock()
        self._tasks: dict[str, tuple[TaskID, _Meter]] = {}
        self._total: TaskID | None = None
        self.bars = Progress(
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=20),
            DownloadColumn(),
            TextColumn("{task.fields[rate]}", justify="right"),
            TextColumn("{task.fields[left]}", justify="right"),
            console=notes,
            expand=True,
        )

    def __call__(self, event: FetchEvent) -> None:
        """Take note of how far a file is."""
        with self._lock:
            if event.stage == "done":
                self._finish(event)
            elif self._of.get(event.file) not in self._over:  # news may come late
                self._advance(event)
            now, end = time.monotonic(), event.stage == "done" and len(self._over) == self._parcels > LISTED
            if not notes.is_terminal and (now - self._last > LINE_EVERY or end):
                self._last = now
                notes.print(self._line(), soft_wrap=True)

    @property
    def _expected(self) -> int | None:
        """Bytes of all files, if every size is known."""
        return None if self._unknown else self._size

    def _advance(self, event: FetchEvent) -> None:
        if event.stage == "fetch":
            if event.file in self._bytes:
                self._come.to(self._come.done + event.done - self._bytes[event.file])
            else:  # most of it may have been there
                self._there += event.done
            self._bytes[event.file] = event.done
            if event.file in self._unknown and event.total is not None:
                self._unknown.discard(event.file)
                self._size += event.total
        self._show_total()
        self._show(event)

    def _show_total(self) -> None:
        expected, done = self._expected, self._there + self._come.done
        if self._total is None:
            self._total = self.bars.add_task("[bold]fetch", rate="", left="")
        left = self._come.left(None if expected is None else expected - done)
        self.bars.update(self._total, total=expected, completed=done, rate=self._come.rate, left=left)

    def _show(self, event: FetchEvent) -> None:
        name = f"{event.stage} {event.file}"
        if event.total is not None and event.done >= event.total:
            self._hide(name)
            return
        if name not in self._tasks and len(self._tasks) < FILES_SHOWN:
            self._tasks[name] = self.bars.add_task(escape(name), rate="", left=""), _Meter(event.done)
        if name in self._tasks:
            task, meter = self._tasks[name]
            meter.to(event.done)
            left = meter.left(None if event.total is None else event.total - event.done)
            self.bars.update(task, completed=event.done, total=event.total, rate=meter.rate, left=left)

    def _hide(self, name: str) -> None:
        if name in self._tasks:
            self.bars.remove_task(self._tasks.pop(name)[0])

    def _line(self) -> str:
        expected, done = self._expected, self._there + self._come.done
        of = "" if expected is None else f" of {decimal(expected)}"
        left = self._come.left(None if expected is None else expected - done)
        parts = [f"fetched {decimal(done)}{of}", f"{len(self._over)} of {self._parcels} files or folders"]
        return ", ".join([*parts, self._come.rate, *([f"{left} left"] if left else [])])

    def _finish(self, event: FetchEvent) -> None:
        self._over.add(event.file)
        for name in [name for name in self._tasks if self._of.get(name.partition(" ")[2]) == event.file]:
            self._hide(name)
        if event.error is not None:
            self._failed += 1
            if self._failed <= LISTED:
                notes.print(f"{event.file}: {event.error}", markup=False, soft_wrap=True)
        elif self._parcels <= LISTED:
            notes.print(f"{event.file}: there ({decimal(event.done)} fetched)", markup=False, soft_wrap=True)


class _Meter:
    """How fast something has grown of late."""

    def __init__(self, done: int = 0) -> None:
        self.done = done
        self._samples = deque([(time.monotonic(), done)])

    def to(self, done: int) -> None:
        """Take note of where it is."""
        now, self.done = time.monotonic(), done
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > WINDOW:  # noqa: PLR2004
            self._samples.popleft()

    @property
    def _speed(self) -> float:
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / max(end - start, 0.1))

    @property
    def rate(self) -> str:
        """Bytes a second in words."""
        return f"{decimal(int(self._speed))}/s"

    def left(self, missing: int | None) -> str:
        """Time that the rest will take, as far as one can tell."""
        if missing is None or self._speed < 1:
            return ""
        return str(timedelta(seconds=round(max(0, missing) / self._speed)))
