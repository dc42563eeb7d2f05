"""Binary masks, packed: a small code per voxel and a table code -> bitmask.

Only a few dozen combinations of classes occur in a case, so a voxel needs one byte however many classes there
are and however they overlap (design.md section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from atlas.errors import LabelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Region = tuple[slice, slice, slice]


class Entry(NamedTuple):
    """What a code stands for, as bitmasks: the classes there, and the classes that nobody can tell there."""

    classes: int
    unknown: int


BACKGROUND = Entry(0, 0)


@dataclass(frozen=True)
class PackedMasks:
    """All masks of a case.

    Attributes
    ----------
    codes
        uint8, or uint16 past 255 codes; (z, y, x). Code 0 is background.
    table
        Entry of each code, in ascending order, so equal masks give equal bytes.
    """

    codes: NDArray[np.unsignedinteger]
    table: tuple[Entry, ...]

    def lookup(self, bit: int) -> NDArray[np.bool_]:
        """Truth of class `bit` for each code: `masks.lookup(bit)[masks.codes]` is its mask."""
        return np.array([entry.classes >> bit & 1 for entry in self.table], dtype=bool)


class MaskPacker:
    """Packs masks one after another; memory is two bytes a voxel whatever is added."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.codes = np.zeros(shape, dtype=np.uint16)
        self.table: list[Entry] = [BACKGROUND]
        self._index: dict[Entry, int] = {BACKGROUND: 0}

    def update(
        self,
        start: tuple[int, int, int],
        selector: NDArray[np.unsignedinteger] | NDArray[np.bool_],
        rule: Callable[[Entry, int], Entry],
    ) -> None:
        """Replace the entry `e` of every voxel of a box by `rule(e, s)`, s being the selector's value there.

        Parameters
        ----------
        start
            (z, y, x) index of the box's first voxel.
        selector
            (z, y, x) small numbers; where it is 0 nothing changes.
        rule
            Called once for each combination that occurs.
        """
        z0, y0, x0 = start
        box = self.codes[z0 : z0 + selector.shape[0], y0 : y0 + selector.shape[1], x0 : x0 + selector.shape[2]]
        known: dict[int, int] = {}
        width = int(selector.max(initial=0)) + 1
        # slice by slice: the temporaries stay in the processor's cache
        for codes, chosen in zip(box, selector, strict=True):
            if not chosen.any():
                continue
            keys = codes.astype(np.int64) * width + chosen
            lookup = np.arange(int(keys.max()) + 1) // width
            for key in np.flatnonzero(np.bincount(keys.ravel())):
                code, choice = divmod(int(key), width)
                if choice:
                    if int(key) not in known:
                        known[int(key)] = self._code(rule(self.table[code], choice))
                    lookup[key] = known[int(key)]
            codes[...] = lookup[keys]

    def _code(self, entry: Entry) -> int:
        if entry not in self._index:
            if len(self.table) > np.iinfo(np.uint16).max:
                raise LabelError(
                    "more than 65,535 combinations of classes occur in one case; no mask file is that ragged"
                )
            self._index[entry] = len(self.table)
            self.table.append(entry)
        return self._index[entry]

    def where(self, bits: int, box: Region | tuple[()] = ()) -> NDArray[np.bool_]:
        """Voxels of a box (or of the whole volume) that have any of the classes of a bitmask."""
        mask: NDArray[np.bool_] = np.array([bool(e.classes & bits) for e in self.table])[self.codes[box]]
        return mask

    def box(self, wanted: Callable[[Entry], bool]) -> Region | None:
        """Smallest box around the voxels whose entry is wanted; None if there is none."""
        truth = np.array([wanted(entry) for entry in self.table])
        if not truth.any():
            return None
        slices = np.zeros(len(self.codes), dtype=bool)
        plane = np.zeros(self.codes.shape[1:], dtype=bool)
        for number, codes in enumerate(self.codes):  # one pass, in the processor's cache
            where = np.take(truth, codes, mode="clip")
            slices[number] = where.any()
            if slices[number]:
                plane |= where
        across = bounding_box(plane[None])
        used = np.flatnonzero(slices)
        return None if across is None else (slice(int(used[0]), int(used[-1]) + 1), across[1], across[2])

    def packed(self, keep: int) -> PackedMasks:
        """Finish: only the bits of `keep` remain, only entries that occur, in ascending order."""
        entries = [Entry(e.classes & keep, e.unknown & keep) for e in self.table]
        used = np.zeros(len(entries), dtype=bool)
        for codes in self.codes:
            used |= np.bincount(codes.ravel(), minlength=len(entries)).astype(bool)
        table = sorted({BACKGROUND, *(e for e, u in zip(entries, used, strict=True) if u)})
        position = {entry: i for i, entry in enumerate(table)}
        dtype = np.uint8 if len(table) <= np.iinfo(np.uint8).max + 1 else np.uint16
        lookup = np.array([position.get(e, 0) for e in entries], dtype=dtype)
        packed = np.empty(self.codes.shape, dtype)
        for codes, result in zip(self.codes, packed, strict=True):
            np.take(lookup, codes, out=result, mode="clip")  # no code is too large; other modes buffer
        return PackedMasks(codes=packed, table=tuple(table))


def bounding_box(mask: NDArray[np.bool_]) -> Region | None:
    """Smallest box (slices in array order) around the true voxels; None if there are none."""
    spans = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not hit.size:
            return None
        spans.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return spans[0], spans[1], spans[2]
