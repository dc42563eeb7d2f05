"""Sliding windows: a case read in overlapping patches that cover it, for inference."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from atlas.corpus import Corpus, open_corpus
from atlas.errors import SpecError
from atlas.harmonize.grid import HU_MIN
from atlas.stream.pack import pack
from atlas.stream.run import patch_shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.spec.taxonomy import Taxonomy
    from atlas.stream.batch import PackedBatch
    from atlas.stream.opened import OpenCase, Source


def sliding_windows(
    corpus: Corpus | str | Path,
    case_id: str,
    *,
    patch_size: int | Sequence[int] = 96,
    overlap: float = 0.5,
    batch_size: int = 1,
    pin_memory: bool = False,
    source: Source | None = None,
) -> Iterator[PackedBatch]:
    """Read a case in windows that cover all of its voxels.

    Every batch reads what it touches and nothing more, and is the caller's to keep. `origin` says where each window
    belongs, `index` counts the windows of the case. Along an axis that is shorter than the window, the case lies in
    its middle, the rest is air and no class.

    Parameters
    ----------
    corpus
        Corpus, or where it lies.
    case_id
        <dataset>/<source case>.
    patch_size
        Voxels of a window, along all axes or (z, y, x).
    overlap
        Fraction of a window that the next one repeats, in [0, 1).
    batch_size
        Windows a batch; the last batch may have fewer.
    pin_memory
        Read into pinned memory, out of which copies to a GPU do not wait.
    source
        What to read with, None: what fits the corpus's location.

    Raises
    ------
    SpecError
        If sizes or overlap are not possible.
    CorpusError
        If there is no such case, or it cannot be read.
    """
    # checked here and not in the generator: an error then comes where the mistake is
    patch = patch_shape(patch_size)
    _check(overlap, batch_size)
    opened = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    if source is None:
        from atlas.stream.sources import source_of

        source = source_of(opened.location)
    case = source.open_case(case_id)
    origins = window_origins(case.shape, patch, overlap)
    return _batches(source, case, origins, patch, batch_size, pin_memory, opened.taxonomy)


def window_origins(shape: Sequence[int], patch: Sequence[int], overlap: float) -> NDArray[np.int64]:
    """First voxels of the windows that cover a volume, int64 (n, 3), (z, y, x), the last axis fastest.

    Windows follow each other by ``max(1, int(patch * (1 - overlap)))`` voxels, as in MONAI's sliding-window inference;
    the last one of an axis is flush with the volume's end. Along an axis that is shorter than the window there is one,
    and the volume lies in its middle: its origin is negative.

    Parameters
    ----------
    shape, patch
        Voxels of the volume and of a window, (z, y, x).
    overlap
        Fraction of a window that the next one repeats, in [0, 1).
    """
    axes = [_starts(n, size, overlap) for n, size in zip(shape, patch, strict=True)]
    return np.array(list(product(*axes)), np.int64)


def _starts(size: int, patch: int, overlap: float) -> list[int]:
    last = size - patch
    if last <= 0:
        return [last // 2]
    return [*range(0, last, max(1, int(patch * (1 - overlap)))), last]


def _batches(
    source: Source,
    case: OpenCase,
    origins: NDArray[np.int64],
    patch: tuple[int, int, int],
    batch_size: int,
    pin_memory: bool,
    taxonomy: Taxonomy,
) -> Iterator[PackedBatch]:
    for first in range(0, len(origins), batch_size):
        origin = origins[first : first + batch_size]
        index = np.arange(first, first + len(origin))
        ct, codes = _read(source, case, origin, patch, pin_memory=pin_memory)
        targets = [None] * len(origin)
        yield pack([case] * len(origin), origin, ct, codes, target=targets, index=index, taxonomy=taxonomy)


def _read(
    source: Source, case: OpenCase, origins: NDArray[np.int64], patch: tuple[int, int, int], *, pin_memory: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (len(origins), *patch)
    dtype = torch.uint8 if case.codes_dtype == np.uint8 else torch.uint16
    ct = torch.empty(shape, dtype=torch.int16, pin_memory=pin_memory).fill_(HU_MIN)
    codes = torch.empty(shape, dtype=dtype, pin_memory=pin_memory).fill_(0)
    for (z, y, x), ct_window, codes_window in zip(origins.tolist(), ct.numpy(), codes.numpy(), strict=True):
        source.read(case, (z, y, x), ct_window, codes_window)
    return ct, codes


def _check(overlap: float, batch_size: int) -> None:
    if not 0 <= overlap < 1:
        raise SpecError(f"windows overlap by a fraction from 0 to below 1, not {overlap!r}")
    if batch_size < 1:
        raise SpecError(f"a batch has at least one window, not {batch_size!r}")
