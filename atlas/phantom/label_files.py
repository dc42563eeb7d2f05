"""Labels of a phantom as volumes or folders of slices, one file a label or one for all."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from atlas.phantom.dicom import Identity, label_slices, write_slices
from atlas.phantom.labels import mask_tables, value_tables
from atlas.phantom.places import concrete
from atlas.phantom.volumes import Field, encoded, header, save

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.phantom.painted import Painted
    from atlas.phantom.places import Published
    from atlas.phantom.solids import Bools, Floats

TURN_MM = 20.0
"""Height of the slabs in which values of the same meaning take turns."""
WRONG_LABEL_ORIGIN_MM = 10.0
"""Error of label headers where the manifest says that they are wrong."""
MASK = 255
"""What a mask holds that is stored as images."""
MASK_NAMES = "image_{}"
"""Without zeros in front: image_10 comes after image_9."""


@dataclass(frozen=True)
class LabelGrid:
    """How label volumes lie: their axes may not be those of the CT.

    Attributes
    ----------
    turn
        nibabel orientation from the CT's axes to the labels'.
    affine
        (4, 4), indices along the labels' axes to RAS mm.
    slices
        [lo, hi) along their third axis: what was annotated.
    counted
        The same as the publisher's table has it, upwards from the lowest slice.
    """

    turn: NDArray[np.float64]
    affine: Floats
    slices: tuple[int, int]
    counted: tuple[int, int]

    def stored(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """Labels along the CT's axes, as they are stored."""
        out: NDArray[np.integer] = nib.apply_orientation(labels, self.turn).copy()
        lo, hi = self.slices
        out[:, :, :lo] = out[:, :, hi:] = 0
        return out

    def region(self, shape: tuple[int, ...]) -> Field:
        """Box of the CT that was annotated, RAS mm; `shape` along the CT's axes."""
        lengths = nib.apply_orientation(np.empty(shape, bool), self.turn).shape
        lo, hi = self.slices
        corners = np.array([[-0.5, -0.5, lo - 0.5], [lengths[0] - 0.5, lengths[1] - 0.5, hi - 0.5]])
        ends = np.sort(corners @ self.affine[:3, :3].T + self.affine[:3, 3], axis=0)
        x, y, z = ((float(low), float(high)) for low, high in ends.T)
        return x, y, z


def label_grid(here: Published, case: str, painted: Painted) -> LabelGrid:
    """How a case's label volumes lie on its CT."""
    layout, shape = here.manifest.layout, painted.numbers.shape
    codes = "".join(nib.aff2axcodes(painted.affine))
    wanted = layout.storage.label_orientation or codes
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(codes), nib.orientations.axcodes2ornt(wanted))
    affine = painted.affine @ nib.orientations.inv_ornt_aff(turn, shape)
    count = nib.apply_orientation(np.empty(shape, bool), turn).shape[2]
    if layout.regions is None:
        return LabelGrid(turn, affine, (0, count), (0, count))
    odd = zlib.crc32(f"{here.manifest.id}/{case}".encode()) % 3
    lo, hi = count // 8 + odd, count - count // 9
    return LabelGrid(turn, affine, (lo, hi), (lo, hi) if affine[2, 2] > 0 else (count - hi, count - lo))


def write_labels(
    here: Published, case: str, painted: Painted, grid: LabelGrid, present: Collection[str], identity: Identity
) -> None:
    """Write the label volumes and masks of a case.

    Parameters
    ----------
    present
        Label files and structures that this case has, as the label map names them.
    identity
        Of the CT: stacks of DICOM masks belong to its study and frame of reference.
    """
    writer = _Writer(here, painted, grid, identity)
    for name, values in here.label_map.values.items():
        if name not in present:
            continue
        tables = value_tables(values, painted.body, here.taxonomy)
        turn = _slabs(painted.numbers.shape, painted.affine) % len(tables)
        writer.write(here.label(name, case), here.manifest.layout.labels[name][0], tables[turn, painted.numbers], name)
    for structure, mask in drawn_masks(here, painted).items():
        if structure in present:
            name = concrete(structure)
            writer.mask(here.mask(name, case), mask, name)


def drawn_masks(here: Published, painted: Painted) -> dict[str, Bools]:
    """Masks of all structures, along the CT's axes."""
    tables = mask_tables(here.label_map.structures, painted.body, here.taxonomy)
    return {structure: cells[painted.numbers] for structure, cells in tables.items()}


@dataclass(frozen=True)
class _Writer:
    here: Published
    painted: Painted
    grid: LabelGrid
    identity: Identity

    def mask(self, path: Path, mask: Bools, name: str) -> None:
        pattern, dtype = self.here.manifest.layout.masks[0], self.here.manifest.layout.storage.label_dtype
        if pattern.endswith("/"):
            self.write(path, pattern, MASK * mask.astype(np.uint8), name)
        else:
            self._volume(path, mask.astype(np.uint8), dtype)

    def write(self, path: Path, pattern: str, labels: NDArray[np.integer], name: str) -> None:
        storage = self.here.manifest.layout.storage
        if not pattern.endswith("/"):
            # a scaled number format is one for masks
            self._volume(path, labels, "uint8" if storage.label_dtype == "scaled_int8" else storage.label_dtype)
        elif storage.slices == "png":
            write_pngs(path, self.grid.stored(labels), f"{name}_{{:03d}}.png")
        else:
            own = Identity(
                self.identity.patient,
                self.identity.study,
                self.here.uid(self.identity.patient, name),
                self.identity.frame_of_reference,
            )
            write_slices(path, label_slices(self.grid.stored(labels), self.grid.affine, own), MASK_NAMES)

    def _volume(self, path: Path, labels: NDArray[np.integer], dtype: str) -> None:
        affine = self.grid.affine.copy()
        if self.here.manifest.layout.label_geometry != "header":
            affine[:3, 3] += WRONG_LABEL_ORIGIN_MM
        stored, scale = encoded(self.grid.stored(labels), dtype)
        shape = (stored.shape[0], stored.shape[1], stored.shape[2])
        save(path, stored, header(shape, affine, self.here.manifest.layout.storage), scale)


def write_pngs(folder: Path, labels: NDArray[np.integer], name: str) -> None:
    """Write labels (column, row, slice) as grey images, one a slice; `name` makes a file name out of its number."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    stored = labels.astype(np.uint8 if labels.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16)
    for k in range(stored.shape[2]):
        Image.fromarray(np.ascontiguousarray(stored[:, :, k].T)).save(folder / name.format(k), "PNG")


def _slabs(shape: tuple[int, ...], affine: Floats) -> NDArray[np.int64]:
    """Count slabs along the file's axis that runs up or down; broadcasts to `shape`."""
    axis = int(np.abs(affine[2, :3]).argmax())
    slabs = np.asarray(np.arange(shape[axis]) * abs(affine[2, axis]) // TURN_MM, dtype=np.int64)
    return slabs.reshape([-1 if a == axis else 1 for a in range(3)])
