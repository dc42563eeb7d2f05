"""Cases of a corpus read by tensorstore: in buckets, on web servers, and in folders with any codec of Zarr."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.corpus import layout
from atlas.errors import CorpusError
from atlas.stream.address import address_of
from atlas.stream.cache import Cache
from atlas.stream.failures import ERRORS, failure, gone, is_damage, replaced
from atlas.stream.opened import (
    CODES,
    CT,
    DOCUMENTS,
    FOREGROUND,
    LARGEST_LIST,
    OpenCase,
    inside,
    parse_case,
    same,
)
from atlas.stream.stored import Stored, chunks_of, damaged

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from atlas.stream.stored import Triple

PATIENCE = 180.0
"""Seconds for one read, retries included, after which it is given up."""

POOL = 64 << 20
"""Bytes for indices of shards and decoded chunks; the latter drive out the former, so it holds some ten patches."""

KEPT = 256
"""Cases whose arrays stay open, at a few kilobytes each."""

_read_in: set[int] = set()
"""The process that has read; tensorstore's threads do not live on in a process forked from it."""


class TensorStoreSource:
    """Source of patches, see `atlas.stream.opened.Source`.

    Parameters
    ----------
    location
        Of the corpus: a folder, or URL (s3://, gs://, https://, http://); `atlas.stream.address` says which settings
        are read.
    patience
        Seconds after which a read is given up, retries included.

    Raises
    ------
    CorpusError
        If the location is none of these.
    """

    def __init__(self, location: str, *, patience: float = PATIENCE) -> None:
        self.location = location.rstrip("/")
        self.patience = patience
        self._address = address_of(self.location, os.environ)
        self._lock = threading.Lock()
        self._opened: tuple[Any, Any] | None = None
        self._arrays: Cache[tuple[Stored, Stored]] = Cache(KEPT)

    def __reduce__(self) -> tuple[Callable[..., TensorStoreSource], tuple[str, float]]:
        return _remade, (self.location, self.patience)

    def open_case(self, case_id: str) -> OpenCase:
        """Metadata of a case; see `Source`."""
        documents = self._documents(case_id)
        try:
            case = parse_case(case_id, documents)
            return replace(case, voxels=self._voxels(case))
        except CorpusError as error:
            raise self._located(case_id, error) from error.__cause__

    def read(self, case: OpenCase, origin: Triple, ct: NDArray[np.int16], codes: NDArray[Any]) -> None:
        """Fill both patches; see `Source`. After an error neither has been touched."""
        volume, within = inside(case.shape, origin, ct.shape)
        if any(s.start == s.stop for s in volume):
            return
        arrays = self._volumes(case)
        # reading into new memory and copying costs no more than writing in place, which goes on after an error
        parts = self._values(case.case_id, [stored.array[volume] for stored in arrays])
        for stored, values in zip(arrays, parts, strict=True):
            for place in stored.suspects(volume, values):
                self._check_shard(case, stored, place)
        for target, values in zip((ct, codes), parts, strict=True):
            np.copyto(target[within], values, casting="equiv")

    def _store(self) -> tuple[Any, Any]:
        """The key-value store and the context, opened at first use."""
        if _read_in - {os.getpid()}:
            raise CorpusError(
                f"{self.location}: cannot be read in a process forked from one that has read already; start workers "
                'by "forkserver" or "spawn" (DataLoader(multiprocessing_context="forkserver")), or read only in them'
            )
        _read_in.add(os.getpid())
        with self._lock:
            if self._opened is None:
                import tensorstore as ts

                for name, value in self._address.environment.items():
                    os.environ.setdefault(name, value)
                context = ts.Context({"cache_pool": {"total_bytes_limit": POOL}, **self._address.context})
                try:
                    opened = ts.KvStore.open(self._address.kvstore, context=context).result(timeout=self.patience)
                except ERRORS as error:
                    raise CorpusError(f"{self.location}: cannot be opened ({error}); check the address") from error
                self._opened = opened, context
            return self._opened

    def _documents(self, case_id: str) -> dict[str, bytes]:
        layout.check_case_id(case_id)
        store, _ = self._store()
        paths = [f"{layout.case_path(case_id)}/{name}" for name in DOCUMENTS]
        found = self._results(case_id, [store.read(path) for path in paths])
        for path, result in zip(paths, found, strict=True):
            if result.state != "value":
                raise gone(self.location, case_id, path)
        return {name: result.value for name, result in zip(DOCUMENTS, found, strict=True)}

    def _voxels(self, case: OpenCase) -> NDArray[np.uint16]:
        """The voxels of all classes, uint16 (n, 3)."""
        metadata = case.arrays[FOREGROUND]
        chunks_of(FOREGROUND, metadata)
        shape = metadata["shape"]
        if metadata.get("data_type") != "uint16" or shape[1:] != [3] or not 0 <= int(shape[0]) <= LARGEST_LIST:
            raise damaged(FOREGROUND, ValueError(f"{metadata.get('data_type')} {shape}"))
        if not shape[0]:
            return np.zeros((0, 3), np.uint16)
        (voxels,) = self._values(case.case_id, [self._open_array(case, FOREGROUND)])
        # a list that is missing reads as zeros; one voxel of each class may truly lie at the corner
        if (voxels >= case.shape).any() or not (voxels.any() or shape[0] <= len(case.spans)):
            raise CorpusError(f"{FOREGROUND} is missing or damaged; build the case again")
        result: NDArray[np.uint16] = voxels
        return result

    def _volumes(self, case: OpenCase) -> tuple[Stored, Stored]:
        def opened() -> tuple[tuple[Stored, Stored], int]:
            return (self._open_volume(case, CT), self._open_volume(case, CODES)), 1

        found = self._arrays.get(case.case_id, opened)
        if any(stored.metadata is not case.arrays[stored.name] for stored in found):  # of another opening of the case
            self._arrays.forget(case.case_id)
            found = self._arrays.get(case.case_id, opened)
        return found

    def _open_volume(self, case: OpenCase, name: str) -> Stored:
        try:
            return Stored.of(name, self._open_array(case, name), case.arrays[name])
        except CorpusError as error:
            raise self._located(case.case_id, error) from error.__cause__

    def _located(self, case_id: str, error: CorpusError) -> CorpusError:
        """The same error, which says where."""
        text = str(error)
        if self.location in text:
            return error
        return CorpusError(f"{self.location}: {text if case_id in text else f'{case_id}/{text}'}")

    def _open_array(self, case: OpenCase, name: str) -> Any:  # noqa: ANN401
        store, context = self._store()
        import tensorstore as ts

        try:
            return ts.open(
                {"driver": "zarr3", "metadata": case.arrays[name]},
                kvstore=store / f"{layout.case_path(case.case_id)}/{name}/",
                read=True,
                open=True,
                assume_metadata=True,  # it has just been read
                recheck_cached_data="open",  # an index is asked for once, and again if the case is opened again
                recheck_cached_metadata=False,
                context=context,
            ).result(timeout=self.patience)
        except ERRORS as error:
            raise failure(self.location, f"{case.case_id}/{name}", error) from error

    def _values(self, case_id: str, arrays: list[Any]) -> list[NDArray[Any]]:
        """Read arrays at once; what looks damaged is read again, for an answer may have been cut short on its way."""
        try:
            return [future.result(timeout=self.patience) for future in [array.read() for array in arrays]]
        except ERRORS as error:
            if not is_damage(error):
                raise failure(self.location, case_id, error) from error
        return self._results(case_id, [array.read() for array in arrays])

    def _results(self, case_id: str, futures: list[Any]) -> list[Any]:
        deadline = time.time() + self.patience
        try:
            return [future.result(deadline=deadline) for future in futures]
        except ERRORS as error:
            raise failure(self.location, case_id, error) from error

    def _check_shard(self, case: OpenCase, stored: Stored, place: Triple) -> None:
        """Tell a shard that was never written, all its voxels having the fill value, from one that is gone."""
        if self._exists(case, stored, place):
            return
        documents = self._documents(case.case_id)
        if not self._unchanged(case, documents):
            raise replaced(self.location, case.case_id)
        needed = bool((case.voxels // np.array(stored.shard) == place).all(axis=1).any())  # a class is there
        if stored.name == CT:
            # a CT of air alone has no shard; any other has one at least
            record = json.loads(documents["zarr.json"])["attributes"]["atlas"]
            needed = record.get("hu_max") != stored.fill and (
                needed or not any(self._exists(case, stored, other) for other in stored.places())
            )
        if needed:
            raise CorpusError(
                f"{self.location}: {case.case_id} is not complete, {stored.key(place)} is missing; it is being removed "
                "or was not copied as a whole: copy or build it again"
            )
        stored.empty.add(place)

    def _unchanged(self, case: OpenCase, documents: dict[str, bytes]) -> bool:
        try:
            return same(parse_case(case.case_id, documents, case.voxels), case)
        except CorpusError as error:
            raise self._located(case.case_id, error) from error.__cause__

    def _exists(self, case: OpenCase, stored: Stored, place: Triple) -> bool:
        store, _ = self._store()
        path = f"{layout.case_path(case.case_id)}/{stored.key(place)}"
        (found,) = self._results(case.case_id, [store.read(path, byte_range=slice(0, 0))])
        return bool(found.state == "value")


def _remade(location: str, patience: float) -> TensorStoreSource:
    return TensorStoreSource(location, patience=patience)
