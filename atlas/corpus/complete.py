"""Add the classes that a model predicts to a case that lacks them; what people annotated stays, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from atlas.corpus.record import class_record
from atlas.corpus.write import array_digest
from atlas.errors import CorpusError
from atlas.harmonize.grid import Grid
from atlas.harmonize.measure import measure
from atlas.harmonize.midplane import find_midplane
from atlas.harmonize.pack import Entry, MaskPacker, PackedMasks, bounding_box
from atlas.harmonize.sides import split_sides

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from atlas.corpus.record import CaseRecord
    from atlas.spec.taxonomy import Taxonomy

PSEUDO: Literal["pseudo"] = "pseudo"
LEFT, RIGHT = 1, 2


class Completed(NamedTuple):
    """What `atlas.corpus.write.write_case` takes of a case, apart from its CT.

    Attributes
    ----------
    record
        Of the case; its identity is still that of the build.
    codes
        uint8, or uint16 past 256 codes; (z, y, x).
    table
        (classes, unknown) bitmasks of each code, ascending.
    foreground
        Class -> uint16 (n, 3) voxels (z, y, x), in bit order.
    """

    record: CaseRecord
    codes: NDArray[np.unsignedinteger]
    table: tuple[tuple[int, int], ...]
    foreground: Mapping[str, NDArray[np.uint16]]


def lacking(record: CaseRecord, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the classes that a pseudo label may be given to: unavailable, or of a pseudo label already."""
    annotated = {c.name for c in record.classes if c.provenance != PSEUDO}
    return tuple(name for name in names if name not in annotated)


def complete(
    record: CaseRecord,
    *,
    ct: NDArray[np.int16],
    codes: NDArray[np.unsignedinteger],
    table: tuple[tuple[int, int], ...],
    foreground: Mapping[str, NDArray[np.uint16]],
    predictions: Mapping[str, NDArray[np.bool_]],
    model: str,
    taxonomy: Taxonomy,
    samples: int,
) -> Completed:
    """Add predicted masks to a case, as pseudo labels.

    Only classes that are unavailable, or that have a pseudo label already, are written; all others keep every voxel,
    unknown ones included. What is written is brought into line with the taxonomy: it contains what was annotated of its
    parts, and it lies within what it is part of, but for where that is unknown.

    Parameters
    ----------
    record, codes, table, foreground
        The case as it is; see `Completed`.
    ct
        int16 HU (z, y, x). Shows left and right, where a lesion of unknown side tells nothing of a kidney's.
    predictions
        Class -> bool (z, y, x). Classes that people annotated are left out.
    model
        What predicted them; goes into the record.
    taxonomy
        Of the corpus.
    samples
        Voxels to keep of a class, to aim patches at.

    Raises
    ------
    CorpusError
        If a prediction has another shape than the case.
    SpecError
        If a class is not of the taxonomy.
    """
    added = sum(1 << taxonomy.bit(name) for name in lacking(record, predictions))
    if not added:
        return Completed(record, codes, table, foreground)
    kept = int(record.available, 16) & ~added
    packer = MaskPacker(record.shape)
    packer.update((0, 0, 0), codes, lambda _, code: Entry(table[code][0] & kept, table[code][1] & kept))
    for name in taxonomy.members(added):
        _add(packer, record, name, predictions[name], 1 << taxonomy.bit(name))
    _tell_sides(packer, taxonomy, kept, added, ct, record.spacing)
    _settle(packer, taxonomy, kept, added)
    masks = packer.packed(keep=kept | added)
    return _completed(record, masks, foreground, taxonomy, added, model, samples)


def _add(packer: MaskPacker, record: CaseRecord, name: str, mask: NDArray[np.bool_], bit: int) -> None:
    if mask.shape != record.shape:
        raise CorpusError(
            f"{record.case_id}: {name} was predicted with shape {mask.shape}, the case has {record.shape}"
        )
    box = bounding_box(mask)
    if box is not None:
        start = (box[0].start, box[1].start, box[2].start)
        packer.update(start, mask[box], lambda entry, _: Entry(entry.classes | bit, entry.unknown))


def _tell_sides(
    packer: MaskPacker, taxonomy: Taxonomy, kept: int, added: int, ct: NDArray[np.int16], spacing: float
) -> None:
    """Extend predicted left and right organs by what was annotated of a part whose side is not known."""
    for part in taxonomy.members(kept):
        for pair in taxonomy.wholes(part) & set(taxonomy.pairs):
            left, right = (1 << bit for bit in taxonomy.target_bits(pair))
            if (left | right) & added and not (left | right) & ~(kept | added):
                _tell_side(packer, 1 << taxonomy.bit(part), (left, right), added, ct, spacing)


def _tell_side(
    packer: MaskPacker, part: int, sides: tuple[int, int], added: int, ct: NDArray[np.int16], spacing: float
) -> None:
    either = sides[0] | sides[1]
    outside = np.array([bool(e.classes & part and not (e.classes | e.unknown) & either) for e in packer.table])
    box = packer.box(lambda entry: bool(entry.classes & (part | either)))
    if box is None or not outside[packer.codes[box]].any():
        return
    start = (box[0].start, box[1].start, box[2].start)
    left, right = (packer.where(bit, box) for bit in sides)
    split = split_sides(
        packer.where(part | either, box),
        spacing,
        find_midplane(ct, spacing, box[0]),
        left_seed=left,
        right_seed=right,
        origin=start,
    )
    if not split.resolved:
        return
    selector = np.where(split.right, np.uint8(RIGHT), np.uint8(LEFT)) * outside[packer.codes[box]]
    grown = {LEFT: sides[0] & added, RIGHT: sides[1] & added}
    packer.update(start, selector, lambda entry, side: Entry(entry.classes | grown[side], entry.unknown))


@dataclass(frozen=True)
class _Kin:
    """How a predicted class is bound to others, as bitmasks.

    Attributes
    ----------
    parts
        Annotated classes that are part of it.
    wholes
        It lies in one class of each of these.
    """

    bit: int
    parts: int
    wholes: tuple[int, ...]


def _settle(packer: MaskPacker, taxonomy: Taxonomy, kept: int, added: int) -> None:
    """Bring predicted classes into line with the others; what voxels hold depends on nothing but their own entry."""
    kin = _kin(taxonomy, kept, added)

    def settled(entry: Entry) -> Entry:
        classes = entry.classes
        for one in kin:
            if classes & one.parts:
                classes |= one.bit
            elif not all((classes | entry.unknown) & whole for whole in one.wholes):
                classes &= ~one.bit
        return Entry(classes, entry.unknown)

    everywhere = np.broadcast_to(np.uint8(1), packer.codes.shape)
    packer.update((0, 0, 0), everywhere, lambda entry, _: settled(entry))


def _kin(taxonomy: Taxonomy, kept: int, added: int) -> list[_Kin]:
    """Of each predicted class; wholes before their parts, which have all of their wholes and one more."""
    above = {
        name: [sum(1 << bit for bit in taxonomy.target_bits(whole)) for whole in taxonomy.wholes(name)]
        for name in taxonomy.members(kept | added)
    }
    result = []
    for name in sorted(taxonomy.members(added), key=lambda name: len(above[name])):
        bit = 1 << taxonomy.bit(name)
        parts = sum(1 << taxonomy.bit(part) for part in taxonomy.members(kept) if bit in above[part])
        wholes = tuple(whole for whole in above[name] if not whole & ~(kept | added))
        result.append(_Kin(bit, parts, wholes))
    return result


def _completed(
    record: CaseRecord,
    masks: PackedMasks,
    foreground: Mapping[str, NDArray[np.uint16]],
    taxonomy: Taxonomy,
    added: int,
    model: str,
    samples: int,
) -> Completed:
    """Measure the classes that were added, and write them into the record."""
    alone = PackedMasks(masks.codes, tuple(Entry(entry.classes & added, 0) for entry in masks.table))
    grid = Grid(record.shape, record.spacing, record.origin)
    # a case draws the same sample whenever it is completed; the CT is what is its own and stays
    found = measure(alone, grid, samples=samples, seed=int(record.ct_sha256[:16], 16))
    measured = {taxonomy.names[m.bit]: m for m in found}
    names = taxonomy.members(added)
    classes = {c.name: c for c in record.classes}
    classes |= {name: class_record(name, PSEUDO, model, measured.get(name)) for name in names}
    voxels = {name: v for name, v in foreground.items() if name not in names}
    voxels |= {name: m.sample for name, m in measured.items()}
    update = {
        "available": hex(int(record.available, 16) | added),
        "classes": tuple(classes[name] for name in taxonomy.names if name in classes),
        "codes_sha256": array_digest(masks.codes),
    }
    return Completed(
        record.model_copy(update=update),
        masks.codes,
        masks.table,
        {name: voxels[name] for name in taxonomy.names if name in voxels},
    )
