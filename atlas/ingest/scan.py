"""A case as read from disk: its CT, and its labels one after another, on known common ground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from nibabel.orientations import inv_ornt_aff, io_orientation, ornt_transform

from atlas.errors import GeometryError, ScanError
from atlas.ingest.cases import located
from atlas.ingest.dicom.series import only_series
from atlas.ingest.dicom.study import read_study
from atlas.ingest.folders import slices_in
from atlas.ingest.stacks import read_stack
from atlas.ingest.volume import Volume, read_ct, read_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.ingest.cases import CaseFiles
    from atlas.ingest.dicom.series import Series
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
    if case.study is not None:
        return read_study(located(folder, case.study)).image()
    if case.image is None:
        raise ScanError(f"{case.source_case}: no CT")
    return read_ct(located(folder, case.image), affine=layout.affine)


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
    if case.study is not None:
        for name, volume in read_study(located(folder, case.study)).layers():
            yield name, True, *_placed(volume, shape, affine, located(folder, case.study))
        return
    files = [(name, False, path) for name, path in sorted(case.labels.items())]
    files += [(name, True, path) for name, path in sorted(case.masks.items())]
    series = _series(case, folder) if any(path.endswith("/") for _, _, path in files) else None
    for name, is_mask, path in files:
        where = located(folder, path)
        if series is not None and path.endswith("/"):
            by_name = layout.label_geometry == "image"
            yield name, is_mask, read_stack(where, series, affine, mask=is_mask, by_name=by_name), True
            continue
        volume, whole = _read_file(where, layout, shape, affine)
        if is_mask and volume.data.max(initial=0) > 1:
            raise ScanError(f"{where}: a mask holds 0 and 1 only, this one up to {volume.data.max()}")
        yield name, is_mask, volume, whole


def _series(case: CaseFiles, folder: Path) -> Series:
    """Headers of the CT, by which folders of label slices are placed."""
    if case.image is None or not case.image.endswith("/"):
        raise ScanError(
            f"{case.source_case}: labels in a folder of slices belong to a CT in a folder of slices; this one is "
            f"{case.image}. Correct the manifest"
        )
    return only_series(slices_in(located(folder, case.image)))


def _read_file(path: Path, layout: Layout, shape: tuple[int, ...], affine: NDArray[np.float64]) -> tuple[Volume, bool]:
    """Read one label file where the layout says that it belongs."""
    if layout.label_geometry == "header":
        return _placed(read_labels(path, affine=layout.affine), shape, affine, path)
    if layout.label_geometry == "image":
        label = read_labels(path, affine=None)
        to_ct = np.eye(4)
    else:
        label = read_labels(path, affine=layout.affine)
        to_ct = _along(label, affine)
    found = _turned(label.data.shape, to_ct)
    if found != tuple(shape):
        raise GeometryError(
            f"{path}: shape {found} along the axes of the CT, the CT has {tuple(shape)}; "
            f"the manifest says that they are one grid (label_geometry: {layout.label_geometry})"
        )
    return Volume(label.data, affine @ to_ct, label.warnings), True


def _placed(label: Volume, shape: tuple[int, ...], affine: NDArray[np.float64], path: Path) -> tuple[Volume, bool]:
    """A label volume where its header puts it, and whether it covers the whole CT.

    On the CT's grid, whichever way its axes run, it takes the CT's affine. On another grid (cropped, other spacing,
    oblique) it keeps its own, with a warning, as long as it does not reach beyond the CT. A label of the right shape
    in another place has lost its position; nobody may guess which of the two headers is right.
    """
    to_ct = _along(label, affine)
    off = _corner_distance(label.data.shape, label.affine, affine @ to_ct)
    if _turned(label.data.shape, to_ct) == tuple(shape) and off <= SAME_PLACE:
        return Volume(label.data, affine @ to_ct, label.warnings), True
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


def _along(label: Volume, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4) from voxels of a label volume to those of a CT on the same grid, whose axes run in other directions."""
    axes = ornt_transform(io_orientation(label.affine), io_orientation(affine))
    return np.asarray(np.linalg.inv(inv_ornt_aff(axes, label.data.shape)))


def _turned(shape: tuple[int, ...], turn: NDArray[np.float64]) -> tuple[int, ...]:
    """Shape of a volume along other axes."""
    return tuple(int(n) for n in np.rint(np.abs(turn[:3, :3]) @ shape))


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
