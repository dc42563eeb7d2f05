"""The patient's mid-sagittal plane, found in the CT itself.

Scanners do not centre patients: the middle of the image says little about the middle of the body. The
vertebral column is on the midline whatever the field of view shows, so the plane goes through it; which way
the patient faces is read from where the body lies relative to the column (supine: straight in front of it).
Everything happens on a coarse copy (3 mm in plane, 6 mm along z): a midline needs no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cc3d
import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Lengths in mm. The scores were set on the real scans of the tests, upright, turned and cropped: they lie in the
# middle of the range in which all of those come out right.
PLANE_MM = 3.0  # in-plane step of the coarse copy: resolves the cortex around the spinal canal
SLICE_MM = 6.0  # distance of the slices looked at
TISSUE_HU = -300  # halfway between lung and fat
BELOW_AIR_HU = -1100  # no tissue or gas is that thin
STEADY_SLICES = 5  # so many slices tell padding, constant in all, from air that the scanner clips
BONE_HU = 200  # above enhanced kidney and liver, below averaged cortical bone
SOFT_HU = (-50, 120)  # spinal canal and marrow, but neither fat, contrast agent nor bone
RAYS = ((0, 1), (1, 0), (0, -1), (-1, 0), (0.7, 0.7), (0.7, -0.7), (-0.7, 0.7), (-0.7, -0.7))  # (y, x)
RAY_MM = (6.0, 24.0)  # a vertebra, seen from its canal or its middle, has bone that near all around
BRIGHT = 0.1  # weight of an enclosed place that is bright itself, as in vessels and kidneys with contrast agent
HALF_SCORE = 0.07  # smoothed enclosure that half convinces; saturating, for discs and osteoporosis lower it
CHAIN_COST = 0.35  # what a slice must score for the column to go on through it
FAINT = 0.1  # total gain, for each of the first three steps, below which a column is imagined
RIVAL, RIVAL_MM = 0.75, 60.0  # another column that strong that far away: neither is known to be the spine
SPINE_TO_CENTRE_MM = 90.0  # scale on which a column becomes implausible away from the body's centre
TRUNCATED = 0.25  # share of sqrt(area): length of trunk outline at the edge of the field of view
SURE_DEGREES = 20.0  # less is supine: real supine scans read up to 10, for what fills a body is not symmetric
BACKWARD_DEGREES = 120.0  # facing the table: header and anatomy contradict each other


@dataclass(frozen=True)
class Midplane:
    """The patient's mid-sagittal plane (a vertical plane: it contains the z direction) in a canonical volume.

    Parameters
    ----------
    point
        (y, x) voxel indices of a point on it.
    right
        (y, x) unit vector orthogonal to it that points to the patient's right.
    source
        What it was found from: the spine, or the body alone where no spine is seen.
    """

    point: tuple[float, float]
    right: tuple[float, float]
    source: Literal["spine", "body"]

    def lateral(self, y: NDArray[np.number], x: NDArray[np.number]) -> NDArray[np.float64]:
        """Signed distance from the plane in voxels, positive on the patient's right; `y`, `x` broadcast."""
        return np.asarray((y - self.point[0]) * self.right[0] + (x - self.point[1]) * self.right[1])


def find_midplane(ct: NDArray[np.int16], spacing: float, z_range: slice | None = None) -> Midplane | None:
    """Find the mid-sagittal plane of the patient.

    Parameters
    ----------
    ct
        Hounsfield units, (z, y, x), RAS+ (indices grow to superior, anterior and the patient's right).
    spacing
        Edge of a voxel in mm.
    z_range
        Slices for which the plane should fit best (the spine bends); the whole volume is searched all the same.

    Returns
    -------
    Midplane or None
        None if neither spine nor whole body is seen, or if the patient faces backwards: then the header
        contradicts the anatomy, the image may be a mirror image, and nobody can tell left from right.
    """
    plane_step, slice_step = max(1, round(PLANE_MM / spacing)), max(1, round(SLICE_MM / spacing))
    coarse = _coarse_copy(ct, plane_step, slice_step)
    if coarse.size == 0:
        return None
    trunk = _trunk(coarse)
    if not trunk.any():
        return None
    step_mm = plane_step * spacing
    whole = trunk.any(axis=(1, 2)) & ~_truncated(trunk, _unseen(coarse))
    centres = np.array([ndimage.center_of_mass(trunk[z]) for z in np.flatnonzero(whole)]).reshape(-1, 2)
    column = _spinal_column(coarse, trunk, _plausible(coarse.shape[1:], centres, step_mm), step_mm)
    if column is None and not len(centres):
        return None
    if column is None:
        return Midplane(_to_voxels(np.median(centres, axis=0), plane_step), (0.0, 1.0), "body")
    degrees = _rotation(column, centres, np.flatnonzero(whole))
    if abs(degrees) > BACKWARD_DEGREES:
        return None
    angle = np.radians(degrees if abs(degrees) > SURE_DEGREES else 0.0)
    near = _within(column, z_range, slice_step)
    point = _to_voxels(np.median(near[:, 1:], axis=0), plane_step)
    return Midplane(point, (float(np.sin(angle)), float(np.cos(angle))), "spine")


def _coarse_copy(ct: NDArray[np.int16], plane_step: int, slice_step: int) -> NDArray[np.float32]:
    """Every `slice_step`-th slice, each the mean of `plane_step` x `plane_step` blocks."""
    first = min(slice_step // 2, (len(ct) - 1) // 2) if len(ct) else 0
    _, y, x = (n - n % plane_step for n in ct.shape)
    slices = ct[first::slice_step, :y, :x]
    total = np.zeros((len(slices), y // plane_step, x // plane_step), np.float32)
    for i in range(plane_step):  # four times as fast as the mean over a reshaped array
        for j in range(plane_step):
            total += slices[:, i::plane_step, j::plane_step]
    total /= plane_step**2
    return total


def _trunk(coarse: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Trunk of the patient (z, y, x), lungs and bowel gas included, 6 mm inside the skin.

    The erosion takes off the table top and parts the arms from the body.
    """
    tissue = ndimage.binary_erosion(coarse > TISSUE_HU, np.ones((1, 3, 3)), iterations=2, border_value=1)
    core = cc3d.largest_k(tissue, k=1, connectivity=6) > 0
    gaps = cc3d.connected_components(~core, connectivity=6)
    rim = (gaps[:, 0], gaps[:, -1], gaps[:, :, 0], gaps[:, :, -1])
    is_gas = np.ones(int(gaps.max()) + 1, bool)
    is_gas[np.unique(np.concatenate([side.ravel() for side in rim]))] = False
    is_gas[0] = False
    inside: NDArray[np.bool_] = core | is_gas[gaps]
    return inside


def _unseen(coarse: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the field of view ends, (y, x): the frame of the image and, beside it, constant padding."""
    if len(coarse) >= STEADY_SLICES:
        padding = (np.ptp(coarse, axis=0) == 0) & (coarse[0] < TISSUE_HU)
    else:
        padding = coarse.min(axis=0) < BELOW_AIR_HU
    # 4 blocks: one half filled, two inside the skin (`_trunk`), and the outline itself
    unseen: NDArray[np.bool_] = ndimage.binary_dilation(padding, np.ones((3, 3)), iterations=4)
    unseen[[0, -1]] = True
    unseen[:, [0, -1]] = True
    return unseen


def _truncated(trunk: NDArray[np.bool_], unseen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Slices (z,) in which the body goes on beyond the field of view: its centre is not the one seen."""
    outline = trunk & ~ndimage.binary_erosion(trunk, np.ones((1, 3, 3)))
    cut: NDArray[np.bool_] = (outline & unseen).sum(axis=(1, 2)) > TRUNCATED * np.sqrt(trunk.sum(axis=(1, 2)))
    return cut


def _spinal_column(
    coarse: NDArray[np.float32], trunk: NDArray[np.bool_], weight: NDArray[np.float32], step_mm: float
) -> NDArray[np.int64] | None:
    """Follow the vertebral column: rows of (z, y, x) coarse indices, or None where none is seen.

    Each slice scores how well a place is enclosed by bone, as the spinal canal and the middle of a vertebra
    are; a place bright itself counts less, for so are vessels and kidneys full of contrast agent. The column
    is the chain through neighbouring slices with the largest sum, unless there is another like it elsewhere:
    then they are a pair of iliac bones or femurs.
    """
    low, high = SOFT_HU
    soft = (coarse > low) & (coarse < high)
    enclosed = _enclosure(coarse > BONE_HU, step_mm) * np.where(soft, 1.0, BRIGHT).astype(np.float32) * trunk
    pairs = ndimage.uniform_filter1d(enclosed, 2, axis=0)[::2]  # 12 mm bridges a disc
    smooth = ndimage.gaussian_filter(pairs, (0, 6 / step_mm, 6 / step_mm))
    gain = smooth / (smooth + HALF_SCORE) * weight - CHAIN_COST
    chain, total = _best_chain(gain)
    reach = round(RIVAL_MM / step_mm)
    (y0, x0), (y1, x1) = np.maximum(chain[:, 1:].min(axis=0) - reach, 0), chain[:, 1:].max(axis=0) + reach + 1
    gain[:, y0:y1, x0:x1] = -CHAIN_COST
    if total < FAINT * min(len(gain), 3) or _best_chain(gain)[1] > RIVAL * total:
        return None
    return chain * (2, 1, 1)


def _enclosure(bone: NDArray[np.bool_], step_mm: float) -> NDArray[np.float32]:
    """From 0 (bone in at most 5 of the 8 in-plane directions, `RAY_MM` away) to 1 (in all of them)."""
    first, last = (round(mm / step_mm) for mm in RAY_MM)
    hits = np.zeros(bone.shape, np.uint8)
    padded = np.pad(bone, ((0, 0), (last, last), (last, last)))
    ny, nx = bone.shape[1:]
    for dy, dx in RAYS:
        hit = np.zeros(bone.shape, bool)
        for radius in range(max(1, first), last + 1):
            y, x = last + round(dy * radius), last + round(dx * radius)
            hit |= padded[:, y : y + ny, x : x + nx]
        hits += hit
    return (np.maximum(hits, 5) - np.float32(5)) / np.float32(3)


def _plausible(shape: tuple[int, ...], centres: NDArray[np.float64], step_mm: float) -> NDArray[np.float32]:
    """Weight (y, x) of a column's place: near the body's centre, and rather behind it than elsewhere.

    Weak on purpose: it tells the sacrum from an iliac bone, and leaves a patient who lies on the side alone.
    """
    if not len(centres):
        return np.ones(shape, np.float32)
    centre = np.median(centres, axis=0).astype(np.float32)
    dy, dx = (np.arange(n, dtype=np.float32) - c for n, c in zip(shape, centre, strict=True))
    distance = np.hypot(dy[:, None], dx) + np.float32(1e-3)
    behind = 0.85 - 0.15 * dy[:, None] / distance
    weight: NDArray[np.float32] = behind * np.exp(-0.5 * (distance * step_mm / SPINE_TO_CENTRE_MM) ** 2)
    return weight


def _best_chain(gain: NDArray[np.float32]) -> tuple[NDArray[np.int64], float]:
    """Chain of neighbouring places (z, y, x), one a slice, of the largest total gain; and that total."""
    total = gain.copy()
    for z in range(1, len(total)):
        total[z] += np.maximum(ndimage.maximum_filter(total[z - 1], 3), 0)
    z, y, x = (int(i) for i in np.unravel_index(int(total.argmax()), total.shape))
    chain, best = [(z, y, x)], float(total[z, y, x])
    while z > 0 and total[z, y, x] > gain[z, y, x]:
        z, y0, x0 = z - 1, max(0, y - 1), max(0, x - 1)
        window = total[z, y0 : y + 2, x0 : x + 2]
        dy, dx = np.unravel_index(int(window.argmax()), window.shape)
        y, x = y0 + int(dy), x0 + int(dx)
        chain.append((z, y, x))
    return np.array(chain[::-1]), best


def _rotation(column: NDArray[np.int64], centres: NDArray[np.float64], slices: NDArray[np.int64]) -> float:
    """Degrees by which the patient is turned about z, from the vector spine -> body centre; 0 is supine.

    Where the body is nowhere seen whole, the header's word is taken: 0.
    """
    _, at_column, at_centre = np.intersect1d(column[:, 0], slices, return_indices=True)
    if not len(at_column):
        return 0.0
    dy, dx = np.median(centres[at_centre] - column[at_column, 1:], axis=0)
    return float(np.degrees(np.arctan2(-dx, dy)))


def _within(column: NDArray[np.int64], z_range: slice | None, slice_step: int) -> NDArray[np.int64]:
    """Part of the column in `z_range` (voxel indices), or all of it if there is none."""
    if z_range is None:
        return column
    start, stop, _ = z_range.indices(int(column[-1, 0] + 2) * slice_step)
    z = column[:, 0] * slice_step
    near = column[(z >= start - slice_step) & (z < stop + slice_step)]
    return near if len(near) else column


def _to_voxels(place: NDArray[np.float64], plane_step: int) -> tuple[float, float]:
    """Coarse (y, x) index to voxel index: the middle of the block."""
    y, x = (place + 0.5) * plane_step - 0.5
    return float(y), float(x)
