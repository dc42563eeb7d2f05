"""Cases of a corpus in a folder, read without Zarr libraries: see `shards`."""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.corpus import layout
from atlas.errors import CorpusError
from atlas.stream import lz4
from atlas.stream.blosc import decode_list
from atlas.stream.cache import Cache
from atlas.stream.failures import replaced
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
from atlas.stream.shards import DAMAGED, UNREADABLE, Sharding, parse_index, read_box, sharding_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from atlas.stream.shards import Triple

KEPT = 256 << 20
"""Bytes of opened cases that are kept: metadata, voxels to aim at and indices of shards, some 1,500 cases."""

Stamp = tuple[int, int, int]
"""What changes when a file is replaced: its number, its size and its time."""


@dataclass
class Shard:
    """A file of chunks: where its index begins, and the index."""

    path: str
    stamp: Stamp
    data_end: int
    index: NDArray[np.uint64]


@dataclass
class _Opened:
    case: OpenCase
    stamp: Stamp
    sharding: dict[str, Sharding]
    shards: dict[tuple[str, Triple], Shard | None] = field(default_factory=dict)


class Unsupported(Exception):  # noqa: N818 - it asks for another reader and reaches nobody
    """The arrays of a case are stored in a way that `shards` does not read."""


class LocalSource:
    """Source of patches, see `atlas.stream.opened.Source`. Keeps no file open and starts no thread: it survives a fork.

    Parameters
    ----------
    folder
        Of the corpus.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._cases: Cache[_Opened] = Cache(KEPT)
        self._scratch = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalSource, (self.folder,)

    def open_case(self, case_id: str) -> OpenCase:
        """Metadata of a case. Raises CorpusError, and Unsupported where another reader is needed."""
        return self._opened(case_id).case

    def read(self, case: OpenCase, origin: Triple, ct: NDArray[np.int16], codes: NDArray[Any]) -> None:
        """Fill the part of both patches that lies inside the case."""
        opened = self._opened(case.case_id)
        if not same(opened.case, case):
            raise replaced(self.folder, case.case_id)
        for name, patch in ((CT, ct), (CODES, codes)):
            volume, within = inside(case.shape, origin, patch.shape)
            target = patch[within]
            if target.size:
                self._read_array(opened, name, volume, target)

    def _opened(self, case_id: str) -> _Opened:
        return self._cases.get(case_id, lambda: self._open(case_id))

    def _open(self, case_id: str) -> tuple[_Opened, int]:
        layout.check_case_id(case_id)
        folder = Path(self.folder, layout.case_path(case_id))
        try:
            stamp = _stamp(os.stat(folder / "zarr.json"))  # noqa: PTH116 - a twentieth of the time
            documents = {name: (folder / name).read_bytes() for name in DOCUMENTS}
        except OSError as error:
            raise _gone(self.folder, case_id, error) from None
        case = parse_case(case_id, documents)
        try:
            sharding = {name: sharding_of(case.arrays[name]) for name in (CT, CODES)}
            known = {name: found for name, found in sharding.items() if found is not None}
            if len(known) != len(sharding):
                raise Unsupported(case_id)
            case = replace(case, voxels=_voxels(folder / FOREGROUND, case))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise CorpusError(f"{case_id}: the case is damaged ({error!r}); build it again") from error
        indices = sum(
            s.index_bytes * math.prod(-(-n // m) for n, m in zip(case.shape, s.shard, strict=True))
            for s in known.values()
        )
        return _Opened(case, stamp, known), case.nbytes + indices

    def _read_array(self, opened: _Opened, name: str, volume: tuple[slice, ...], target: NDArray[Any]) -> None:
        sharding = opened.sharding[name]
        touched = [range(s.start // n, (s.stop - 1) // n + 1) for s, n in zip(volume, sharding.shard, strict=True)]
        for place in product(*touched):
            corner = [p * n for p, n in zip(place, sharding.shard, strict=True)]
            z0, y0, x0 = first = _triple(max(s.start - c, 0) for s, c in zip(volume, corner, strict=True))
            z1, y1, x1 = last = _triple(
                min(s.stop - c, n) for s, c, n in zip(volume, corner, sharding.shard, strict=True)
            )
            z, y, x = (c - s.start for c, s in zip(corner, volume, strict=True))
            part = target[z + z0 : z + z1, y + y0 : y + y1, x + x0 : x + x1]
            shard = self._shard(opened, name, (place[0], place[1], place[2]))
            if shard is None:
                part[...] = sharding.fill
            else:
                self._read_shard(opened.case.case_id, shard, sharding, first, last, part)

    def _shard(self, opened: _Opened, name: str, place: Triple) -> Shard | None:
        key = (name, place)
        if key not in opened.shards:
            opened.shards[key] = self._open_shard(opened, name, place)
        return opened.shards[key]

    def _open_shard(self, opened: _Opened, name: str, place: Triple) -> Shard | None:
        """Index of a shard; None if there is no file: all its voxels have the fill value."""
        case_id, sharding = opened.case.case_id, opened.sharding[name]
        folder = Path(self.folder, layout.case_path(case_id))
        path = folder / name / "c" / "/".join(map(str, place))
        shard = None
        try:
            with path.open("rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                data_end = max(stamp[1] - sharding.index_bytes, 0)
                file.seek(data_end)
                index = parse_index(file.read(sharding.index_bytes), sharding)
                if index is None:
                    raise _damaged(path, case_id)
                shard = Shard(str(path), stamp, data_end, index)
        except FileNotFoundError:
            pass  # nothing is stored there, if the case itself is there
        except OSError as error:
            raise _gone(self.folder, case_id, error) from None
        self._check_same(opened, folder)
        return shard

    def _check_same(self, opened: _Opened, folder: Path) -> None:
        case_id = opened.case.case_id
        try:
            same = _stamp(os.stat(folder / "zarr.json")) == opened.stamp  # noqa: PTH116
        except OSError as error:
            raise _gone(self.folder, case_id, error) from None
        if not same:
            self._cases.forget(case_id)
            raise replaced(self.folder, case_id)

    def _read_shard(
        self, case_id: str, shard: Shard, sharding: Sharding, first: Triple, last: Triple, out: NDArray[Any]
    ) -> None:
        try:
            descriptor = os.open(shard.path, os.O_RDONLY)
        except OSError as error:
            raise _gone(self.folder, case_id, error) from None
        try:
            if _stamp(os.fstat(descriptor)) != shard.stamp:
                self._cases.forget(case_id)
                raise replaced(self.folder, case_id)
            result = read_box(
                descriptor,
                shard.data_end,
                shard.index,
                sharding.chunks,
                sharding.chunk,
                first,
                last,
                out,
                sharding.fill,
                self._memory(sharding),
                sharding.row_bytes,
            )
        finally:
            os.close(descriptor)
        if result == UNREADABLE:
            raise CorpusError(f"{shard.path}: the disk could not be read (case {case_id})")
        if result == DAMAGED:
            raise _damaged(shard.path, case_id)

    def _memory(self, sharding: Sharding) -> NDArray[np.uint8]:
        """Memory of this thread."""
        kept: dict[Sharding, NDArray[np.uint8]] = self._scratch.__dict__.setdefault("kept", {})
        if sharding not in kept:
            kept[sharding] = sharding.scratch()
        return kept[sharding]


def _triple(numbers: Iterable[int]) -> Triple:
    z, y, x = numbers
    return z, y, x


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _voxels(folder: Path, case: OpenCase) -> NDArray[np.uint16]:
    """The voxels of all classes, uint16 (n, 3); they are stored as one chunk."""
    metadata = case.arrays[FOREGROUND]
    count = int(metadata["shape"][0])
    if count > LARGEST_LIST or metadata != layout.voxel_list(count) | {"attributes": metadata["attributes"]}:
        raise Unsupported(case.case_id)
    voxels = np.zeros((count, 3), np.uint16)
    if not count:
        return voxels
    path = folder / "c/0/0"
    try:
        stored = np.frombuffer(path.read_bytes() + bytes(lz4.SLACK), np.uint8)
    except OSError as error:
        raise _gone(str(folder), case.case_id, error) from None
    scratch = np.empty(2 * voxels.nbytes + 4 * lz4.SLACK, np.uint8)
    if decode_list(stored, voxels.reshape(-1), scratch) or (voxels >= case.shape).any():
        raise _damaged(path, case.case_id)
    return voxels


def _damaged(path: object, case_id: str) -> CorpusError:
    return CorpusError(f"{path}: damaged; find what else is with `atlas verify`, and build {case_id} again")


def _gone(folder: str, case_id: str, error: OSError) -> CorpusError:
    return CorpusError(
        f"{folder}: {case_id} cannot be read ({error.strerror or error}); if it was removed, bring the catalog up to "
        "date with: atlas verify CORPUS --rebuild-catalog"
    )
