"""Packing: patches that are read, the tables of their cases and where they lie, as one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from atlas.stream.batch import PackedBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.spec.taxonomy import Taxonomy
    from atlas.stream.opened import OpenCase


def pack(
    cases: Sequence[OpenCase],
    origin: NDArray[np.int64],
    ct: torch.Tensor,
    codes: torch.Tensor,
    *,
    target: Sequence[str | None],
    index: NDArray[np.int64],
    taxonomy: Taxonomy,
    counting: NDArray[np.uint32] | None = None,
) -> PackedBatch:
    """Batch of patches that are read already: the tables of their cases, and where the patches lie.

    Parameters
    ----------
    cases
        Case of each patch.
    origin
        int64 (B, 3): first voxel of each patch in its case, (z, y, x).
    ct, codes
        int16 and uint8 or uint16 (B, z, y, x), on the host.
    target
        Class that each patch was aimed at.
    index
        int64 (B,): number of each patch in its run.
    taxonomy
        Of the corpus.
    counting
        uint32 (B, words): classes that may be available; None: all that the cases say are.
    """
    rows = max(len(case.table) for case in cases)
    words = max(max(case.table.shape[2], len(case.available)) for case in cases)
    tables = np.zeros((len(cases), rows, 2, words), np.uint32)
    available = np.zeros((len(cases), words), np.uint32)
    for b, case in enumerate(cases):
        tables[b, : len(case.table), :, : case.table.shape[2]] = case.table
        available[b, : len(case.available)] = case.available
    if counting is not None:
        available[:, : counting.shape[1]] &= counting[:, :words]
    affine = np.stack([patch_affine(case.affine, first) for case, first in zip(cases, origin, strict=True)])
    case_id = tuple(case.case_id for case in cases)
    return PackedBatch(ct, codes, tables, available, case_id, origin, affine, tuple(target), index, taxonomy)


def patch_affine(affine: NDArray[np.float64], origin: NDArray[np.int64]) -> NDArray[np.float64]:
    """(4, 4) from (x, y, z) indices of a patch to RAS mm, out of its case's and its first voxel (z, y, x)."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ origin[::-1]
    return moved


def join(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Several batches of one corpus as one."""
    sizes = np.max([batch.tables.shape for batch in batches], axis=0)
    parts = [batch.codes.numpy() for batch in batches]  # NumPy finds the wider of uint8 and uint16, torch does not
    return PackedBatch(
        ct=torch.cat([batch.ct for batch in batches]),
        codes=torch.from_numpy(np.concatenate(parts)),
        tables=np.concatenate([_padded(batch.tables, sizes[1:]) for batch in batches]),
        available=np.concatenate([_padded(batch.available, sizes[3:]) for batch in batches]),
        case_id=tuple(case_id for batch in batches for case_id in batch.case_id),
        origin=np.concatenate([batch.origin for batch in batches]),
        affine=np.concatenate([batch.affine for batch in batches]),
        target=tuple(target for batch in batches for target in batch.target),
        index=np.concatenate([batch.index for batch in batches]),
        taxonomy=batches[0].taxonomy,
    )


def _padded(words: NDArray[np.uint32], sizes: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Bitmasks (B, ...) with zeros behind, so that the axes after the first have these sizes."""
    return np.pad(words, [(0, 0), *((0, int(n) - m) for n, m in zip(sizes, words.shape[1:], strict=True))])
