"""Which cases of a dataset can be built while others are still being fetched."""

from __future__ import annotations

import time
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING

from atlas.errors import ScanError
from atlas.ingest.cases import case_of, find_cases

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from atlas.build.context import Context
    from atlas.build.fetching import Arrival, Parcel
    from atlas.ingest.cases import CaseFiles
    from atlas.spec.files import Layout

LOOKING = 0.05
"""Share of the time that may go into looking at a dataset's folder, which may hold many thousands of files."""

NAMED = 3
"""Files that are named as missing before the others are only counted."""


@dataclass
class Feed:
    """Cases of one dataset, handed out as soon as their files are there.

    Attributes
    ----------
    coming
        What is on its way to the dataset's folder, or to that of the dataset whose CT it shares.
    limit
        At most so many cases.
    """

    context: Context
    coming: InitVar[Iterable[Parcel]]
    limit: int | None = None
    _pending: dict[str, Parcel] = field(default_factory=dict)
    _failed: dict[str, tuple[Parcel, str]] = field(default_factory=dict)
    _given: set[str] = field(default_factory=set)
    _changed: bool = True
    _next_look: float = 0.0
    _over: bool = False

    def __post_init__(self, coming: Iterable[Parcel]) -> None:
        self._pending = {parcel.name: parcel for parcel in coming}

    @property
    def waits(self) -> bool:
        """Whether anything is on its way."""
        return bool(self._pending)

    @property
    def total(self) -> int:
        """How many cases there will be, as far as is known."""
        expected = max(len(self._given), self.context.manifest.labelled) if self.waits else len(self._given)
        return expected if self.limit is None else min(self.limit, expected)

    def arrived(self, arrival: Arrival) -> None:
        """Take note of what came, or did not."""
        parcel = self._pending.pop(arrival.name, None)
        if parcel is None:
            return
        self._changed = True
        if arrival.error is not None:
            self._failed[arrival.name] = (parcel, arrival.error)

    def ready(self) -> list[CaseFiles]:
        """Cases that were not ready before; at the end all the others, with what is wrong with them.

        Raises
        ------
        ScanError
            If nothing more is on its way and there is no dataset.
        """
        start = time.monotonic()
        if self._over or (self.waits and not (self._changed and start >= self._next_look)):
            return []
        self._over, self._changed = not self.waits, False
        try:
            cases = find_cases(self.context.manifest, self.context.sources)
        except ScanError:
            if self.waits:
                return []
            raise
        finally:
            self._next_look = time.monotonic() + (time.monotonic() - start) / LOOKING
        return self._fresh([case for case in cases if case.source_case not in self._given])

    def _fresh(self, cases: list[CaseFiles]) -> list[CaseFiles]:
        layout = self.context.manifest.layout
        failed = [parcel for parcel, _ in self._failed.values()]
        whole = complete(cases, layout, [*self._pending.values(), *failed])
        if not self.waits:
            sound = {case.source_case for case in whole}
            for case in cases:
                if case.source_case not in sound:
                    case.problem = "; ".join(filter(None, (case.problem, self._lacks(case.source_case))))
            whole = cases
        fresh = whole[: None if self.limit is None else self.limit - len(self._given)]
        self._given.update(case.source_case for case in fresh)
        return fresh

    def _lacks(self, case: str) -> str | None:
        """What was not fetched of a case: its own files, and those that may hold a part of it."""
        layout = self.context.manifest.layout
        of = {name: case_of(layout, parcel.target) for name, (parcel, _) in self._failed.items()}
        texts = [f"{name} ({self._failed[name][1]})" for name in of if of[name] in (case, None)]
        more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
        return f"not fetched: {', '.join(texts[:NAMED])}{more}" if texts else None


def complete(cases: list[CaseFiles], layout: Layout, missing: Collection[Parcel]) -> list[CaseFiles]:
    """Cases that lack nothing, and to which nothing that is missing can belong.

    A case of single files is complete with the last of them. Of a folder of masks nobody can tell from the outside
    whether the next archive has more for it.
    """
    if not missing:
        return cases
    downloads = [parcel.downloads[0] for parcel in missing]
    archives = [download for download in downloads if download.archive]
    single = not (layout.masks or layout.study or any(pattern.endswith("/") for pattern in layout.image))
    if not single and not all(download.whole_cases for download in archives):
        return []
    if layout.regions and (archives or any(download.target == layout.regions.file for download in downloads)):
        return []  # a table about all cases
    theirs = {case_of(layout, download.target) for download in downloads if not download.archive}
    return [case for case in cases if case.problem is None and case.source_case not in theirs]
