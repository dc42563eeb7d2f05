"""Phantoms in the published layout of any dataset, as its manifest and label map describe it."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.phantom.anatomy import Anatomy, anatomy
from atlas.phantom.case_ids import case_ids
from atlas.phantom.labels import available, mask_tables, value_tables
from atlas.phantom.volumes import Field, encoded, header, save, storage_grid
from atlas.spec import LabelMap, Manifest, Taxonomy, load_label_map, load_manifest, load_taxonomy

if TYPE_CHECKING:
    from pathlib import Path

    import nibabel as nib
    from numpy.typing import ArrayLike, NDArray

    from atlas.phantom.solids import Bools, Floats, Vector

FIELD: Field = ((-200.0, 200.0), (-145.0, 145.0), (-290.0, 250.0))
"""From the hips to the collar bones."""
COARSE_MM = 5.0
"""Voxels are not smaller than this unless asked for."""
NOISE_HU = 12.0
TURN_MM = 20.0
"""Height of the slabs in which values of the same meaning take turns."""
WRONG_LABEL_ORIGIN_MM = 10.0
"""Error of label headers where the manifest says that they are wrong."""
APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        "


@dataclass(frozen=True)
class PhantomCase:
    """A case that was written, and what a reader should find in it."""

    case_id: str
    """dataset/source case"""
    image: Path
    anatomy: Anatomy
    """In the coordinates of the files."""
    available: frozenset[str]
    """Classes that the dataset annotates. What the body or the scan lacks is available, and absent."""

    def truth(self, shape: tuple[int, int, int], affine: ArrayLike) -> dict[str, Bools]:
        """Masks of the available classes, by formula.

        Parameters
        ----------
        shape : tuple of int
            Voxels along z, y, x.
        affine : array_like, (4, 4)
            Voxel indices (x, y, z) to RAS millimetres.

        Returns
        -------
        dict of str to ndarray of bool
            By class: voxels (z, y, x) whose centre lies in it.
        """
        numbers = self.anatomy.paint((shape[2], shape[1], shape[0]), affine).T
        return {name: self.anatomy.members(name)[numbers] for name in sorted(self.available)}


@dataclass(frozen=True)
class _Dataset:
    """What says how to write a case."""

    root: Path
    manifest: Manifest
    label_map: LabelMap
    taxonomy: Taxonomy

    def path(self, pattern: str, case: str, structure: str = "") -> Path:
        """Place of a file; where it may lie at any depth, it lies at the top."""
        return self.root / pattern.replace("**/", "").format(case=case, structure=structure)

    def image(self, case: str) -> Path:
        return self.path(self.manifest.layout.image[0], case)

    def label(self, name: str, case: str) -> Path:
        return self.path(self.manifest.layout.labels[name][0], case)


def write_dataset(
    dataset: str,
    root: Path,
    *,
    cases: int = 2,
    seed: int = 0,
    spacing: Vector | None = None,
    field: Field = FIELD,
    absent: frozenset[str] = frozenset(),
    rotation_deg: float = 0.0,
    offset_mm: Vector | None = None,
) -> list[PhantomCase]:
    """Write phantoms below `root/<dataset>` as the publisher would.

    The same arguments write the same bytes.

    Parameters
    ----------
    dataset : str
        Id of a manifest.
    root : Path
        The folder of all datasets (`--sources`).
    cases : int
        How many bodies.
    seed : int
        Other seeds are other bodies, under other case numbers.
    spacing : tuple of float, optional
        Along x, y, z (mm). The publisher's, but at least 5 mm, if not given.
    field : tuple
        What the scans show, from and to along x, y, z (RAS mm; a body's origin lies near 0).
    absent, rotation_deg, offset_mm
        See `atlas.phantom.anatomy.anatomy`.
    """
    manifest, label_map = load_manifest(dataset), load_label_map(dataset)
    here = _Dataset(root / dataset, manifest, label_map, load_taxonomy())
    known_bad = {case for bad in manifest.known_bad for case in bad.cases}
    avoid = known_bad | {*manifest.unlabelled, *label_map.cases}
    numbers = case_ids(manifest.layout.case, cases, seed=f"{dataset}/{seed}", avoid=avoid)
    written = []
    for case in numbers:
        case_seed = zlib.crc32(f"{dataset}/{seed}/{case}".encode())
        body = anatomy(
            case_seed,
            absent=absent,
            rotation_deg=rotation_deg,
            offset_mm=offset_mm,
            taxonomy=here.taxonomy,
        )
        written.append(_write_case(here, case, body, field, spacing or _coarse(manifest)))
    if manifest.layout.index is not None:
        _write_index(here, manifest.layout.index, numbers)
    return written


def _coarse(manifest: Manifest) -> Vector:
    storage = manifest.layout.storage
    steps = dict(zip(storage.orientation, storage.spacing, strict=True))
    x, y, z = (
        max(COARSE_MM, next(step for code, step in steps.items() if code in ends)) for ends in ("LR", "PA", "IS")
    )
    return x, y, z


def _write_case(here: _Dataset, case: str, body: Anatomy, field: Field, spacing: Vector) -> PhantomCase:
    storage = here.manifest.layout.storage
    shape, affine = storage_grid(field, spacing, storage.orientation)
    if storage.zero_origin:
        body = body.moved(-affine[:3, 3])
        affine[:3, 3] = 0
    base = header(shape, affine, storage)
    numbers = body.paint(shape, base.get_best_affine())
    case_id = f"{here.manifest.id}/{case}"
    noise = np.random.default_rng(zlib.crc32(case_id.encode())).normal(0, NOISE_HU, shape)
    ct = np.clip(body.hu[numbers] + noise, -1024, 3071).astype(np.int16)
    save(here.image(case), ct, base)
    label_base = base
    if here.manifest.layout.label_geometry == "image":
        wrong = affine.copy()
        wrong[:3, 3] += WRONG_LABEL_ORIGIN_MM
        label_base = header(shape, wrong, storage)
    _write_labels(here, case, body, numbers, label_base)
    return PhantomCase(case_id, here.image(case), body, available(here.label_map, here.taxonomy))


def _write_labels(
    here: _Dataset, case: str, body: Anatomy, numbers: NDArray[np.uint16], base: nib.Nifti1Header
) -> None:
    dtype = here.manifest.layout.storage.label_dtype
    for name, values in here.label_map.values.items():
        tables = value_tables(values, body, here.taxonomy)
        turn = _slabs(numbers.shape, base.get_best_affine()) % len(tables)
        # a scaled number format is one for masks
        stored, scale = encoded(tables[turn, numbers], "uint8" if dtype == "scaled_int8" else dtype)
        save(here.label(name, case), stored, base, scale)
    for structure, cells in mask_tables(here.label_map.structures, body, here.taxonomy).items():
        stored, scale = encoded(cells[numbers].astype(np.uint8), dtype)
        save(here.path(here.manifest.layout.masks[0], case, structure), stored, base, scale)


def _slabs(shape: tuple[int, ...], affine: Floats) -> NDArray[np.int64]:
    """Count slabs along the file's axis that runs up or down; broadcasts to `shape`."""
    axis = int(np.abs(affine[2, :3]).argmax())
    slabs = np.asarray(np.arange(shape[axis]) * abs(affine[2, axis]) // TURN_MM, dtype=np.int64)
    return slabs.reshape([-1 if a == axis else 1 for a in range(3)])


def _write_index(here: _Dataset, pattern: str, cases: list[str]) -> None:
    """dataset.json of the Medical Segmentation Decathlon, and the Mac files that its archives hold."""
    index, label = here.path(pattern, ""), next(iter(here.manifest.layout.labels))
    pairs = [{"image": here.image(case), "label": here.label(label, case)} for case in cases]
    for path in [path for pair in pairs for path in pair.values()]:
        path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)
    values = here.label_map.values[label]
    content = {
        "name": here.manifest.name,
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(v): " ".join(t) or "other" for v, t in sorted(values.items())}},
        "numTraining": len(pairs),
        "numTest": 0,
        "training": [{kind: f"./{path.relative_to(index.parent)}" for kind, path in pair.items()} for pair in pairs],
        "test": [],
    }
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_text(json.dumps(content, indent=1), encoding="utf-8")
