"""Compare a corpus with what the real labels say, computed without atlas (see truth.py)."""

from __future__ import annotations

from itertools import product

import nibabel as nib
import numpy as np
import pandas as pd
import prepare
import truth
from scipy import ndimage
from scipy.spatial import KDTree

import atlas

DICE = 0.999
"""Least overlap with the nearest source voxel, a structure."""

VOLUME_LIMITS = ((5.0, 0.03), (1.0, 0.06))
"""Structures over so many ml keep their volume within such a share."""

SURFACE_SLACK = (1.05, 0.02)
"""A structure's surface with occupancy may be at most so many times as far from the source's as with nearest,
plus so many mm."""

EXACT_MM, ROUNDING = 0.01, 0.1
"""Where the source's voxels are whole multiples of the grid's, nearest copies them, staircase and all, and is no
measure; there the surface may be off by so large a share of the source's voxel, which rounds its corners."""

LINEAR_ML = 0.02
"""A volume beyond the limits is explained if linear interpolation by scipy has the same within such a share. Then the
structure is so thin that its corners, which every linear interpolation rounds, are a good part of it; or it is made of
so few slices that it matters how many layers of the grid fall into each."""

CT_HU = 0.51
"""Largest difference from linear interpolation: rounding, and float32."""

MERGED_DICE = 0.995
RIGHT_MM = 20.0
"""Least distance of the middle of the liver from the middle of the body, towards the right."""

BODY_HU = -200
"""What is denser is body, or the table."""

EDGE = 0.02
"""Voxels beyond the outer edge that still count as inside."""

NUDGE = 1e-6
"""A centre exactly between two source voxels belongs to the superior, anterior, right one."""

SAMPLES = 2000
"""Surface points of a structure that are measured."""

FINE_MM = 0.75
"""Distance of the points by which a face of a source voxel is found."""


def compare_case(case, occupancy, nearest) -> list[dict]:
    """One row for each structure of a case.

    Parameters
    ----------
    case
        A `prepare.Case`.
    occupancy, nearest
        Corpora, as paths.
    """
    smooth, plain = (atlas.open(corpus)[case.case_id] for corpus in (occupancy, nearest))
    found = truth.structures(case.dataset, case.labels)
    codes = [np.asarray(c.codes[...]) for c in (smooth, plain)]
    counts = [np.bincount(c.ravel(), minlength=len(case.table)) for c, case in zip(codes, (smooth, plain), strict=True)]
    rows = []
    for name in sorted(truth.annotated(case.dataset, case.labels) - truth.NOT_ANNOTATED.get(case.case_id, set())):
        row = {"case": case.case_id, "structure": name, "available": set(_classes(name)) <= smooth.available}
        if row["available"] and name in found:
            row |= _structure(found[name], smooth, plain, *codes, counts[1])
            if name == "liver" and "x_mm" in row:
                row["right_of_middle_mm"] = row["x_mm"] - body_middle(smooth)
        elif row["available"]:
            row["voxels_of_absent"] = int(counts[0][_truth(smooth, name)].sum())
        rows.append(row)
    extra = smooth.available - {c for row in rows for c in _classes(row["structure"])}
    rows += [{"case": case.case_id, "structure": name, "unexpected": True} for name in sorted(extra)]
    return rows


def _classes(name):
    """Classes of the corpus that a structure of the source is."""
    return [name.replace("left/right", side) for side in ("left", "right")] if "left/right" in name else [name]


def _truth(case, name):
    """Whether each code holds the structure."""
    bits = [case.taxonomy.bit(c) for c in _classes(name)]
    return np.array([any(entry >> bit & 1 for bit in bits) for entry in case.table])


def _boxed(case, codes, name):
    """Mask of a structure cropped to its bounding box, and the box's start (z, y, x); None if it is empty."""
    boxes = [c.bbox for c in case.record.classes if c.name in _classes(name) and c.bbox]
    if not boxes:
        return None
    low, high = np.min([b[:3] for b in boxes], axis=0), np.max([b[3:] for b in boxes], axis=0)
    return _truth(case, name)[codes[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]], low


def _structure(source, smooth, plain, smooth_codes, plain_codes, plain_counts):
    row = {"native_ml": source.volume_ml}
    near, box = nearest_mask(source, plain.affine, plain_codes.shape)
    where = _truth(plain, source.name)
    voxels = plain_counts[where].sum()
    row["dice"] = 2 * np.count_nonzero(near & where[plain_codes[box]]) / max(1, voxels + np.count_nonzero(near))
    row["nearest_ml"] = voxels * plain.spacing**3 / 1000
    boxed = _boxed(smooth, smooth_codes, source.name)
    if boxed is None:
        return row | {"ml": 0.0, "volume_error": -1.0}
    mask, start = boxed
    millilitre = smooth.spacing**3 / 1000
    row["ml"] = np.count_nonzero(mask) * millilitre
    row["volume_error"] = row["ml"] / source.volume_ml - 1
    if beyond_limits(row):
        row["linear_ml"] = linear_volume(source, smooth.affine, smooth_codes.shape)
    at = nib.affines.apply_affine(smooth.affine, (np.argwhere(mask).mean(axis=0) + start)[::-1])
    row["x_mm"], row["native_x_mm"] = at[0], source.centroid[0]
    plain_boxed = _boxed(plain, plain_codes, source.name)
    if row["native_ml"] >= VOLUME_LIMITS[1][0] and plain_boxed is not None:
        surface = SourceSurface(source)
        row["voxel_mm"] = surface.spacing.max()
        row["surface_mm"] = surface.distance(mask, start, smooth.affine)
        row["chord_mm"] = 4000 * row["native_ml"] / surface.area
        row["surface_nearest_mm"] = surface.distance(*plain_boxed, plain.affine)
    return row


def body_middle(case) -> float:
    """RAS x (mm) of the middle of what is no air, over all slices."""
    dense = (np.asarray(case.ct[...]) > BODY_HU).sum(axis=(0, 1))
    return case.affine[0, 3] + case.affine[0, 0] * (np.arange(len(dense)) @ dense / dense.sum())


def beyond_limits(row) -> bool:
    """Whether a structure's volume is not kept as it should."""
    limit = next((share for ml, share in VOLUME_LIMITS if row["native_ml"] > ml), None)
    return limit is not None and abs(row["volume_error"]) > limit


def linear_volume(source, affine, shape) -> float:
    """Volume (ml) of the grid voxels of which linear interpolation gives the structure more than half."""
    low, high, to_source = _target_box(source, affine, shape)
    grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"))
    at = np.tensordot(to_source[:3, :3], grid, 1) + to_source[:3, 3][:, None, None, None]
    size = np.array(source.shape)[:, None, None, None]
    known = _known(at, size).all(axis=0)
    at = np.clip(at, 0, size - 1) - source.start[:, None, None, None]
    weight = ndimage.map_coordinates(np.pad(source.mask, 1).astype(np.float32), at + 1, order=1) * known
    half = np.abs(weight - 0.5) < 1e-4  # ties favour nobody
    return (np.count_nonzero(weight[~half] > 0.5) + half.sum() / 2) * abs(np.linalg.det(affine[:3, :3])) / 1000


def _target_box(source, affine, shape):
    """First and one-past-last grid index (x, y, z) where a structure can be, and the map from grid to source."""
    to_source = np.linalg.inv(source.affine) @ affine  # (x, y, z) -> (i, j, k)
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] = source.start - 1 + corners[:, :3] * (np.array(source.mask.shape) + 1)
    reached = (np.linalg.inv(to_source) @ corners.T)[:3]
    low = np.clip(np.floor(reached.min(axis=1)).astype(int), 0, np.array(shape[::-1]) - 1)
    high = np.clip(np.ceil(reached.max(axis=1)).astype(int) + 1, low + 1, shape[::-1])
    return low, high, to_source


def nearest_mask(source, affine, shape):
    """Structure at the nearest source voxel of each grid voxel, (z, y, x), in the box where it can be."""
    low, high, to_source = _target_box(source, affine, shape)
    box = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    steps = [np.arange(a, b) + NUDGE for a, b in zip(low, high, strict=True)]
    matrix, offset = to_source[:3, :3], to_source[:3, 3]
    dominant = np.abs(matrix).argmax(axis=1)
    tilt = np.abs(np.where(np.arange(3) == dominant[:, None], 0, matrix)) @ np.array(shape[::-1])
    if tilt.max() < 1e-3:
        result = _separable(source, matrix, offset, dominant, steps)
    else:
        grid = np.stack(np.meshgrid(*steps, indexing="ij"))
        at = np.tensordot(matrix, grid, 1) + offset[:, None, None, None]
        known = _known(at, np.array(source.shape)[:, None, None, None]).all(axis=0)
        at = np.clip(at, 0, np.array(source.shape)[:, None, None, None] - 1)
        at -= source.start[:, None, None, None]
        result = ndimage.map_coordinates(source.mask.view(np.uint8), np.floor(at + 0.5), order=0, cval=0) & known
    return result.T.astype(bool), box


def _known(at, size):
    return (at >= -0.5 - EDGE) & (at <= size - 0.5 + EDGE)


def _separable(source, matrix, offset, dominant, steps):
    """`nearest_mask` where each source axis runs along one axis of the grid; (x, y, z)."""
    index, inside = [], []
    for axis in range(3):
        at = matrix[axis, dominant[axis]] * steps[dominant[axis]] + offset[axis]
        size = source.mask.shape[axis]
        voxel = np.floor(np.clip(at, 0, source.shape[axis] - 1) + 0.5).astype(int) - source.start[axis]
        inside.append(_known(at, source.shape[axis]) & (voxel >= 0) & (voxel < size))
        index.append(np.clip(voxel, 0, size - 1))
    result = source.mask[np.ix_(*index)] & inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return result.transpose(np.argsort(dominant))


class SourceSurface:
    """Faces between the voxels of a structure and what is not of it, as rectangles in mm."""

    def __init__(self, source):
        padded = np.pad(source.mask, 1)
        centres, half = [], []
        for axis in range(3):
            at = np.argwhere(np.diff(padded, axis=axis)) - 1.0
            at[:, axis] += 0.5
            edge = np.full(3, 0.5)
            edge[axis] = 0
            centres.append(at + source.start)
            half.append(np.broadcast_to(edge, at.shape))
        self.centres, self.half = np.concatenate(centres), np.concatenate(half)  # voxels
        self.spacing = np.linalg.norm(source.affine[:3, :3], axis=0)
        self.area = float(np.prod(np.where(self.half > 0, self.spacing, 1), axis=1).sum())  # mm2
        self.to_voxel = np.linalg.inv(source.affine)
        points, self.face = self._samples()
        self.tree = KDTree(points * self.spacing, balanced_tree=False, compact_nodes=False)

    def _samples(self):
        """Points on the faces, at most `FINE_MM` apart, and the face of each."""
        points, faces = [], []
        for axis in range(3):
            chosen = np.flatnonzero(self.half[:, axis] == 0)
            counts = [1 if a == axis else max(1, int(np.ceil(s / FINE_MM))) for a, s in enumerate(self.spacing)]
            steps = [(np.arange(n) + 0.5) / n - 0.5 if n > 1 else np.zeros(1) for n in counts]
            around = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
            points.append((self.centres[chosen][:, None] + around).reshape(-1, 3))
            faces.append(np.repeat(chosen, len(around)))
        return np.concatenate(points), np.concatenate(faces)

    def distance(self, mask, start, affine):
        """Mean distance (mm) of the voxel faces of a mask (z, y, x) to this surface."""
        padded = np.pad(mask, 1)
        faces = []
        for axis in range(3):
            at = np.argwhere(np.diff(padded, axis=axis)) - 1.0
            at[:, axis] += 0.5
            faces.append(at + start)
        points = np.concatenate(faces)[:, ::-1]
        chosen = np.random.default_rng(0).choice(len(points), min(SAMPLES, len(points)), replace=False)
        at = nib.affines.apply_affine(self.to_voxel @ affine, points[chosen])
        _, near = self.tree.query(at * self.spacing, k=min(6, self.tree.n))
        face = self.face[near.reshape(len(at), -1)]
        apart = np.maximum(np.abs(at[:, None] - self.centres[face]) - self.half[face], 0) * self.spacing
        return float(np.linalg.norm(apart, axis=-1).min(axis=1).mean())


def compare_ct(case, corpus) -> dict:
    """Largest difference (HU) of a stored CT from linear interpolation by scipy, but for the outer half voxel."""
    stored = atlas.open(corpus)[case.case_id]
    native, affine = truth.read_ct(case.ct)
    to_source = np.linalg.inv(affine) @ stored.affine
    ct = np.asarray(stored.ct[...])
    worst, compared = 0.0, 0
    for z, plane in enumerate(ct):
        y, x = np.indices(plane.shape)
        at = nib.affines.apply_affine(to_source, np.stack([x, y, np.full_like(x, z)], axis=-1))
        within = ((at >= 0) & (at <= np.array(native.shape) - 1)).all(axis=-1)
        expected = np.clip(ndimage.map_coordinates(native, at[within].T, order=1), -1024, 3071)
        compared += within.sum()
        worst = max(worst, np.abs(plane[within] - expected).max(initial=0))
    return {"case": case.case_id, "ct_error": worst, "compared": compared / ct.size}


def compare_merged(case, sided, merged) -> list[dict]:
    """Dice of each side of each pair, split after merging against sided at the source."""
    one, other = atlas.open(sided)[case.case_id], atlas.open(merged)[f"{prepare.SIDED[case.dataset]}/{case.name}"]
    known = truth.annotated(case.dataset, case.labels) & one.present
    both = np.asarray(one.codes[...]).ravel() * np.int32(len(other.table)) + np.asarray(other.codes[...]).ravel()
    counts = np.bincount(both, minlength=len(one.table) * len(other.table)).reshape(len(one.table), -1)
    rows = []
    for pair, side in product(truth.PAIRS, ("left", "right")):
        name = f"{pair}_{side}"
        if name in known:
            a, b = _truth(one, name), _truth(other, name) & (name in other.available)
            dice = 2 * counts[np.ix_(a, b)].sum() / (counts[a].sum() + counts[:, b].sum())
            warnings = "; ".join(w for w in other.record.warnings if w.startswith(f"{pair}_left/right"))
            rows.append({"case": case.case_id, "structure": name, "dice": dice, "warnings": warnings})
    return rows


def side_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Pairs of which both sides are there: x of left and right in the corpus and at the source."""
    named = table.dropna(subset=["x_mm"])
    left = named[named.structure.str.contains("left") & ~named.structure.str.contains("left/right")].copy()
    left["mirror"] = left.structure.str.replace("left", "right")
    right = named.rename(columns={"structure": "mirror", "x_mm": "right_mm", "native_x_mm": "native_right_mm"})
    return left.merge(right[["case", "mirror", "right_mm", "native_right_mm"]], on=["case", "mirror"])


def explained(row) -> bool:
    """Whether a volume beyond the limits is what linear interpolation makes of so thin a structure."""
    return abs(row["ml"] - row.get("linear_ml", np.inf)) <= LINEAR_ML * row["native_ml"]


def _why(row) -> str:
    return "thin: corners rounded" if row["ml"] < row["native_ml"] else "few slices: unevenly sampled"


def exceptions(table: pd.DataFrame) -> pd.DataFrame:
    """Structures whose volume is beyond the limits for a reason given at `LINEAR_ML`, and for which."""
    rows = [r | {"why": _why(r)} for r in table.to_dict("records") if beyond_limits(r) and explained(r)]
    columns = [
        "case",
        "structure",
        "native_ml",
        "ml",
        "linear_ml",
        "nearest_ml",
        "volume_error",
        "chord_mm",
        "voxel_mm",
        "why",
    ]
    return pd.DataFrame(rows, columns=columns).sort_values("volume_error")


def faults(table: pd.DataFrame) -> list[str]:
    """Sentences about what does not hold."""
    result = [fault for row in table.to_dict("records") for fault in row_faults(row)]
    result += [
        f"{r.case} {r.structure}: left lies at x = {r.x_mm:.1f} mm, right at {r.right_mm:.1f} mm"
        for r in side_rows(table).itertuples()
        if (r.x_mm < r.right_mm) != (r.native_x_mm < r.native_right_mm) or r.native_x_mm > r.native_right_mm
    ]
    measured = comparable_surfaces(table)
    if not measured.surface_mm.mean() < measured.surface_nearest_mm.mean():
        result.append("on average the surface lies no nearer to the source's with occupancy than with nearest")
    return result


def comparable_surfaces(table: pd.DataFrame) -> pd.DataFrame:
    """Structures on which nearest is not a mere copy of the source's voxels."""
    return table[table.surface_nearest_mm > EXACT_MM]


def row_faults(row) -> list[str]:
    """Sentences about what does not hold of one structure."""
    what = f"{row['case']} {row['structure']}"
    if row.get("unexpected") is True:
        return [f"{what}: not annotated at the source, but available"]
    if row["available"] is False:
        return [f"{what}: annotated at the source, but not available"]
    result = []
    if row.get("voxels_of_absent", 0) > 0:
        result.append(f"{what}: absent at the source, but drawn")
    if not row.get("native_ml", 0) > 0:
        return result
    if row["dice"] < DICE:
        result.append(f"{what}: nearest has Dice {row['dice']:.4f} with an independent computation")
    if beyond_limits(row) and not explained(row):
        result.append(f"{what}: {row['native_ml']:.2f} ml become {row['ml']:.2f} ml ({row['volume_error']:+.1%})")
    if row["surface_mm"] > _surface_limit(row):
        result.append(f"{what}: surface {row['surface_mm']:.3f} mm off, with nearest {row['surface_nearest_mm']:.3f}")
    if row["native_ml"] > VOLUME_LIMITS[1][0] and abs(row["x_mm"] - row["native_x_mm"]) > 1.5:
        result.append(f"{what}: lies at x = {row['x_mm']:.1f} mm, at the source at {row['native_x_mm']:.1f} mm")
    if row.get("right_of_middle_mm", RIGHT_MM) < RIGHT_MM:
        result.append(f"{what}: lies {row['right_of_middle_mm']:.1f} mm to the right of the middle of the body")
    return result


def _surface_limit(row) -> float:
    if row["surface_nearest_mm"] <= EXACT_MM:
        return ROUNDING * row["voxel_mm"]
    return SURFACE_SLACK[0] * row["surface_nearest_mm"] + SURFACE_SLACK[1]
