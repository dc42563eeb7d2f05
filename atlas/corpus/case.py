"""One case of a corpus, read lazily."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from atlas.corpus import layout
from atlas.corpus.record import CaseRecord
from atlas.errors import CorpusError, UnavailableClassError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from atlas.spec.taxonomy import Taxonomy

AXES = 4
"""(class, z, y, x)"""


class Case:
    """A CT and its masks, read when asked for.

    Axes are (z, y, x), RAS+: indices grow to superior, anterior and the patient's right.
    """

    def __init__(self, store: Store, case_id: str, taxonomy: Taxonomy) -> None:
        self.case_id = case_id
        self.taxonomy = taxonomy
        self._store = store
        self._path = layout.case_path(case_id)

    def __repr__(self) -> str:
        return f"<Case {self.case_id}: {self.record.shape} at {self.spacing} mm, {len(self.available)} classes>"

    @cached_property
    def record(self) -> CaseRecord:
        """Everything known about the case."""
        group = zarr.open_group(self._store, path=self._path, mode="r")
        return CaseRecord.model_validate(group.attrs["atlas"])

    @cached_property
    def ct(self) -> zarr.Array[Any]:
        """int16 (z, y, x), HU in [-1024, 3071]."""
        return zarr.open_array(self._store, path=f"{self._path}/{layout.CT}", mode="r")

    @cached_property
    def codes(self) -> zarr.Array[Any]:
        """uint8 or uint16 (z, y, x): the packed masks; `table` says what a code stands for."""
        return zarr.open_array(self._store, path=f"{self._path}/{layout.CODES}", mode="r")

    @cached_property
    def _mask_attributes(self) -> dict[str, list[str]]:
        group = zarr.open_group(self._store, path=f"{self._path}/{layout.MASKS}", mode="r")
        attributes: dict[str, list[str]] = group.attrs["atlas"]  # type: ignore[assignment]
        return attributes

    @cached_property
    def table(self) -> tuple[int, ...]:
        """Bitmask of the classes at voxels of each code."""
        return tuple(int(b, 16) for b in self._mask_attributes["bitmasks"])

    @cached_property
    def unknown_table(self) -> tuple[int, ...]:
        """Bitmask of the classes that nobody can tell at voxels of each code."""
        return tuple(int(b, 16) for b in self._mask_attributes["unknown"])

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4): (x, y, z) voxel indices to RAS mm."""
        return np.array(self.record.affine)

    @property
    def spacing(self) -> float:
        """Mm, along all axes."""
        return self.record.spacing

    @cached_property
    def available(self) -> frozenset[str]:
        """Classes that were annotated: an empty mask then means absent."""
        return frozenset(self.taxonomy.members(int(self.record.available, 16)))

    @property
    def present(self) -> frozenset[str]:
        """Classes with at least one voxel."""
        return self.record.present

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Mask of a class, bool (z, y, x).

        Raises
        ------
        UnavailableClassError
            If nobody annotated the class here; what an empty mask would say is not known.
        SpecError
            If there is no such class.
        """
        return self._where(self.table, name)

    def unknown(self, name: str) -> NDArray[np.bool_]:
        """Where an available class is not known, bool (z, y, x); all false in most cases.

        Raises
        ------
        UnavailableClassError, SpecError
            As `mask` does.
        """
        return self._where(self.unknown_table, name)

    def _where(self, table: tuple[int, ...], name: str) -> NDArray[np.bool_]:
        bit = self.taxonomy.bit(name)
        if name not in self.available:
            raise UnavailableClassError(
                f"{name} was not annotated in {self.case_id}; available are: {', '.join(sorted(self.available))}"
            )
        mask: NDArray[np.bool_] = _truth(table, bit)[np.asarray(self.codes[...])]
        return mask

    @property
    def masks(self) -> MaskArray:
        """All masks as one lazy bool array (class, z, y, x) in bit order; unavailable classes are false."""
        return MaskArray(self)

    @cached_property
    def foreground(self) -> dict[str, NDArray[np.uint16]]:
        """Class -> uint16 (n, 3): voxels (z, y, x) drawn evenly from the class, to aim patches at."""
        array = zarr.open_array(self._store, path=f"{self._path}/{layout.FOREGROUND}", mode="r")
        spans: dict[str, list[int]] = array.attrs["atlas"]["classes"]  # type: ignore[index,call-overload,assignment]
        voxels = np.asarray(array[...])
        return {name: voxels[start:stop] for name, (start, stop) in spans.items()}


class MaskArray:
    """Masks of a case as a lazy array: slicing reads the codes that it touches, and no others."""

    ndim = AXES
    dtype = np.dtype(bool)

    def __init__(self, case: Case) -> None:
        self._case = case

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(class, z, y, x)."""
        z, y, x = self._case.codes.shape
        return len(self._case.taxonomy), z, y, x

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<MaskArray {self.shape} bool>"

    def __getitem__(self, key: Any) -> NDArray[np.bool_]:  # noqa: ANN401
        """Basic slicing on all axes; classes also by a list of bits."""
        selection = _expanded(key)
        bits = np.arange(self.shape[0])[selection[0]]
        codes = np.asarray(self._case.codes[selection[1:]])
        table = self._case.table
        lookup = np.array([_truth(table, int(bit)) for bit in np.atleast_1d(bits)], bool).reshape(-1, len(table))
        return lookup[0][codes] if np.ndim(bits) == 0 else lookup[:, codes]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401
        return self[...].astype(dtype or bool, copy=bool(copy))


def _expanded(key: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """A key for each axis."""
    parts = key if isinstance(key, tuple) else (key,)
    if sum(p is Ellipsis for p in parts) > 1 or len(parts) - (Ellipsis in parts) > AXES:
        raise IndexError(f"too many indices for (class, z, y, x): {key!r}")
    if Ellipsis not in parts:
        parts = (*parts, Ellipsis)
    at = parts.index(Ellipsis)
    fill = (slice(None),) * (AXES - len(parts) + 1)
    return (*parts[:at], *fill, *parts[at + 1 :])


def _truth(table: tuple[int, ...], bit: int) -> NDArray[np.bool_]:
    return np.array([bitmask >> bit & 1 for bitmask in table], dtype=bool)


def open_case(store: Store, case_id: str, taxonomy: Taxonomy) -> Case:
    """Case of a corpus.

    Raises
    ------
    CorpusError
        If there is none of that id.
    """
    case = Case(store, case_id, taxonomy)
    try:
        _ = case.record
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise CorpusError(f"no case {case_id!r} in the corpus (it is named <dataset>/<source case>)") from error
    return case
