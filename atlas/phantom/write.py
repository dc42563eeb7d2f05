"""Phantoms in the published layout of any dataset, as its manifest and label map describe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import SpecError
from atlas.phantom.case_ids import case_ids
from atlas.phantom.label_files import MASK_NAMES, drawn_masks, label_grid, write_labels
from atlas.phantom.labels import available
from atlas.phantom.painted import FIELD, Painted, Scene, paint
from atlas.phantom.places import Published
from atlas.phantom.study import CT_NAMES, identity_of, write_ct, write_study
from atlas.phantom.tables import write_index, write_regions
from atlas.phantom.volumes import Field, header, save

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike

    from atlas.phantom.anatomy import Anatomy
    from atlas.phantom.solids import Bools, Vector


@dataclass(frozen=True)
class PhantomCase:
    """A case that was written, and what a reader should find in it."""

    case_id: str
    """dataset/source case"""
    image: Path
    """The CT: a file, or the folder of a series."""
    anatomy: Anatomy
    """In the coordinates of the files."""
    available: frozenset[str]
    """Classes that are annotated. What the body or the scan lacks is available, and absent."""
    region: Field | None = None
    """Box that was annotated (RAS mm), where the publisher's table says that it is not the whole scan."""

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

    def annotated(self, shape: tuple[int, int, int], affine: ArrayLike) -> Bools:
        """Voxels (z, y, x) whose centre lies in `region`; parameters as in `truth`."""
        if self.region is None:
            return np.ones(shape, dtype=bool)
        matrix = np.asarray(affine, dtype=float)
        inside = np.ones((shape[2], shape[1], shape[0]), dtype=bool)
        index = np.ogrid[tuple(slice(n) for n in inside.shape)]
        for row, (low, high) in enumerate(self.region):
            at = sum((matrix[row, axis] * index[axis] for axis in range(3)), matrix[row, 3])
            inside &= (at > low) & (at < high)
        return inside.T


def write_dataset(
    dataset: str,
    root: Path,
    *,
    cases: int | Sequence[str] = 2,
    seed: int = 0,
    spacing: Vector | None = None,
    field: Field = FIELD,
    absent: frozenset[str] = frozenset(),
    rotation_deg: float = 0.0,
    offset_mm: Vector | None = None,
    without: Sequence[Collection[str]] = (),
) -> list[PhantomCase]:
    """Write phantoms below `root/<dataset>` as the publisher would.

    The same arguments write the same bytes, and a case number is always the same body. Where the publisher gives
    labels alone, the CT are written into the folder of the dataset that they belong to, as that dataset's own
    phantoms would be, unless they are there.

    Parameters
    ----------
    dataset : str
        Id of a manifest.
    root : Path
        The folder of all datasets (`--sources`).
    cases : int or sequence of str
        How many bodies; or the case numbers themselves.
    seed : int
        Other seeds draw other case numbers, which are other bodies.
    spacing : tuple of float, optional
        Along x, y, z (mm). The publisher's, but at least 5 mm, if not given.
    field : tuple
        What the scans show, from and to along x, y, z (RAS mm; a body's origin lies near 0).
    absent, rotation_deg, offset_mm
        See `atlas.phantom.anatomy.anatomy`.
    without : sequence of collections of str
        Structures and label files of the label map that are left out: of the first case, of the second, and so on.

    Raises
    ------
    SpecError
        If so many case numbers cannot be made up, if `without` names what the label map does not, or if the layout
        has files that are not written here.
    """
    here = Published.of(dataset, root)
    _check_without(here, without)
    scene = Scene(field, spacing, absent, rotation_deg, offset_mm)
    numbers = _draw(here, cases, seed) if isinstance(cases, int) else list(cases)
    written, annotated = [], {}
    for order, case in enumerate(numbers):
        present = _layers(here, order, without[order] if order < len(without) else ())
        phantom, annotated[case] = _write_case(here, case, scene, present, two_phases=order % 2 == 1)
        written.append(phantom)
    write_regions(here, annotated)
    if here.manifest.layout.index is not None:
        write_index(here, here.manifest.layout.index, numbers)
    return written


def _check_without(here: Published, without: Sequence[Collection[str]]) -> None:
    known = {*here.label_map.structures, *here.label_map.values}
    unknown = {name for names in without for name in names} - known
    if unknown:
        raise SpecError(f"{here.manifest.id} has no {sorted(unknown)}; it has {', '.join(sorted(known))}")


def _draw(here: Published, count: int, seed: int) -> list[str]:
    """Case numbers that are good: published with labels, and nothing said against them."""
    manifest = here.manifest
    known_bad = {case for bad in manifest.known_bad for case in bad.cases}
    avoid = known_bad | {*manifest.unlabelled, *here.label_map.cases}
    return case_ids(manifest.layout.case, count, seed=f"{manifest.id}/{seed}", avoid=avoid)


def _layers(here: Published, order: int, left_out: Collection[str]) -> frozenset[str]:
    """Label files and structures of a case.

    Where one label file will do, it has the first that is not left out. Of optional structures of one meaning, which
    are spellings of one name, it has one, and cases take turns.
    """
    files = [name for name in here.label_map.values if name not in left_out]
    spellings: dict[Sequence[str], list[str]] = {}
    for name, targets in here.label_map.structures.items():
        if name in here.label_map.optional:
            spellings.setdefault(targets, []).append(name)
    others = {name for names in spellings.values() for name in names if name != names[order % len(names)]}
    files = files[:1] if here.manifest.layout.alternatives else files
    return frozenset({*files, *here.label_map.structures} - others - set(left_out))


def _write_case(
    here: Published, case: str, scene: Scene, present: frozenset[str], *, two_phases: bool
) -> tuple[PhantomCase, tuple[int, int]]:
    owner, owners, layout = here.lender(), here.lent(case), here.manifest.layout
    painted = paint(owner, owners, scene)
    grid = label_grid(here, case, painted)
    masks = {name: mask for name, mask in drawn_masks(here, painted).items() if name in present}
    if _nothing_empty(here):
        present -= {name for name, mask in masks.items() if not mask.any()}
    if layout.study:
        image = write_study(here, case, painted, masks, two_phases=two_phases)
    else:
        image = owner.image(owners)
        if not image.exists():
            _write_image(owner, image, owners, painted)
        write_labels(here, case, painted, grid, present, identity_of(owner, owners))
    shown = painted.body.present(grid.stored(painted.numbers))
    phantom = PhantomCase(
        case_id=f"{here.manifest.id}/{case}",
        image=image,
        anatomy=painted.body,
        available=available(here.label_map, here.taxonomy, present, shown, any_label=layout.alternatives),
        region=grid.region(painted.numbers.shape) if layout.regions else None,
    )
    return phantom, grid.counted


def _nothing_empty(here: Published) -> bool:
    """Whether the publisher leaves out what a case does not show, so that nobody knows whether it was looked for.

    Of folders of slices and of contours there are then none.
    """
    layout = here.manifest.layout
    contours = bool(layout.study) and layout.storage.objects == "rtstruct"
    return contours or any(mask.endswith("/") for mask in layout.masks)


def _write_image(owner: Published, image: Path, case: str, painted: Painted) -> None:
    layout = owner.manifest.layout
    if layout.image[0].endswith("/"):
        stacks = layout.storage.slices == "dicom" and any(mask.endswith("/") for mask in layout.masks)
        write_ct(image, painted, identity_of(owner, case), MASK_NAMES if stacks else CT_NAMES)
    else:
        i, j, k = painted.numbers.shape
        save(image, painted.hu, header((i, j, k), painted.affine, layout.storage))
