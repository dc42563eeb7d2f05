"""Label resampling against a slow one-hot reference; ties, survival, volumes and surfaces."""

import zipfile
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import label, map_coordinates

from atlas.harmonize import occupancy, survival, thin
from atlas.harmonize.grid import Grid, canonical_grid
from atlas.harmonize.occupancy import resample_labels

ORIENTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
REALDATA = Path(__file__).parents[3] / "shared" / "realdata"
EVERYWHERE = np.ones((3, 3, 3))
OBLIQUE = np.array([[0.9, -0.3, 0.316], [0.316, 0.949, 0.0], [-0.3, 0.0999, 0.949]])


def full(crop, grid):
    values = np.zeros(grid.shape, dtype=crop.values.dtype)
    values[tuple(slice(a, a + n) for a, n in zip(crop.start, crop.values.shape, strict=True))] = crop.values
    return values


def resampled(data, affine, grid, method="occupancy"):
    return full(resample_labels(data, affine, grid, method=method), grid)


def source_coordinates(affine, grid):
    index = np.indices(grid.shape).reshape(3, -1)
    ras = grid.affine[:3, :3] @ index[::-1] + grid.affine[:3, 3:]
    inverse = np.linalg.inv(affine)
    return (inverse[:3, :3] @ ras + inverse[:3, 3:]).reshape(3, *grid.shape)


def weight_of(mask, affine, grid, at=None):
    """Linearly interpolated indicator by scipy; 0 outside the outer edges."""
    at = source_coordinates(affine, grid) if at is None else at
    limit = np.array(mask.shape)[:, None, None, None] - 0.5
    outside = ((at < -0.5 - 1e-6) | (at > limit + 1e-6)).any(axis=0)
    return np.where(outside, 0, map_coordinates(mask.astype(float), at, order=1, mode="nearest"))


def reference(data, affine, grid):
    """Winner of the one-hot weights, and the margin to the second."""
    numbers = np.unique(data[data > 0])
    weights = [weight_of(data == number, affine, grid) for number in numbers]
    weights = np.stack([1 - np.sum(weights, axis=0), *weights])
    ordered = np.sort(weights, axis=0)
    return np.array([0, *numbers])[weights.argmax(axis=0)], ordered[-1] - ordered[-2]


def store(data, affine, permutation, signs):
    transform = np.stack([np.argsort(permutation), np.array(signs)], axis=1)
    stored = nib.orientations.apply_orientation(data, transform)
    return stored, affine @ nib.orientations.inv_ornt_aff(transform, data.shape)


def oblique(spacing):
    rotation, _ = np.linalg.qr(OBLIQUE)
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = (10, -20, 30)
    return affine


def blobs(shape, count, seed):
    """Touching convex cells of several labels with background around: a small anatomy."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    seeds = rng.uniform(0, shape, (count, 3))
    distance = np.linalg.norm(at[..., None, :] - seeds, axis=-1)
    values = rng.permutation(np.arange(1, count + 1))[distance.argmin(axis=-1)]
    return np.where(distance.min(axis=-1) < min(shape) / 3, values, 0).astype(np.uint8)


def ellipsoid(radii, spacing, centre=(0.0, 0.0, 0.0), margin=6.0):
    """Label volume (i, j, k) of an analytic ellipsoid (mm), one voxel's centre at -(radii + margin)."""
    low = -np.asarray(radii) - margin
    count = np.ceil(-2 * low / spacing).astype(int)
    axes = [low[a] + spacing[a] * np.arange(count[a]) for a in range(3)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    mask = sum(((p - c) / r) ** 2 for p, c, r in zip((x, y, z), centre, radii, strict=True)) < 1
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = low
    return mask.astype(np.uint8), affine


# ---------------------------------------------------------------- against the reference


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 5.0), (1.1, 0.9, 2.3), (0.75, 0.75, 0.75), (3.1, 2.9, 3.3)])
@pytest.mark.parametrize("tilted", [False, True])
def test_largest_weight_wins(spacing, tilted):
    data = blobs((26, 22, 18), 9, seed=1)
    affine = oblique(spacing) if tilted else np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    grid = canonical_grid(data.shape, affine)
    got, (expected, margin) = resampled(data, affine, grid), reference(data, affine, grid)
    at, size = source_coordinates(affine, grid), np.array(data.shape)[:, None, None, None]
    edge = (np.minimum(np.abs(at + 0.5), np.abs(at - size + 0.5)) < 0.06).any(axis=0)  # in or out: a tolerance
    differ = (got != expected) & (margin > 2e-4) & ~(edge & tilted)
    assert not differ.any()


@pytest.mark.parametrize("spacing", [(0.75, 0.75, 0.75), (0.75, 1.5, 3.0), (0.8, 0.7, 2.5)])
def test_all_orientations_agree(spacing):
    data, affine = blobs((16, 14, 12), 7, seed=2), np.diag([*spacing, 1.0])
    grid = canonical_grid(data.shape, affine)
    expected = resampled(data, affine, grid)
    nearest = resampled(data, affine, grid, "nearest")
    for permutation, signs in ORIENTATIONS:
        stored = store(data, affine, permutation, signs)
        np.testing.assert_array_equal(resampled(*stored, grid), expected)
        np.testing.assert_array_equal(resampled(*stored, grid, "nearest"), nearest)


def test_slabs_and_vote_chunks_leave_no_trace(monkeypatch):
    data, affine = blobs((20, 22, 24), 9, seed=3), np.diag([0.5, 0.8, 2.0, 1.0])
    data[np.random.default_rng(0).random(data.shape) < 0.03] = 20  # specks and chains of specks
    data[np.arange(20), np.arange(20), np.arange(20)] = 30  # a vessel through all slabs
    grid = canonical_grid(data.shape, affine)
    expected = resampled(data, affine, grid)
    monkeypatch.setattr(occupancy, "SLAB_VOXELS", 500)
    monkeypatch.setattr(occupancy, "VOTE_VOXELS", 100)
    monkeypatch.setattr(thin, "SLAB_VOXELS", 500)
    monkeypatch.setattr(survival, "PAIRS", 100)
    np.testing.assert_array_equal(resampled(data, affine, grid), expected)


def test_nearest_equals_simpleitk():
    data = blobs((30, 28, 14), 12, seed=4)
    affine = np.diag([0.83, 0.91, 3.3, 1.0])
    grid = canonical_grid(data.shape, affine)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing((0.83, 0.91, 3.3))
    like = sitk.Image(*grid.shape[::-1], sitk.sitkUInt8)
    like.SetSpacing([1.5] * 3)
    like.SetOrigin(grid.origin)
    expected = sitk.GetArrayFromImage(sitk.Resample(image, like, sitk.Transform(), sitk.sitkNearestNeighbor))
    np.testing.assert_array_equal(resampled(data, affine, grid, "nearest"), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", ">u2"])
@pytest.mark.parametrize("method", ["occupancy", "nearest"])
def test_types_and_large_values(dtype, method):
    data = blobs((12, 13, 14), 5, seed=5)
    affine = np.diag([1.0, 1.2, 2.0, 1.0])
    grid = canonical_grid(data.shape, affine)
    top = np.iinfo(dtype).max
    table = np.array([0, 1, top, top - 1, 7, 200], dtype=dtype)
    crop = resample_labels(table[data], affine, grid, method=method)
    assert crop.values.dtype == np.dtype(dtype)
    # which number a label has decides nothing here: the spacing leaves no exact ties
    np.testing.assert_array_equal(full(crop, grid), table[resampled(data, affine, grid, method)])


def test_empty_and_full_volumes():
    grid = canonical_grid((6, 6, 6), np.diag([2.0, 2.0, 2.0, 1.0]))
    empty = resample_labels(np.zeros((6, 6, 6), np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]), grid)
    assert empty.values.size == 0
    solid = resample_labels(np.full((6, 6, 6), 3, np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]), grid)
    assert (full(solid, grid) == 3).all()


def test_a_structure_cut_by_the_border_reaches_the_outer_edge():
    data = np.zeros((8, 8, 8), np.uint8)
    data[:4] = 1
    got = resampled(data, np.diag([3.0, 3.0, 3.0, 1.0]), canonical_grid(data.shape, np.diag([3.0, 3.0, 3.0, 1.0])))
    assert (got[:, :, :8] == 1).all()
    assert (got[:, :, 8:] == 0).all()


def test_outside_a_cropped_label_volume_is_background():
    grid = Grid((20, 20, 20), 1.5, (0.0, 0.0, 0.0))
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = (9.0, 9.0, 9.0)
    crop = resample_labels(np.full((5, 5, 5), 9, np.uint8), affine, grid)
    expected = np.zeros(grid.shape, np.uint8)
    expected[6:11, 6:11, 6:11] = 9
    np.testing.assert_array_equal(full(crop, grid), expected)


# ---------------------------------------------------------------- ties


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("below", [0, 1, 2])
@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_plane_at_the_very_midpoint_is_shared_evenly(axis, below, above):
    data = np.full((20, 20, 20), below, np.uint8)
    data[(slice(None),) * axis + (slice(9, None),)] = above  # target voxel 4 straddles voxels 8 and 9
    grid = canonical_grid(data.shape, np.diag([0.75, 0.75, 0.75, 1.0]))
    got = np.moveaxis(resampled(data, np.diag([0.75, 0.75, 0.75, 1.0]), grid), 2 - axis, 0)
    assert (got[:4] == below).all()
    assert (got[5:] == above).all()
    if below != above:
        assert np.count_nonzero(got[4] == below) == np.count_nonzero(got[4] == above) == 50


def test_spheres_at_two_to_one_keep_their_volume_on_average():
    """A ball and the same hole in a label: smoothing shrinks both alike, a bias of ties would tell them apart."""
    rng = np.random.default_rng(7)
    ball, hole = [], []
    for _ in range(40):
        data, affine = ellipsoid((12, 12, 12), (0.75, 0.75, 0.75), rng.uniform(-2, 2, 3), margin=4.5)
        grid = canonical_grid(data.shape, affine)
        size = np.count_nonzero(data) / 8
        ball.append(np.count_nonzero(resampled(data, affine, grid)) / size - 1)
        hole.append(np.count_nonzero(resampled(1 - data, affine, grid) == 0) / size - 1)
    assert abs(np.mean(ball)) < 0.005
    assert abs(np.mean(ball) - np.mean(hole)) < 0.001
    assert np.abs(ball).max() < 0.02


def test_relabelling_permutes_the_result():
    data = blobs((24, 24, 24), 10, seed=8)
    table = np.concatenate([[0], np.random.default_rng(0).permutation(np.arange(1, 11))]).astype(np.uint8)
    affine = np.diag([0.75, 0.75, 0.75, 1.0])  # every centre is a corner of eight voxels
    grid = canonical_grid(data.shape, affine)
    first, second = table[resampled(data, affine, grid)], resampled(table[data], affine, grid)
    _, margin = reference(data, affine, grid)
    np.testing.assert_array_equal(first[margin > 2e-4], second[margin > 2e-4])
    assert np.mean(first[margin <= 2e-4] != second[margin <= 2e-4]) < 0.03  # tied even beside the centre


def test_ties_between_labels_do_not_follow_the_numbering():
    data = blobs((40, 40, 40), 2, seed=11)
    affine = np.diag([0.75, 0.75, 0.75, 1.0])
    grid = canonical_grid(data.shape, affine)
    volume = [
        np.count_nonzero(resampled(d, affine, grid) == n)
        for d in (data, np.array([0, 2, 1], np.uint8)[data])
        for n in (1, 2)
    ]
    assert abs(volume[0] - volume[3]) <= 0.003 * volume[0]
    assert abs(volume[1] - volume[2]) <= 0.003 * volume[1]
    for number, got in ((1, volume[0]), (2, volume[1])):
        assert abs(got * 8 / np.count_nonzero(data == number) - 1) < 0.015


# ---------------------------------------------------------------- survival


def components_of(data):
    """Number and mask of each 26-connected component of each label."""
    for number in np.unique(data[data > 0]):
        components, count = label(data == number, EVERYWHERE)
        yield from ((number, components == component) for component in range(1, count + 1))


def survives(data, affine, grid, got, *, crowded=0.0):
    """Every component has a target voxel of its label where it has weight, or the nearest to it.

    `crowded`: how many target voxels further a component may have to go for one nobody else needs.
    """
    at = source_coordinates(affine, grid)
    scale = np.linalg.inv(grid.affine[:3, :3]) @ affine[:3, :3]  # source steps to target steps
    for number, mask in components_of(data):
        assert (got == number).any(), number
        if (got[weight_of(mask, affine, grid, at) > 1e-6] == number).any():
            continue
        apart = at[:, None] - np.argwhere(mask).T[:, :, None, None, None]
        away = np.linalg.norm(np.einsum("ab,bnzyx->anzyx", scale, apart), axis=0).min(axis=0)
        assert away[got == number].min() <= away.min() + 1e-6 + crowded, number


@pytest.mark.parametrize(
    "spacing", [(0.75, 0.75, 0.75), (0.4, 0.4, 0.5), (0.7, 0.7, 5.0), (3.0, 3.0, 3.0), (0.5, 2.0, 1.5)]
)
@pytest.mark.parametrize("around", [0, 1])
@pytest.mark.parametrize("size", [1, 3])
def test_lesions_of_one_and_three_voxels_survive(spacing, around, size):
    affine = np.diag([*spacing, 1.0])
    for place in range(4, 9):
        data = np.full((16, 16, 16), around, np.uint8)
        data[place : place + size, place, place + 1] = 2
        grid = canonical_grid(data.shape, affine)
        got = resampled(data, affine, grid)
        weight = weight_of(data == 2, affine, grid)
        assert (got == 2).any()
        if weight.max() > 0:
            assert weight[got == 2].max() >= weight.max() - 1e-6


def test_each_speck_of_a_label_survives_beside_its_organ():
    data = np.zeros((40, 40, 40), np.uint8)
    data[2:20] = 1
    for at in [(21, 5, 5), (24, 20, 20), (30, 33, 7), (30, 35, 7)]:
        data[at] = 1
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    grid = canonical_grid(data.shape, affine)
    survives(data, affine, grid, resampled(data, affine, grid))


def test_many_specks_in_one_target_voxel_each_get_a_place():
    data = np.zeros((30, 30, 30), np.uint8)
    data[14, 14, 14], data[15, 15, 15], data[14, 15, 16], data[16, 14, 15] = 1, 2, 3, 4
    affine = np.diag([0.3, 0.3, 0.3, 1.0])
    grid = canonical_grid(data.shape, affine)
    assert set(np.unique(resampled(data, affine, grid))) == {0, 1, 2, 3, 4}


def test_a_lesion_does_not_take_the_last_voxel_of_another():
    data = np.zeros((12, 12, 12), np.uint8)
    data[4:6, 4:6, 4:6] = 1  # exactly one target voxel
    data[4, 4, 4] = 2
    affine = np.diag([0.75, 0.75, 0.75, 1.0])
    grid = canonical_grid(data.shape, affine)
    assert set(np.unique(resampled(data, affine, grid))) == {0, 1, 2}


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_random_volumes(data):
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    spacing = np.array(data.draw(st.tuples(*[st.sampled_from([0.4, 0.5, 0.75, 0.83, 1.1, 1.5, 2.7, 3.0, 5.0])] * 3)))
    seed, density = data.draw(st.integers(0, 10**6)), data.draw(st.sampled_from([0.02, 0.05, 0.3]))
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 4, shape) * (rng.random(shape) < density)
    values = (coarse * rng.choice([1, 60])).astype(np.uint8)
    if data.draw(st.booleans()):
        values = values.repeat(2, axis=0).repeat(3, axis=2)
    affine = oblique(spacing) if data.draw(st.booleans()) else np.diag([*spacing, 1.0])
    grid = canonical_grid(values.shape, affine)
    assume(np.prod(grid.shape) >= 8 * len(list(components_of(values))))
    got = resampled(values, affine, grid)
    assert set(np.unique(got)) <= {0, *np.unique(values)}
    survives(values, affine, grid, got, crowded=2.5)
    stored = store(values, affine, *data.draw(st.sampled_from(ORIENTATIONS)))
    np.testing.assert_array_equal(resampled(*stored, grid), got)


# ---------------------------------------------------------------- volumes and surfaces


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 5.0), (0.8, 0.8, 1.0), (0.75, 0.75, 0.75), (3.0, 3.0, 3.0)])
@pytest.mark.parametrize("radii", [(11, 11, 11), (20, 14, 17), (30, 25, 35)])
def test_volumes_of_ellipsoids(spacing, radii):
    rng = np.random.default_rng(1)
    analytic = 4 / 3 * np.pi * np.prod(radii)
    change, excess = [], []
    for _ in range(4):
        data, affine = ellipsoid(radii, np.array(spacing), rng.uniform(-2, 2, 3), margin=9)
        got = np.count_nonzero(resampled(data, affine, canonical_grid(data.shape, affine))) * 1.5**3
        change.append(got / (np.count_nonzero(data) * np.prod(spacing)) - 1)
        excess.append(got / analytic - 1)
    print(spacing, radii, np.round(change, 4), np.round(excess, 4))
    assert np.abs(change).max() < 0.03
    assert np.abs(np.mean(excess)) < 0.03


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 5.0), (0.8, 0.8, 2.5), (3.0, 3.0, 3.0), (2.0, 2.0, 2.0)])
def test_surfaces_lie_nearer_than_those_of_nearest(spacing):
    rng = np.random.default_rng(2)
    errors = {"occupancy": [], "nearest": []}
    for _ in range(4):
        radius, centre = rng.uniform(15, 25), rng.uniform(-2, 2, 3)
        data, affine = ellipsoid((radius,) * 3, np.array(spacing), centre, margin=9)
        grid = canonical_grid(data.shape, affine)
        index = np.indices(grid.shape).reshape(3, -1)[::-1]
        ras = grid.affine[:3, :3] @ index + grid.affine[:3, 3:]
        depth = (radius - np.linalg.norm(ras - centre[:, None], axis=0)).reshape(grid.shape)
        for method, error in errors.items():
            mask = resampled(data, affine, grid, method) > 0
            # depth beyond which a voxel is on the wrong side of the true surface
            error.append(np.abs(depth)[mask != (depth > 0)].sum() / np.count_nonzero(np.abs(depth) < 1))
    assert np.mean(errors["occupancy"]) < np.mean(errors["nearest"])


# ---------------------------------------------------------------- real labels


def load_labels(path):
    image = nib.load(path)
    return np.rint(np.asanyarray(image.dataobj)).astype(np.uint8), image.affine


def volumes(values, voxel_ml):
    return np.bincount(values.ravel(order="K"), minlength=256)[1:] * voxel_ml


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name",
    [
        "kits19/data/case_00160/segmentation.nii.gz",
        "amos/labelsTr/amos_0001.nii.gz",
        "panorama/manual_labels/100226_00001.nii.gz",
        "word/WORD_V0.1.0_labelsTs.zip",
    ],
)
def test_real_volumes(name, tmp_path):
    path = REALDATA / name
    if not path.exists():
        pytest.skip(f"real scans are absent: {path}")
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            member = next(m for m in archive.namelist() if m.endswith("/word_0043.nii.gz") and "__MACOSX" not in m)
            path = Path(archive.extract(member, tmp_path))
    data, affine = load_labels(path)
    grid = canonical_grid(data.shape, affine)
    before = volumes(data, abs(np.linalg.det(affine[:3, :3])) / 1000)
    after = volumes(resample_labels(data, affine, grid).values, 1.5**3 / 1000)
    present = before > 0
    assert (after[present] > 0).all()
    change = np.abs(after[present] / before[present] - 1)
    limit = np.select([before[present] > 5, before[present] > 1], [0.03, 0.06], 1.0)
    assert (change < limit).all(), np.flatnonzero(present)[change >= limit] + 1


@pytest.mark.realdata
def test_real_thin_structures_at_3_mm_lose_only_what_curvature_takes():
    path = REALDATA / "totalsegmentator/example_seg_fast_force_split.nii.gz"
    if not path.exists():
        pytest.skip(f"real scans are absent: {path}")
    data, affine = load_labels(path)
    grid = canonical_grid(data.shape, affine)
    before = volumes(data, 0.027)
    after = volumes(resample_labels(data, affine, grid).values, 1.5**3 / 1000)
    change = after[before > 1] / before[before > 1] - 1
    assert np.median(change) > -0.02
    assert change.min() > -0.12  # ribs
    assert np.abs(change[before[before > 1] > 25]).max() < 0.03
