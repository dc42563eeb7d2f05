"""The folder of results of a scan: a mask a class, a label map of all, and what they measure.

segmentations/<class>.nii.gz   uint8, 0 and 1
combined.nii.gz                the classes' labels in one volume, parts painted over their wholes
volumes.json                   labels, voxels and millilitres of each class; where all of it comes from

All on the grid of the scan, with its header.
"""

from __future__ import annotations

import json
import shutil
import uuid
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from atlas.errors import AtlasError
from atlas.predict.native import native_planes
from atlas.predict.scans import mask_header
from atlas.predict.select import paint_order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nibabel.nifti1 import Nifti1Header
    from numpy.typing import NDArray

    from atlas.harmonize.grid import Grid
    from atlas.predict.scans import Frame
    from atlas.predict.select import Selection
    from atlas.spec.taxonomy import Taxonomy

COMBINED, MASKS, VOLUMES = "combined.nii.gz", "segmentations", "volumes.json"
NO_EXTENSIONS = b"\0\0\0\0"
COMPRESSION = 2
"""Of isal, 0 to 3. Masks are runs of zeros: more costs time and gains nothing."""


def write_results(
    folder: Path,
    probabilities: NDArray[np.uint8],
    grid: Grid,
    frame: Frame,
    selection: Selection,
    taxonomy: Taxonomy,
    about: dict[str, Any],
) -> dict[str, float]:
    """Write the results of a scan, in place of earlier ones, in one step.

    Beside the probabilities it takes a byte a voxel of the scan (two where there are more than 255 classes).

    Parameters
    ----------
    folder
        Of the scan; made.
    probabilities
        uint8 (rows, z, y, x) on `grid`, x 255; the rows of `selection`, of which the classes are written.
    grid, frame
        The canonical grid of the scan, and the scan's own.
    selection, taxonomy
        Classes, and which are parts of which.
    about
        What `volumes.json` says beside the volumes.

    Returns
    -------
    dict
        Millilitres of each class.
    """
    i, j, k = frame.shape
    classes = selection.classes
    combined = np.zeros((k, j, i), np.uint8 if len(classes) <= np.iinfo(np.uint8).max else np.uint16)
    voxels = dict.fromkeys(classes, 0)
    with replaced(folder) as staging:
        (staging / MASKS).mkdir()
        header = mask_header(frame, np.dtype(np.uint8))
        for row in paint_order(classes, taxonomy):
            name = classes[row]
            with nifti_file(staging / MASKS / f"{name}.nii.gz", header) as file:
                for target, plane in zip(
                    combined, native_planes(probabilities[row], grid, frame.affine, frame.shape), strict=True
                ):
                    file.write(plane.tobytes())
                    target[plane] = row + 1
                    voxels[name] += int(np.count_nonzero(plane))
        with nifti_file(staging / COMBINED, mask_header(frame, combined.dtype)) as file:
            for plane in combined:
                file.write(plane.tobytes())
        volumes = {name: round(count * frame.voxel_ml, 4) for name, count in voxels.items()}
        table = [
            {"class": name, "label": row + 1, "voxels": voxels[name], "ml": volumes[name]}
            for row, name in enumerate(classes)
        ]
        text = json.dumps({**about, "classes": table}, indent=1, ensure_ascii=False)
        (staging / VOLUMES).write_text(text + "\n", encoding="utf-8")
    return volumes


@contextmanager
def nifti_file(path: Path, header: Nifti1Header) -> Iterator[IO[bytes]]:
    """Open a .nii.gz file to which the voxels are to be written, i fastest; same content, same bytes."""
    with path.open("wb") as raw, _gzipped(raw) as file:
        file.write(header.binaryblock + NO_EXTENSIONS)
        yield file


def _gzipped(raw: IO[bytes]) -> IO[bytes]:
    try:
        from isal.igzip import IGzipFile  # several times as fast, same interface
    except ImportError:
        from gzip import GzipFile as IGzipFile
    return cast("IO[bytes]", IGzipFile(filename="", fileobj=raw, mode="wb", compresslevel=COMPRESSION, mtime=0))


def check_replaceable(folder: Path) -> None:
    """Refuse to put results in the place of anything but earlier results.

    Raises
    ------
    AtlasError
        If something else is there, such as the scan itself.
    """
    if folder.exists() and not (folder / VOLUMES).is_file():
        raise AtlasError(f"{folder}: is there already and no result of a prediction; choose another folder for results")


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when all is written, and vanishes if something goes wrong."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_replaceable(folder)
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    earlier = staging.with_suffix(".earlier")
    staging.mkdir()
    try:
        yield staging
        if folder.exists():
            folder.rename(earlier)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)
