"""Where things are: rotation, scale, elastic deformation, quarter turns and mirroring of packed patches.

The CT and the codes are moved before the codes are unpacked, so that the cost does not grow with the number of
classes and overlaps stay what they are. The order is: one resampling (elastic, rotation, scale), quarter turn, mirror.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import grid_sample

from atlas.errors import SpecError
from atlas.stream.augment.coordinates import sampling_grid

if TYPE_CHECKING:
    from atlas.stream.augment.parameters import Parameters

AIR = -1024.0
"""HU of what lies outside the patch."""

EXACT = 2**24
"""Whole numbers below are exact in float32."""


def apply_spatial(
    ct: torch.Tensor, codes: torch.Tensor, parameters: Parameters, outside_code: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move patches on the device they are on.

    CT is interpolated linearly, codes are taken from the nearest voxel, both at the same places. A voxel that comes
    from beyond the outer faces of the patch, half a voxel past its last centres, is air and `outside_code`.
    Quarter turns and mirroring do not interpolate. Patches that nothing happens to are returned bit for bit; inputs
    are not changed.

    Parameters
    ----------
    ct
        float32 (B, z, y, x), HU.
    codes
        uint8, uint16 or another integer type (B, z, y, x).
    parameters
        One row a patch. `parameters.mirror` also says whose classes the look-up has to swap.
    outside_code
        Code that means "unknown for every class".

    Returns
    -------
    Both, in the same shapes and types; the tensors themselves if nothing happens to any patch.

    Raises
    ------
    SpecError
        If the tensors, the parameters and the code do not fit each other.
    """
    _check(ct, codes, parameters, outside_code)
    rows = np.flatnonzero(parameters.resampled | (parameters.quarter_turns > 0) | parameters.mirror).tolist()
    if not rows:
        return ct, codes
    moved_ct, moved_codes = ct.clone(), codes.clone()
    for b in rows:
        if parameters.resampled[b]:
            moved_ct[b], moved_codes[b] = _resample(ct[b], codes[b], parameters, b, outside_code)
        if parameters.quarter_turns[b] or parameters.mirror[b]:
            for volume in (moved_ct[b], _movable(moved_codes[b])):
                volume.copy_(_turned(volume, int(parameters.quarter_turns[b]), mirror=bool(parameters.mirror[b])))
    return moved_ct, moved_codes


def _resample(
    ct: torch.Tensor, codes: torch.Tensor, parameters: Parameters, b: int, outside_code: int
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (ct.shape[0], ct.shape[1], ct.shape[2])
    grid = sampling_grid(shape, parameters.rotation[b], parameters.scale[b], parameters.elastic[b], ct.device)
    outside = (grid.abs() > 1).any(dim=-1)
    moved = _sampled(ct, grid, "bilinear").masked_fill_(outside, AIR)
    picked = _sampled(codes.float(), grid, "nearest").masked_fill_(outside, outside_code)
    return moved, picked.to(codes.dtype)


def _sampled(volume: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    """Values of a float32 (z, y, x) volume at a grid; the outer half voxel repeats the edge."""
    return grid_sample(volume[None, None], grid[None], mode, padding_mode="border", align_corners=False)[0, 0]


def _turned(volume: torch.Tensor, turns: int, *, mirror: bool) -> torch.Tensor:
    """Turn x towards y, then flip x."""
    turned = torch.rot90(volume, turns, dims=(2, 1)) if turns else volume
    return turned.flip(2) if mirror else turned


def _movable(codes: torch.Tensor) -> torch.Tensor:
    """The same bits in a type that can be flipped; torch cannot flip uint16."""
    return codes.view(torch.int16) if codes.dtype == torch.uint16 else codes


def _check(ct: torch.Tensor, codes: torch.Tensor, parameters: Parameters, outside_code: int) -> None:
    if ct.ndim != 4 or ct.shape != codes.shape or len(ct) != len(parameters):  # noqa: PLR2004
        raise SpecError(
            f"CT {tuple(ct.shape)}, codes {tuple(codes.shape)} and the parameters of {len(parameters)} patches are not "
            "of one batch (B, z, y, x)"
        )
    if ct.dtype != torch.float32 or codes.dtype.is_floating_point or codes.dtype == torch.bool:
        raise SpecError(f"CT is float32 and codes are integers, not {ct.dtype} and {codes.dtype}")
    most = min(torch.iinfo(codes.dtype).max, EXACT)
    if not 0 <= outside_code <= most:
        raise SpecError(f"code {outside_code} for what is outside does not fit {codes.dtype}: 0 to {most}")
    if ct.shape[2] != ct.shape[3] and (parameters.quarter_turns % 2).any():
        raise SpecError(f"a patch of {tuple(ct.shape[1:])} cannot be turned by 90 degrees; only square (y, x) can")
