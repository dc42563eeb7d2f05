"""A case as read from disk: its CT, and its labels one after another, on known common ground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import GeometryError, ScanError
from atlas.ingest.volume import Volume, read_ct, read_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.ingest.cases import CaseFiles
    from atlas.spec.files import Layout

SAME_PLACE = 0.1
"""Voxels by which a corner may be off where two headers describe one grid (float32 headers, rounding)."""

STICKS_OUT = 1.0
"""Voxels by which a label volume may reach beyond its CT before their positions contradict each other."""


def read_image(case: CaseFiles, folder: Path, layout: Layout) -> Volume:
    """Read the CT of a case.

    Raises
    ------
    ScanError
        If it has none, or it cannot be used.
    """
    if case.image is None:
        raise ScanError(f"{case.source_case}: no CT")
    return read_ct(folder / case.image, affine=layout.affine)


def read_layers(
    case: CaseFiles, folder: Path, layout: Layout, *, shape: tuple[int, ...], affine: NDArray[np.float64]
) -> Iterator[tuple[str, bool, Volume, bool]]:
    """Labels of a case, read one at a time.

    Parameters
    ----------
    case, folder, layout
        What to read.
    shape, affine
        Of the CT, (i, j, k) as stored; the labels are checked against it.

    Yields
    ------
    name : str
        Label file of the manifest, or structure.
    is_mask : bool
        Whether it is the mask of one structure.
    volume : Volume
        With the CT's own affine where both are on one grid.
    whole : bool
        Whether it covers the whole CT.

    Raises
    ------
    ScanError
        If a file cannot be used, or lies elsewhere than the CT.
    """
    files = [(name, False, path) for name, path in sorted(case.labels.items())]
    files += [(name, True, path) for name, path in sorted(case.masks.items())]
    for name, is_mask, path in files:
        volume = read_labels(folder / path, affine=layout.affine)
        if is_mask and volume.data.max(initial=0) > 1:
            raise ScanError(f"{folder / path}: a mask holds 0 and 1 only, this one up to {volume.data.max()}")
        placed, whole = _placed(volume, shape, affine, folder / path, by_index=layout.label_geometry == "image")
        yield name, is_mask, placed, whole


def _placed(
    label: Volume, shape: tuple[int, ...], affine: NDArray[np.float64], path: Path, *, by_index: bool
) -> tuple[Volume, bool]:
    """A label volume where it belongs, and whether it covers the whole CT.

    On the CT's grid it takes the CT's affine. On another grid (cropped, other spacing or orientation) it keeps
    its own, with a warning, as long as it does not reach beyond the CT. A label of the right shape in another
    place has lost its position; nobody may guess which of the two headers is right.
    """
    off = _corner_distance(label.data.shape, label.affine, affine)
    if label.data.shape == tuple(shape) and (by_index or off <= SAME_PLACE):
        return Volume(label.data, affine, label.warnings), True
    if by_index:
        raise GeometryError(
            f"{path}: shape {label.data.shape}, the CT has {tuple(shape)}; "
            "the manifest says that they are one grid (label_geometry: image)"
        )
    lowest, highest = _span_in(label.data.shape, label.affine, affine)
    beyond = max(float((-lowest).max()), float((highest - shape).max()))
    if beyond > STICKS_OUT:
        raise GeometryError(
            f"{path}: reaches {beyond:.1f} CT voxels beyond the CT; the position in one of the two headers is "
            "wrong. If voxel k of the label is voxel k of the CT, say label_geometry: image in the manifest"
        )
    whole = bool((lowest <= STICKS_OUT).all() and (highest >= np.array(shape) - STICKS_OUT).all())
    note = f"{path.name}: on another grid than the CT, placed by its own header"
    return Volume(label.data, label.affine, (*label.warnings, note)), whole


def _corners(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Outer corners of a volume in its own voxel coordinates, homogeneous, (4, 8)."""
    points = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    return np.vstack([(points * shape - 0.5).T, np.ones(8)])


def _corner_distance(shape: tuple[int, ...], one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Largest distance between the corners that two affines give one volume, in its smallest voxel edges."""
    apart = ((one - other) @ _corners(shape))[:3]
    edge = np.linalg.norm(other[:3, :3], axis=0).min()
    return float(np.linalg.norm(apart, axis=0).max() / edge)


def _span_in(
    shape: tuple[int, ...], affine: NDArray[np.float64], frame: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Extent of a volume along the axes of another, in voxels of that other from its outer edge."""
    inside = (np.linalg.inv(frame) @ affine @ _corners(shape))[:3] + 0.5
    return inside.min(axis=1), inside.max(axis=1)
