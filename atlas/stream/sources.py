"""Which reader a corpus, and each of its cases, is read by."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from atlas.stream.local import LocalSource, Unsupported

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from atlas.stream.opened import OpenCase, Source


def source_of(location: str) -> Source:
    """Reader of a corpus.

    Parameters
    ----------
    location
        Folder, or URL (s3://, gs://, https://).
    """
    if "://" in location:
        from atlas.stream.remote import TensorStoreSource

        return TensorStoreSource(location)
    return FolderSource(location)


class FolderSource:
    """Source for a folder: tensorstore reads the cases whose chunks `shards` does not decode.

    Parameters
    ----------
    folder
        Of the corpus.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._local = LocalSource(folder)
        self._others: set[str] = set()
        self._other: Source | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return FolderSource, (self.folder,)

    def open_case(self, case_id: str) -> OpenCase:
        """Metadata of a case; see `Source`."""
        if case_id not in self._others:
            try:
                return self._local.open_case(case_id)
            except Unsupported:
                self._others.add(case_id)
        return self._tensorstore().open_case(case_id)

    def read(self, case: OpenCase, origin: tuple[int, int, int], ct: NDArray[np.int16], codes: NDArray[Any]) -> None:
        """Fill both patches; see `Source`."""
        if case.case_id not in self._others:
            try:
                self._local.read(case, origin, ct, codes)
            except Unsupported:  # the case was opened in another process
                self._others.add(case.case_id)
            else:
                return
        self._tensorstore().read(case, origin, ct, codes)

    def _tensorstore(self) -> Source:
        with self._lock:
            if self._other is None:
                from atlas.stream.remote import TensorStoreSource

                self._other = TensorStoreSource(self.folder)
            return self._other
