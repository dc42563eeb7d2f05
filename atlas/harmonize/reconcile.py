"""From the label files of a case to one packed volume of the taxonomy's classes, and what is available."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from atlas.errors import LabelError
from atlas.harmonize.occupancy import resample_labels
from atlas.harmonize.pack import Entry, MaskPacker, PackedMasks
from atlas.harmonize.pairs import split_pairs
from atlas.harmonize.unknown import mark_ignored, mark_outside, mark_partial

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from atlas.harmonize.grid import Grid, Lattice
    from atlas.harmonize.rules import LabelRules
    from atlas.spec.label_map import Box


@dataclass(frozen=True)
class SourceLabels:
    """One label file as read.

    Attributes
    ----------
    name
        Label file of the manifest, or structure.
    kind
        "values": a label volume; "mask": one structure, 1 where it is.
    data
        Unsigned integers, (i, j, k) as stored.
    affine
        (4, 4), (i, j, k) -> RAS mm.
    whole
        Whether it covers the whole CT; where it does not, its classes are unknown.
    """

    name: str
    kind: Literal["values", "mask"]
    data: NDArray[np.unsignedinteger]
    affine: NDArray[np.float64]
    whole: bool = True


@dataclass(frozen=True)
class Reconciled:
    """All masks of a case, the bitmask of the classes that were annotated, and what a person should know."""

    masks: PackedMasks
    available: int
    warnings: tuple[str, ...]


def reconcile(
    layers: Iterable[SourceLabels],
    rules: LabelRules,
    case: str,
    *,
    ct: NDArray[np.int16],
    grid: Grid,
    method: Literal["occupancy", "nearest"] = "occupancy",
    slices: tuple[int, int] | None = None,
) -> Reconciled:
    """Bring all labels of a case onto the grid and into the taxonomy.

    Parameters
    ----------
    layers
        Read one at a time; none is kept.
    rules
        The dataset's label map, compiled.
    case
        Source case, for its exceptions.
    ct
        int16 HU on the canonical grid, (z, y, x); shows where the midline is.
    grid
        The canonical grid.
    method
        How labels are resampled.
    slices
        [lo, hi) along the third stored axis of the label volumes, counted upwards from the lowest slice, where a table
        of the publisher says that only these were annotated; elsewhere their classes are unknown.

    Raises
    ------
    LabelError
        If a label holds values or structures that the label map does not explain, or has not as many slices.
    """
    packer, available = drawn(layers, rules, case, grid=grid, method=method, slices=slices)
    unresolved, warnings = split_pairs(packer, rules, ct, grid.spacing)
    available &= ~unresolved
    if rules.label_map.available == "drawn":
        available &= _shown(packer)
    mark_ignored(packer, rules.unknown_bit, available)
    mark_partial(packer, rules, (grid.spacing,) * 3)
    return Reconciled(packer.packed(keep=available), available, tuple(warnings))


def drawn(
    layers: Iterable[SourceLabels],
    rules: LabelRules,
    case: str,
    *,
    grid: Lattice,
    method: Literal["occupancy", "nearest"],
    slices: tuple[int, int] | None,
) -> tuple[MaskPacker, int]:
    """All labels of a case on one grid, pairs and ignore values as their working bits, and what was annotated.

    Parameters are those of `reconcile`; the grid may be any.
    """
    packer = MaskPacker(grid.shape)
    seen = []
    for layer in layers:
        seen.append(layer.name)
        meaning = _meaning(layer, rules)
        crop = resample_labels(layer.data, layer.affine, grid, method=method)
        packer.update(crop.start, crop.values, partial(_add, meaning))
        for box in _limits(layer, rules, case, slices):
            mark_outside(packer, _classes_of(layer, rules), layer.data.shape, layer.affine, grid, box=box)
    return packer, rules.available(seen, case)


def _add(meaning: dict[int, int], entry: Entry, value: int) -> Entry:
    return Entry(entry.classes | meaning[value], entry.unknown)


def _limits(layer: SourceLabels, rules: LabelRules, case: str, slices: tuple[int, int] | None) -> list[Box | None]:
    """Boxes of a layer outside which nothing was annotated; None is its own."""
    exception = rules.label_map.cases.get(case)
    limits: list[Box | None] = [None] if not layer.whole else []
    if exception is not None and exception.box is not None:
        limits.append(exception.box)
    if slices is not None:
        limits.append(_annotated(layer, slices))
    return limits


def _annotated(layer: SourceLabels, slices: tuple[int, int]) -> Box:
    """Box of a layer that holds the slices of a table, which counts them upwards."""
    i, j, k = layer.data.shape
    lo, hi = slices
    if not 0 <= lo < hi <= k:
        raise LabelError(
            f"label {layer.name!r} has {k} slices; the publisher's table says that those from {lo} up to {hi} were "
            "annotated. One of the two is another version"
        )
    right, front, up = layer.affine[:3, 2]
    if abs(up) <= max(abs(right), abs(front)):
        raise LabelError(
            f"label {layer.name!r} is not stored in axial slices, and the publisher's table says which of these were "
            "annotated"
        )
    return ((0, i), (0, j), (lo, hi) if up > 0 else (k - hi, k - lo))


def _shown(packer: MaskPacker) -> int:
    """Bitmask of the classes that at least one voxel shows."""
    result = 0
    for code in np.unique(packer.codes):
        result |= packer.table[code].classes
    return result


def _meaning(layer: SourceLabels, rules: LabelRules) -> dict[int, int]:
    """Bitmask of each value that occurs in a layer."""
    if layer.kind == "mask":
        entry = rules.entry(layer.name)
        if entry is None:
            raise LabelError(
                f"the label map does not explain the structure {layer.name!r}; add it (null if it means no "
                f"class). It has: {', '.join(sorted(rules.structures))}"
            )
        known = {1: rules.structures[entry]}
    else:
        known = rules.values[layer.name]
    found = _values(layer.data)
    strange = [v for v in found if v not in known]
    if strange:
        raise LabelError(
            f"label file {layer.name!r} holds values that the label map does not explain: "
            f"{', '.join(map(str, strange))}; add them (null if they mean no class). "
            f"It has: {', '.join(map(str, sorted(known)))}"
        )
    return {v: known[v] for v in found}


def _values(data: NDArray[np.unsignedinteger]) -> list[int]:
    """Values other than 0, ascending, without a sorted copy of the volume."""
    highest = int(data.max(initial=0))
    if highest <= 1:  # a mask, and often one of a hundred
        return list(range(1, highest + 1))
    used = np.zeros(highest + 1, dtype=bool)
    for part in data.T:  # files hold i fastest, so slices of the transpose are contiguous
        used[part[part > 0]] = True
    return [int(v) for v in np.flatnonzero(used)]


def _classes_of(layer: SourceLabels, rules: LabelRules) -> int:
    """Bitmask of all classes that a layer can show."""
    label_map = rules.label_map
    if layer.kind == "values":
        targets = {t for targets in label_map.values[layer.name].values() for t in targets}
    else:
        targets = set(label_map.structures[rules.entry(layer.name) or layer.name])
    result = 0
    for target in targets & label_map.targets():
        result |= rules.mask_of(target)
    return result
