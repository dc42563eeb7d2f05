"""Pictures to look at: CT and masks of a case in three planes, in the radiological convention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

import atlas

mpl.use("Agg")  # there is no screen
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

WINDOW = (-200, 300)
OPACITY = 0.5
LETTER_VOXELS = 150


def draw(corpus: Path, case_id: str, folder: Path) -> Path:
    """Write the picture of a case; the planes go through the middle of what is labelled.

    The patient's right is on the left of the axial and the coronal picture; the sagittal one looks from the left.
    """
    case = atlas.open(corpus)[case_id]
    ct, codes = np.asarray(case.ct[...]), np.asarray(case.codes[...])
    at = [int(c) for c in _middle(case, codes)]
    colours = _colours(case)
    figure, axes = plt.subplots(1, 3, figsize=(13, 5), facecolor="black", layout="constrained")
    planes = (
        ("axial", ct[at[0]], codes[at[0]], ("R", "L", "A", "P")),
        ("coronal", ct[:, at[1]], codes[:, at[1]], ("R", "L", "S", "I")),
        ("sagittal", ct[:, :, at[2]], codes[:, :, at[2]], ("A", "P", "S", "I")),
    )
    for axis, (name, grey, code, marks) in zip(axes, planes, strict=True):
        plane(axis, f"{name} {at[('axial', 'coronal', 'sagittal').index(name)]}", grey, colours[code], marks)
        _letters(axis, case, code)
    figure.suptitle(f"{case_id}    {'; '.join(case.record.warnings)[:150]}", color="white", fontsize=9)
    path = folder / f"{case_id.replace('/', '-')}.png"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)
    plt.close(figure)
    return path


def _letters(axis, case, code):
    """An r or an l on what is of the right or left, whatever its colour."""
    for c in case.taxonomy.classes:
        if c.side:
            shown = np.array([entry >> c.bit & 1 for entry in case.table], bool)[code]
            if np.count_nonzero(shown) > LETTER_VOXELS:
                y, x = np.array(shown.shape) - 1 - np.argwhere(shown).mean(axis=0)
                axis.text(x, y, c.side[0], color="white", fontsize=9, ha="center", va="center")


def _middle(case, codes):
    """Voxel (z, y, x) in the middle of the labels, moved to the slices that show the most of them."""
    boxes = np.array([c.bbox for c in case.record.classes if c.bbox])
    if not len(boxes):
        return np.array(codes.shape) // 2
    low, high = boxes[:, :3].min(axis=0), boxes[:, 3:].max(axis=0)
    kinds = np.array([entry.bit_count() for entry in case.table])
    crop = codes[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    drawn = kinds[crop] > 0
    best = [low[axis] + drawn.sum(axis=tuple({0, 1, 2} - {axis})).argmax() for axis in (0, 1)]
    return np.array([*best, (low[2] + high[2]) // 2])


def _colours(case):
    """RGBA of every code: that of the smallest structure in it."""
    size = {case.taxonomy.bit(c.name): c.voxels for c in case.record.classes if c.voxels}
    result = np.zeros((len(case.table), 4))
    for code, entry in enumerate(case.table):
        bits = [bit for bit in size if entry >> bit & 1]
        if bits:
            colour = case.taxonomy.classes[min(bits, key=size.get)].colour
            result[code] = (*(c / 255 for c in colour), OPACITY)
    return result


def plane(axis, title, grey, colour, marks):
    """Draw with right (or anterior) to the left and superior (or anterior) up: both indices run backwards."""
    flipped = (slice(None, None, -1), slice(None, None, -1))
    axis.imshow(grey[flipped], cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1])
    axis.imshow(colour[flipped], interpolation="nearest")
    axis.set_title(title, color="white", fontsize=8)
    axis.axis("off")
    places = ((0.02, 0.5), (0.95, 0.5), (0.5, 0.95), (0.5, 0.02))
    for mark, (x, y) in zip(marks, places, strict=True):
        axis.text(x, y, mark, transform=axis.transAxes, color="yellow", fontsize=11)
