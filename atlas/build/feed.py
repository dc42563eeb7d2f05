"""Which cases of a dataset can be built while others are still being fetched."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atlas.errors import ScanError
from atlas.ingest.cases import case_of, find_cases

if TYPE_CHECKING:
    from collections.abc import Collection

    from atlas.build.context import Context
    from atlas.build.fetching import Arrival, Parcel
    from atlas.ingest.cases import CaseFiles
    from atlas.spec.files import Layout

LOOK_EVERY = 2.0
"""Seconds between two looks at a dataset's folder, which may hold thousands of files."""


@dataclass
class Feed:
    """Cases of one dataset, handed out as soon as their files are there.

    Attributes
    ----------
    pending
        What is still on its way to the dataset's folder, or to that of the dataset whose CT it shares.
    limit
        At most so many cases.
    """

    context: Context
    pending: set[Parcel]
    limit: int | None = None
    failures: list[str] = field(default_factory=list)
    _given: set[str] = field(default_factory=set)
    _looked: float = 0.0
    _over: bool = False

    @property
    def total(self) -> int:
        """How many cases there will be, as far as is known."""
        expected = max(len(self._given), self.context.manifest.labelled) if self.pending else len(self._given)
        return expected if self.limit is None else min(self.limit, expected)

    def arrived(self, arrival: Arrival) -> None:
        """Take note of what came, or did not."""
        if arrival.parcel in self.pending:
            self.pending.discard(arrival.parcel)
            if arrival.error is not None:
                self.failures.append(f"{arrival.parcel.name}: {arrival.error}")

    def ready(self) -> list[CaseFiles]:
        """Cases that were not ready before; at the end all the others, with what is wrong with them.

        Raises
        ------
        ScanError
            If nothing more is on its way and there is no dataset.
        """
        if self._over or (self.pending and time.monotonic() - self._looked < LOOK_EVERY):
            return []
        self._looked, self._over = time.monotonic(), not self.pending
        try:
            cases = find_cases(self.context.manifest, self.context.sources)
        except ScanError:
            if self.pending:
                return []
            raise
        room = None if self.limit is None else self.limit - len(self._given)
        fresh = [case for case in cases if case.source_case not in self._given]
        fresh = complete(fresh, self.context.manifest.layout, self.pending)[:room]
        self._given.update(case.source_case for case in fresh)
        for case in fresh:
            if case.problem is not None and self.failures:
                case.problem = f"{case.problem}; not fetched: {'; '.join(self.failures)}"
        return fresh


def complete(cases: list[CaseFiles], layout: Layout, pending: Collection[Parcel]) -> list[CaseFiles]:
    """Cases to which nothing that is on its way can belong.

    A case of single files is complete with the last of them. Of a folder of masks nobody can tell from the outside
    whether the next archive has more for it.
    """
    if not pending:
        return cases
    cases = [case for case in cases if case.problem is None]
    single = not (layout.masks or layout.study or any(pattern.endswith("/") for pattern in layout.image))
    if single:
        return cases
    downloads = [download for parcel in pending for download in parcel.downloads]
    if any(download.archive and not download.whole_cases for download in downloads):
        return []
    coming = {case_of(layout, download.target) for download in downloads if not download.archive}
    return [case for case in cases if case.source_case not in coming]
