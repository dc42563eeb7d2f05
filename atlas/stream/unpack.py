"""From packed masks to one mask a class, and from Hounsfield units to [0, 1]; the same on the CPU and on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from atlas.corpus.layout import WORD
from atlas.stream.memory import HostMemory
from atlas.stream.native import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUP = 8
"""Classes whose truth at a voxel fits in a byte."""

BLOCK = 1 << 13
"""Voxels that the CPU unpacks at once: their bytes stay in the first cache while the classes are written."""

_memory = HostMemory(pinned=False)  # of what is unpacked on the CPU


def lookup(tables: NDArray[np.uint32], bits: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which codes hold which of the classes asked for.

    Parameters
    ----------
    tables
        uint32 (B, codes, words): bitmask of each code, class = 32 word + bit of the word.
    bits
        (B, C): the class that each channel shows, sample by sample, so that a mirrored sample can read a class
        from the bit of its mirror class. A bit that no word holds, -1 above all, is held by no code.

    Returns
    -------
    ndarray
        bool (B, C, codes), C-contiguous.
    """
    word, place = np.divmod(bits, WORD)
    known = (word >= 0) & (word < tables.shape[2])
    words = np.take_along_axis(tables, np.where(known, word, 0)[:, None, :], axis=2)
    held = (words >> place[:, None, :].astype(np.uint32) & 1).astype(bool) & known[:, None, :]
    return np.ascontiguousarray(held.transpose(0, 2, 1))


def expand(codes: torch.Tensor, lookup: NDArray[np.bool_]) -> torch.Tensor:
    """Masks of the classes, on the device of the codes.

    Parameters
    ----------
    codes
        uint8, uint16 or integers that are not negative and fit int32 (B, *P).
    lookup
        bool (B, C, codes), see `lookup`.

    Returns
    -------
    Tensor
        bool (B, C, *P), contiguous: `lookup[b, c, codes[b]]`. A code past the look-up holds nothing; no memory
        outside the look-up is ever read, on any device.
    """
    beyond = np.zeros((*lookup.shape[:2], 1), bool)
    table = np.concatenate([lookup, beyond], axis=2)
    return _expand_cpu(codes, table) if codes.device.type == "cpu" else _expand_device(codes, table)


def window(ct: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Hounsfield units to [0, 1]: (ct - low) / (high - low), clipped.

    Parameters
    ----------
    ct
        int16 or float32, HU.
    low, high
        HU that become 0 and 1.

    Returns
    -------
    Tensor
        float32 of the same shape, a new one; every step is rounded to float32, on any device, so that the numbers
        are the same everywhere.
    """
    # a width on the device: by a number of the host CUDA multiplies with the reciprocal, which rounds differently
    width = torch.full((), high - low, dtype=torch.float32, device=ct.device)
    if ct.device.type == "cpu":
        out = _memory.lend(tuple(ct.shape), np.dtype(np.float32))
    else:
        out = torch.empty(ct.shape, dtype=torch.float32, device=ct.device)
    return out.copy_(ct).sub_(low).div_(width).clamp_(0, 1)


def _expand_cpu(codes: torch.Tensor, table: NDArray[np.bool_]) -> torch.Tensor:
    batch, classes, _ = table.shape
    out = _memory.lend((batch, classes, *codes.shape[1:]), np.dtype(bool))
    narrow = codes if codes.dtype in (torch.uint8, torch.uint16) else codes.to(torch.int32)
    flat = narrow.reshape(batch, -1).contiguous().numpy()
    masks = out.numpy().view(np.uint8).reshape(batch, classes, -1)
    _unpack(flat, np.packbits(table, axis=1, bitorder="little"), masks)
    return out


def _expand_device(codes: torch.Tensor, table: NDArray[np.bool_]) -> torch.Tensor:
    batch, classes, size = table.shape
    out = torch.empty((batch, classes, *codes.shape[1:]), dtype=torch.bool, device=codes.device)
    rows = torch.from_numpy(table).to(codes.device, non_blocking=True)
    for b in range(batch):  # the index of one sample at a time: four bytes a voxel, whatever the batch
        index = codes[b].reshape(-1).to(torch.int32).clamp_(0, size - 1)
        torch.index_select(rows[b], 1, index, out=out[b].view(classes, -1))
    return out


# One look-up a voxel and eight classes, into a byte, whose bits then become eight masks in vectors of many voxels.
def _unpack_loop(codes: Any, groups: Any, out: Any) -> None:  # noqa: ANN401
    """Fill out, uint8 (B, C, N), from codes (B, N) and groups, uint8 (B, C / 8, codes); the last is all other codes."""
    batch, classes, voxels = out.shape
    last = groups.shape[2] - 1
    index = np.empty(BLOCK, np.int32)
    held = np.empty(BLOCK, np.uint8)
    for b in range(batch):
        for start in range(0, voxels, BLOCK):
            count = min(BLOCK, voxels - start)
            block = codes[b, start : start + count]
            for i in range(count):
                index[i] = min(max(block[i], 0), last)
            for g in range(groups.shape[1]):
                group = groups[b, g]
                for i in range(count):
                    held[i] = group[index[i]]
                for j in range(min(GROUP, classes - GROUP * g)):
                    mask = out[b, GROUP * g + j, start : start + count]
                    bit = np.uint8(1 << j)
                    for i in range(count):
                        mask[i] = np.uint8(1) if held[i] & bit else np.uint8(0)


_unpack = compiled(_unpack_loop)
