"""The endless sequence of patches of a seed: what patch i is, and how it is read."""

from __future__ import annotations

import zlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from atlas.errors import SpecError
from atlas.harmonize.grid import HU_MIN
from atlas.stream import channels
from atlas.stream.counter import SAMPLING, uniforms
from atlas.stream.place import origin_around, origin_in
from atlas.stream.sampling import BACKGROUND, Sampler, Sampling
from atlas.stream.sources import source_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.corpus import Corpus
    from atlas.stream.opened import OpenCase, Source
    from atlas.stream.place import Triple
    from atlas.stream.select import CaseIndex

LARGEST_PATCH = 1024
"""Voxels along an axis."""


class Aim(NamedTuple):
    """What a patch is to show.

    Attributes
    ----------
    number
        Of the patch in the run.
    case
        Position in the selection.
    target
        A class, None: background.
    voxel
        In [0, 1): which of the voxels stored of the class.
    offset
        (z, y, x), in [0, 1): where the patch lies around it.
    """

    number: int
    case: int
    target: str | None
    voxel: float
    offset: tuple[float, float, float]


class Patch(NamedTuple):
    """Where a patch was read.

    Attributes
    ----------
    case
        Its case.
    origin
        First voxel in the case, (z, y, x).
    wide
        uint16 (z, y, x): its codes, where the case has too many for the uint8 that they were to be read to.
    """

    case: OpenCase
    origin: Triple
    wide: NDArray[np.uint16] | None


class Run:
    """Patches by number; pickles as a few arrays, and opens the corpus anew in each process.

    Parameters
    ----------
    corpus
        Where the patches come from.
    index
        Its cases that are drawn from.
    patch_size
        Voxels, (z, y, x) or one number for all axes.
    seed
        Says all that is random.
    sampling
        What patches are aimed at.
    classes
        Classes to aim at; None: those that are available in any of the cases.

    Raises
    ------
    SpecError
        If the patch, a class or the sampling is impossible.
    """

    def __init__(
        self,
        corpus: Corpus,
        index: CaseIndex,
        *,
        patch_size: int | Sequence[int] = 96,
        seed: int = 0,
        sampling: Sampling | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.location, self.taxonomy = corpus.location, corpus.taxonomy
        self.index, self.seed, self.sampling = index, seed, sampling or Sampling()
        self.patch = patch_shape(patch_size)
        self.classes = (
            annotated(index, self.taxonomy.names) if classes is None else channels.named(self.taxonomy, classes)
        )
        self._sampler = Sampler(index, self.taxonomy, self.sampling, self.classes)
        uniforms(seed, SAMPLING, 0, 1, 1)  # refuses a seed that is none

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "source"}

    @cached_property
    def source(self) -> Source:
        """Reader of the corpus, opened when first needed in this process."""
        return source_of(self.location)

    @property
    def fingerprint(self) -> int:
        """Of everything that says what patch i is, apart from the seed."""
        words = (self.index.case_ids.tolist(), self.index.datasets, self.patch, self.classes, self.sampling)
        found = zlib.crc32(repr(words).encode())
        for name in ("dataset", "shape", "body", "available", "starts", "bits"):
            found = zlib.crc32(getattr(self.index, name).tobytes(), found)
        return found

    def aims(self, first: int, count: int) -> list[Aim]:
        """What patches `first` to `first + count - 1` are to show."""
        draws = self._sampler.draw(uniforms(self.seed, SAMPLING, first, count, Sampler.WIDTH))
        names = self.taxonomy.names
        return [
            Aim(first + i, case, None if bit == BACKGROUND else names[bit], voxel, (z, y, x))
            for i, (case, bit, voxel, (z, y, x)) in enumerate(zip(*(d.tolist() for d in draws), strict=True))
        ]

    def available(self, aims: Sequence[Aim]) -> NDArray[np.uint32]:
        """Classes that count as available in the case of each aim, uint32 (B, words)."""
        found: NDArray[np.uint32] = self.index.available[[aim.case for aim in aims]]
        return found

    def read(self, aim: Aim, ct: NDArray[np.int16], codes: NDArray[np.uint8]) -> Patch:
        """Read a patch into int16 and uint8 (z, y, x); see `Patch.wide`. Threads may read at once.

        Raises
        ------
        CorpusError
            If the case cannot be read; the message names it.
        """
        case = self.source.open_case(str(self.index.case_ids[aim.case]))
        origin = self.locate(aim, case)
        wide = np.zeros(codes.shape, np.uint16) if case.codes_dtype.itemsize > 1 else None
        if any(o < 0 or o + p > n for o, p, n in zip(origin, self.patch, case.shape, strict=True)):
            ct[...], codes[...] = HU_MIN, 0
        self.source.read(case, origin, ct, codes if wide is None else wide)
        return Patch(case, origin, wide)

    def locate(self, aim: Aim, case: OpenCase) -> Triple:
        """First voxel of a patch, (z, y, x)."""
        if aim.target is None:
            return origin_in(case.shape, self.patch, self.index.body[aim.case].tolist(), aim.offset)
        voxel = case.target(aim.target, aim.voxel).tolist()
        return origin_around(case.shape, self.patch, voxel, aim.offset, self.sampling.jitter)


def patch_shape(size: int | Sequence[int]) -> Triple:
    """Patch as (z, y, x).

    Raises
    ------
    SpecError
        If it is no size.
    """
    sizes: tuple[Any, ...] = (size,) * 3 if np.ndim(size) == 0 else tuple(size)  # type: ignore[arg-type]
    if len(sizes) != 3 or not all(isinstance(n, int | np.integer) and 0 < n <= LARGEST_PATCH for n in sizes):  # noqa: PLR2004
        raise SpecError(f"a patch is one whole number, or three as (z, y, x), from 1 to {LARGEST_PATCH}; not {size!r}")
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def annotated(index: CaseIndex, names: Sequence[str]) -> tuple[str, ...]:
    """Classes that are available in any of the cases, in bit order.

    Raises
    ------
    SpecError
        If there is none.
    """
    found = tuple(name for bit, name in enumerate(names) if index.annotated(bit).any())
    if not found:
        raise SpecError("no class is annotated in any of the selected cases")
    return found
