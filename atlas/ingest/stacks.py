"""Labels stored as a folder of slices: PNG images, or DICOM images, one for each slice of a DICOM CT.

PNG carries no position. Image n in natural order of the names belongs to file n of the CT in natural order of
its names; that holds water only if the CT's files, so ordered, run through the patient one way, which is checked.
DICOM slices go where their headers say, and by name where these say nothing. Rows and columns are the CT's.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from atlas.errors import GeometryError, LabelError, ScanError
from atlas.ingest.dicom.header import read_header
from atlas.ingest.dicom.pixels import stored_values
from atlas.ingest.folders import natural, slices_in
from atlas.ingest.values import MOST_LABEL
from atlas.ingest.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.ingest.dicom.header import Header
    from atlas.ingest.dicom.series import Series

ON_GRID = 0.1
"""Pixels by which the corner of a label slice may miss that of a CT slice: rounding of header texts."""

ON_SLICE = 0.25
"""Part of a step by which it may miss a slice: as much as uneven CT steps may add up to, and no more."""

_GREY, _PALETTE = 0, 3
_WHOLE_BYTES = 8


def read_stack(folder: Path, series: Series, affine: NDArray[np.float64], *, mask: bool, by_name: bool) -> Volume:
    """Read a folder of label slices onto the grid of its CT.

    Parameters
    ----------
    folder
        Of .png files, or of DICOM files, one a slice.
    series
        The CT.
    affine
        (4, 4), the CT's (i, j, k) to RAS mm, as the result has it.
    mask
        Whether the slices show one structure: 0 is outside, the one other value that may occur is inside.
    by_name
        Do not heed positions in DICOM slices (they are known to be wrong).

    Returns
    -------
    Volume
        uint8, or uint16 where a label is above 255; a mask has 0 and 1.

    Raises
    ------
    ScanError
        If a file is no such slice, or there are too few or too many.
    LabelError
        If values are no labels, or a mask has several.
    GeometryError
        If it cannot be told where the slices belong.
    """
    try:
        files = slices_in(folder)
        pictures = [path for path in files if path.suffix.lower() == ".png"]
        if pictures:
            out, notes = _filled(_by_name(pictures, series), _read_png, series.shape), _left_out(files, pictures)
        else:
            places, read, notes = _dicom(files, series, by_name=by_name)
            out = _filled(places, read, series.shape)
    except ScanError as error:
        if str(error).startswith(f"{folder}/"):
            raise
        raise type(error)(f"{folder}: {error}") from error
    return Volume(_as_mask(out, folder) if mask else out, affine, notes)


def _left_out(files: Sequence[Path], kept: Sequence[Path]) -> tuple[str, ...]:
    strange = [path.name for path in files if path not in kept]
    return (f"{len(strange)} files that are no PNG left out ({', '.join(strange[:3])})",) if strange else ()


def _filled(
    places: dict[Path, int], read: Callable[[Path], NDArray[Any]], shape: tuple[int, int, int]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    out: NDArray[Any] = np.zeros(shape, np.uint8, order="F")
    for path, k in places.items():
        plane = read(path)
        if plane.shape != (shape[1], shape[0]):
            found = f"{plane.shape[1]} x {plane.shape[0]}"
            raise GeometryError(f"{path.name} has {found} pixels, the slices of the CT {shape[0]} x {shape[1]}")
        if plane.min() < 0 or plane.max() > MOST_LABEL:
            span = f"{plane.min()} to {plane.max()}"
            raise LabelError(f"{path.name} holds values from {span}; labels are 0 to {MOST_LABEL}")
        if out.dtype == np.uint8 and plane.max() > np.iinfo(np.uint8).max:
            out = out.astype(np.uint16, order="F")
        out[:, :, k] = plane.T
    return out


def _as_mask(labels: NDArray[Any], folder: Path) -> NDArray[np.uint8]:
    """Whatever single value stands for inside becomes 1."""
    most = int(labels.max())
    inside = labels == most if most else np.zeros(labels.shape, dtype=bool, order="F")
    if most and np.count_nonzero(labels) != np.count_nonzero(inside):
        found = np.unique(labels)
        listed = ", ".join(str(value) for value in found[:6])
        raise LabelError(f"{folder}: a mask has one value beside 0, this one {len(found) - 1} ({listed}, ...)")
    return inside.view(np.uint8)


def _by_name(files: Sequence[Path], series: Series) -> dict[Path, int]:
    """Slice that each file belongs to, by natural order of names."""
    if len(series.files) != series.shape[2]:
        raise GeometryError(f"label slices need a CT of one file a slice; this one has {len(series.files)} files")
    if len(files) != series.shape[2]:
        raise GeometryError(
            f"holds {len(files)} label slices, the CT has {series.shape[2]}: which belongs to which is unknown. "
            "Fetch the case again, or leave it out"
        )
    index = {path: k for k, path in enumerate(series.files)}
    order = [index[path] for path in sorted(series.files, key=lambda path: natural(path.name))]
    if any(abs(later - sooner) != 1 for sooner, later in pairwise(order)):
        raise GeometryError(
            "the CT's files, in order of their names, jump to and fro in the patient, so that label slices cannot be "
            "paired with them by name. Rename the files in order of position, both alike"
        )
    return dict(zip(files, order, strict=True))


def _read_png(path: Path) -> NDArray[Any]:
    """Pixel values of a grey or palette PNG as they are stored, (row, column)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                image.verify()  # checksums; the image has to be opened anew after it
            with path.open("rb") as file:
                depth, kind = file.read(26)[24:26]  # of the IHDR chunk, which comes first
            with Image.open(path, formats=["PNG"]) as image:
                if kind not in (_GREY, _PALETTE):
                    raise ScanError(f"{path.name} is a colour image ({image.mode}); labels are grey or palette images")
                pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"{path.name} is no readable PNG ({error}). Fetch it again") from error
    except Image.DecompressionBombWarning as error:
        raise ScanError(f"{path.name} is far larger than a slice ({error})") from error
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    # Pillow stretches 2 and 4 bits of grey over 0 to 255
    return pixels // (255 // (2**depth - 1)) if kind == _GREY and depth < _WHOLE_BYTES else pixels


def _dicom(
    files: Sequence[Path], series: Series, *, by_name: bool
) -> tuple[dict[Path, int], Callable[[Path], NDArray[Any]], tuple[str, ...]]:
    headers = {path: read_header(path) for path in files}
    for path, header in headers.items():
        if len(header.frames) != 1 or header.samples != 1:
            raise ScanError(f"{path.name} is not one grey image ({len(header.frames)} of {header.samples} samples)")
    known = [h for h in headers.values() if h.frames[0].position and h.frames[0].orientation and h.frames[0].spacing]
    if by_name or not known:
        places = _by_name(files, series)
    elif len(known) < len(files):
        raise GeometryError(f"{len(files) - len(known)} of its {len(files)} slices do not say where they lie")
    else:
        places = _by_position(headers, series)
    empty = series.shape[2] - len(places)
    notes = (f"{empty} of {series.shape[2]} slices have no file and are empty",) if empty else ()
    return places, lambda path: stored_values(headers[path])[0], notes


def _by_position(headers: dict[Path, Header], series: Series) -> dict[Path, int]:
    """Slice that each DICOM file belongs to, by its header."""
    to_ct = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.affine)  # from LPS
    places: dict[Path, int] = {}
    for path, header in headers.items():
        found = (to_ct @ _corners(header))[:3]
        k = int(np.rint(found[2].mean()))
        expected = np.array([[0, header.columns - 1, 0], [0, 0, header.rows - 1], [k, k, k]], dtype=float)
        off = np.abs(found - expected)
        if off[:2].max() > ON_GRID or off[2].max() > ON_SLICE or not 0 <= k < series.shape[2]:
            first = ", ".join(f"{number:.2f}" for number in found[:, 0])
            raise GeometryError(
                f"{path.name} does not lie on the grid of the CT: its first pixel is voxel ({first}) there. "
                "If its position is wrong, say label_geometry: image in the manifest"
            )
        if k in places.values():
            twin = next(other for other, place in places.items() if place == k)
            raise GeometryError(f"{path.name} and {twin.name} lie in one place. Remove one of them")
        places[path] = k
    return places


def _corners(header: Header) -> NDArray[np.float64]:
    """First pixel, last of the first row, and last of the first column, LPS mm, homogeneous, (4, 3)."""
    frame = header.frames[0]
    position, orientation = np.array(frame.position), np.array(frame.orientation).reshape(2, 3)
    between_rows, between_columns = np.array(frame.spacing)
    along_row = orientation[0] * between_columns * (header.columns - 1)
    along_column = orientation[1] * between_rows * (header.rows - 1)
    return np.vstack([np.stack([position, position + along_row, position + along_column], axis=1), np.ones(3)])
