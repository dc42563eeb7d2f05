"""A body in the scanner: what a CT of it shows, on the grid of the publisher's files."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.phantom.anatomy import Anatomy, anatomy
from atlas.phantom.volumes import Field, header, storage_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from atlas.phantom.places import Published
    from atlas.phantom.solids import Floats, Vector
    from atlas.spec import Manifest

FIELD: Field = ((-200.0, 200.0), (-145.0, 145.0), (-290.0, 250.0))
"""From the hips to the collar bones."""
COARSE_MM = 5.0
"""Voxels are not smaller than this unless asked for."""
NOISE_HU = 12.0


@dataclass(frozen=True)
class Scene:
    """What is the same for all cases: see `atlas.phantom.write_dataset`."""

    field: Field = FIELD
    spacing: Vector | None = None
    absent: frozenset[str] = frozenset()
    rotation_deg: float = 0.0
    offset_mm: Vector | None = None


@dataclass(frozen=True)
class Painted:
    """A body on the grid of a CT.

    Attributes
    ----------
    body
        In the coordinates of the files.
    affine
        (4, 4), indices along the file's axes to RAS mm, as a reader will see it.
    numbers
        Cell numbers of the body, along the file's axes.
    name
        dataset/source case, which the noise is drawn by.
    """

    body: Anatomy
    affine: Floats
    numbers: NDArray[np.uint16]
    name: str

    @property
    def hu(self) -> NDArray[np.int16]:
        """The CT, along the file's axes."""
        noise = np.random.default_rng(zlib.crc32(self.name.encode())).normal(0, NOISE_HU, self.numbers.shape)
        return np.clip(self.body.hu[self.numbers] + noise, -1024, 3071).astype(np.int16)

    def later(self, by: Vector) -> Painted:
        """Another phase: the same grid, but the patient has moved."""
        body = self.body.moved(by)
        return Painted(body, self.affine, body.paint(_triple(self.numbers.shape), self.affine), f"{self.name} again")


def paint(here: Published, case: str, scene: Scene) -> Painted:
    """Lay the body of a case, which is always the same, onto the grid of the dataset's CT."""
    storage = here.manifest.layout.storage
    name = f"{here.manifest.id}/{case}"
    body = anatomy(
        zlib.crc32(name.encode()),
        absent=scene.absent,
        rotation_deg=scene.rotation_deg,
        offset_mm=scene.offset_mm,
        taxonomy=here.taxonomy,
    )
    shape, affine = storage_grid(scene.field, scene.spacing or _coarse(here.manifest), storage.orientation)
    if storage.zero_origin:
        body = body.moved(-affine[:3, 3])
        affine[:3, 3] = 0
    seen = header(shape, affine, storage).get_best_affine() if _nifti(here.manifest) else np.round(affine, 6)
    return Painted(body, seen, body.paint(shape, seen), name)


def _nifti(manifest: Manifest) -> bool:
    layout = manifest.layout
    return bool(layout.image) and not layout.image[0].endswith("/")


def _coarse(manifest: Manifest) -> Vector:
    storage = manifest.layout.storage
    steps = dict(zip(storage.orientation, storage.spacing, strict=True))
    x, y, z = (
        max(COARSE_MM, next(step for code, step in steps.items() if code in ends)) for ends in ("LR", "PA", "IS")
    )
    return x, y, z


def _triple(shape: tuple[int, ...]) -> tuple[int, int, int]:
    i, j, k = shape
    return i, j, k
