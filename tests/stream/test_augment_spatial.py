"""Moving of patches, compared with scipy.ndimage and SimpleITK, which know nothing of torch's grids."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.interpolate import BSpline
from scipy.spatial.transform import Rotation

from atlas.errors import SpecError
from atlas.stream.augment import Augmentation, Chance, Parameters, apply_spatial
from atlas.stream.augment.coordinates import basis, rotation_matrix
from atlas.stream.augment.draw import INJECTIVE

OUTSIDE = 77  # never among the codes that `volumes` makes
NEAR = 1e-3  # voxels from a tie or a face, where float32 and float64 may disagree

ANY = Augmentation(
    rotation=Chance(0.5, -40, 40),
    scaling=Chance(0.5, 0.6, 1.6),
    per_axis=True,
    elastic=Chance(0.4, 0.2, 0.5),
    mirror=0.5,
)


def volumes(shape, seed=0, dtype=np.uint8):
    """CT of noise, the hardest to interpolate, and codes of noise over the whole range of the type."""
    rng = np.random.default_rng(seed)
    ct = rng.integers(-1024, 3072, shape).astype(np.float32)
    codes = rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    codes[codes == OUTSIDE] = 0
    codes.flat[0] = np.iinfo(dtype).max
    return ct, codes


def one(**rows):
    """Parameters of a single patch."""
    neutral = Parameters.neutral([0])
    return replace(neutral, **{k: np.array([v], getattr(neutral, k).dtype) for k, v in rows.items()})


def moved(ct, codes, parameters):
    """Apply to a single patch, numpy in and out."""
    out = apply_spatial(torch.from_numpy(ct)[None], torch.from_numpy(codes)[None], parameters, OUTSIDE)
    return out[0][0].numpy(), out[1][0].numpy()


def source(shape, rotation=(0, 0, 0), scale=(1, 1, 1), elastic=None):
    """Where each voxel comes from, float64 (3, z, y, x): scipy's rotations and splines, in (x, y, z)."""
    points = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"))
    if elastic is not None:
        points = points + field(np.asarray(elastic, float), shape)
    centre = (np.array(shape)[:, None, None, None] - 1) / 2
    turn = Rotation.from_euler("xyz", rotation[::-1], degrees=True).as_matrix()  # about fixed axes: x, then y, then z
    to_source = np.linalg.inv(np.diag(scale[::-1]) @ turn)[::-1, ::-1]
    return np.einsum("ij,jklm->iklm", to_source, points - centre) + centre


def field(control, shape):
    """Uniform cubic B-spline field by scipy: (3, z, y, x) voxels."""
    for axis, n in enumerate(shape, start=1):
        spline = BSpline(np.arange(-3, 8), np.moveaxis(control, axis, 0), 3)
        control = np.moveaxis(spline((np.arange(n) + 0.5) * 4 / n), 0, axis)
    return control


def expected(ct, codes, points):
    """CT and codes at `points`, and where each comparison is fair."""
    size = np.array(ct.shape)[:, None, None, None]
    inside = ((points >= -0.5) & (points <= size - 0.5)).all(0)
    ct_there = ndimage.map_coordinates(ct.astype(float), points, order=1, mode="nearest")
    codes_there = codes[tuple(np.clip(np.rint(points).astype(int), 0, size - 1))]
    at_face = (np.minimum(abs(points + 0.5), abs(points - size + 0.5)) < NEAR).any(0)
    at_tie = (abs(points - np.floor(points) - 0.5) < NEAR).any(0)
    return np.where(inside, ct_there, -1024), np.where(inside, codes_there, OUTSIDE), ~at_face, ~at_face & ~at_tie


def assert_as_expected(ct, codes, parameters, points):
    want_ct, want_codes, fair_ct, fair_codes = expected(ct, codes, points)
    got_ct, got_codes = moved(ct, codes, parameters)
    assert fair_ct.mean() > 0.8
    np.testing.assert_allclose(got_ct[fair_ct], want_ct[fair_ct], atol=0.2, rtol=0)  # HU, of steps of up to 4,096
    np.testing.assert_array_equal(got_codes[fair_codes], want_codes[fair_codes])
    assert got_codes.dtype == codes.dtype


angles = st.tuples(*[st.floats(-180, 180)] * 3)
scales = st.tuples(*[st.floats(0.5, 2)] * 3)
shapes = st.tuples(*[st.integers(2, 20)] * 3)


@given(shape=shapes, rotation=angles, scale=scales, seed=st.integers(0, 99))
def test_affine_maps_are_those_of_scipy(shape, rotation, scale, seed):
    ct, codes = volumes(shape, seed, np.uint16)
    points = source(shape, rotation, scale)
    want_ct, want_codes, fair_ct, fair_codes = expected(ct, codes, points)
    got_ct, got_codes = moved(ct, codes, one(rotation=rotation, scale=scale))
    np.testing.assert_allclose(got_ct[fair_ct], want_ct[fair_ct], atol=0.2, rtol=0)
    np.testing.assert_array_equal(got_codes[fair_codes], want_codes[fair_codes])


@pytest.mark.parametrize("shape", [(24, 31, 18), (40, 20, 33)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_an_oblique_affine_map_of_a_patch_that_is_no_cube(shape, dtype):
    ct, codes = volumes(shape, 1, dtype if dtype != np.int32 else np.uint16)
    codes = codes.astype(dtype)
    rotation, scale = (25.0, -14.0, 33.0), (1.2, 0.8, 0.95)
    assert_as_expected(ct, codes, one(rotation=rotation, scale=scale), source(shape, rotation, scale))


def test_affine_transform_of_scipy_agrees():
    ct, codes = volumes((22, 28, 19), 2)
    rotation, scale = (12.0, 21.0, -30.0), (1.3, 0.9, 1.1)
    turn = Rotation.from_euler("xyz", rotation[::-1], degrees=True).as_matrix()[::-1, ::-1]
    matrix = turn.T @ np.diag(1 / np.array(scale))
    centre = (np.array(ct.shape) - 1) / 2
    offset = centre - matrix @ centre
    got_ct, got_codes = moved(ct, codes, one(rotation=rotation, scale=scale))
    want_ct = ndimage.affine_transform(ct.astype(float), matrix, offset, order=1, mode="nearest")
    want_codes = ndimage.affine_transform(codes, matrix, offset, order=0, mode="nearest")
    _, _, fair_ct, fair_codes = expected(ct, codes, source(ct.shape, rotation, scale))
    inside = got_codes != OUTSIDE
    assert 0.5 < inside.mean() < 1
    np.testing.assert_allclose(got_ct[inside & fair_ct], want_ct[inside & fair_ct], atol=0.2, rtol=0)
    np.testing.assert_array_equal(got_codes[inside & fair_codes], want_codes[inside & fair_codes])


def simpleitk(ct, codes, rotation, scale, elastic):
    """The same by SimpleITK, whose images reach half a voxel past their centres and are air beyond."""
    size = np.array(ct.shape[::-1], float)  # (x, y, z), as everything below
    turn = Rotation.from_euler("xyz", rotation[::-1], degrees=True).as_matrix()
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((turn.T @ np.diag(1 / np.array(scale[::-1]))).ravel().tolist())
    affine.SetCenter(((size - 1) / 2).tolist())
    spline = sitk.BSplineTransform(3, 3)
    spline.SetTransformDomainOrigin([-0.5] * 3)
    spline.SetTransformDomainPhysicalDimensions((size + 1e-9).tolist())
    spline.SetTransformDomainMeshSize([4, 4, 4])
    spline.SetParameters(np.asarray(elastic, float)[::-1].ravel().tolist())
    both = sitk.CompositeTransform([affine, spline])  # the last acts first
    results = []
    for volume, method, beyond in ((ct, sitk.sitkLinear, -1024), (codes, sitk.sitkNearestNeighbor, OUTSIDE)):
        image = sitk.GetImageFromArray(volume)
        results.append(sitk.GetArrayFromImage(sitk.Resample(image, image, both, method, beyond)))
    return results


@pytest.mark.parametrize("seed", range(4))
def test_rotation_scale_and_elastic_field_together_are_those_of_simpleitk(seed):
    rng = np.random.default_rng(seed)
    shape = [(26, 33, 20), (32, 32, 32), (18, 40, 25), (24, 20, 36)][seed]
    rotation, scale = rng.uniform(-35, 35, 3), rng.uniform(0.8, 1.5, 3)
    elastic = rng.uniform(-2, 2, (3, 7, 7, 7)).astype(np.float32)
    ct, codes = volumes(shape, seed, np.uint16)
    want_ct, want_codes = simpleitk(ct, codes, rotation, scale, elastic)
    got_ct, got_codes = moved(ct, codes, one(rotation=rotation, scale=scale, elastic=elastic))
    _, _, fair_ct, fair_codes = expected(ct, codes, source(shape, rotation, scale, elastic))
    np.testing.assert_allclose(got_ct[fair_ct], want_ct[fair_ct], atol=0.5, rtol=0)
    np.testing.assert_array_equal(got_codes[fair_codes], want_codes[fair_codes])
    assert 0 < (got_codes == OUTSIDE).mean() < 0.6


@given(shape=shapes, seed=st.integers(0, 99), strength=st.floats(0, 0.4))
@settings(max_examples=30)
def test_elastic_fields_are_those_of_scipy(shape, seed, strength):
    elastic = np.random.default_rng(seed).uniform(-1, 1, (3, 7, 7, 7)) * strength * min(shape) / 4
    elastic = elastic.astype(np.float32)
    ct, codes = volumes(shape, seed)
    points = source(shape, elastic=elastic)
    want_ct, want_codes, fair_ct, fair_codes = expected(ct, codes, points)
    got_ct, got_codes = moved(ct, codes, one(elastic=elastic))
    np.testing.assert_allclose(got_ct[fair_ct], want_ct[fair_ct], atol=0.2, rtol=0)
    np.testing.assert_array_equal(got_codes[fair_codes], want_codes[fair_codes])


@pytest.mark.parametrize("count", [1, 2, 7, 96])
def test_spline_weights_sum_to_one_and_a_constant_field_is_a_shift(count):
    assert basis(count).shape == (7, count)
    np.testing.assert_allclose(basis(count).sum(0), 1, atol=1e-6)


def test_a_constant_field_shifts_by_whole_voxels():
    ct, codes = volumes((12, 9, 10))
    elastic = np.zeros((3, 7, 7, 7))
    elastic[0], elastic[2] = 2, -1  # what is shown at z comes from z + 2
    got_ct, got_codes = moved(ct, codes, one(elastic=elastic))
    np.testing.assert_allclose(got_ct[:-2, :, 1:], ct[2:, :, :-1], atol=0.1)
    np.testing.assert_array_equal(got_codes[:-2, :, 1:], codes[2:, :, :-1])
    assert (got_codes[-2:] == OUTSIDE).all()
    assert (got_ct[-2:] == -1024).all()


def test_the_strongest_field_that_is_drawn_does_not_fold():
    shape = (32, 24, 40)
    strongest = replace(Augmentation.none(), elastic=Chance(1, INJECTIVE * 6, INJECTIVE * 6)).draw(0, range(20), shape)
    for elastic in strongest.elastic:
        worst = np.sign(elastic) * INJECTIVE * 6
        points = source(shape, elastic=worst)
        slopes = np.stack([np.stack(np.gradient(p)) for p in points]).reshape(3, 3, -1)
        assert np.linalg.det(np.moveaxis(slopes, -1, 0)).min() > 0


@pytest.mark.parametrize(
    ("rotation", "start", "end"),
    [((20, 0, 0), (0, 0, 1), (0, 1, 0)), ((0, 20, 0), (1, 0, 0), (0, 0, 1)), ((0, 0, 20), (0, 1, 0), (1, 0, 0))],
    ids=["about z, x to y", "about y, z to x", "about x, y to z"],
)
def test_positive_angles_turn_as_documented(rotation, start, end):
    codes = np.zeros((41, 41, 41), np.uint8)
    codes[tuple(20 + 15 * np.array(start))] = 1
    codes = ndimage.grey_dilation(codes, size=3)
    _, turned = moved(np.zeros(codes.shape, np.float32), codes, one(rotation=rotation))
    offset = ndimage.center_of_mass(turned == 1) - np.array([20, 20, 20])
    rad = np.radians(20)
    np.testing.assert_allclose(offset, 15 * (np.cos(rad) * np.array(start) + np.sin(rad) * np.array(end)), atol=0.4)
    np.testing.assert_allclose(rotation_matrix(np.array(rotation, float)) @ start, offset / 15, atol=0.03)


def test_scale_above_one_makes_things_grow_along_that_axis():
    codes = np.zeros((40, 40, 40), np.uint8)
    codes[15:25, 15:25, 15:25] = 1
    _, grown = moved(np.zeros(codes.shape, np.float32), codes, one(scale=(2, 1, 0.5)))
    z, y, x = np.nonzero(grown == 1)
    assert [np.ptp(z) + 1, np.ptp(y) + 1] == [20, 10]
    assert np.ptp(x) + 1 in {4, 5, 6}


def test_scale_comes_after_rotation():
    codes = np.zeros((21, 81, 81), np.uint8)
    codes[8:13, 38:43, 55:60] = 1  # on the x axis, turned by 90 degrees onto y, which is doubled
    _, turned = moved(np.zeros(codes.shape, np.float32), codes, one(rotation=(90, 0, 0), scale=(1, 2, 1)))
    np.testing.assert_allclose(ndimage.center_of_mass(turned == 1), (10, 40 + 2 * 17, 40), atol=0.6)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_quarter_turns_are_exact_and_turn_like_rotation(turns, dtype):
    ct, codes = volumes((7, 12, 12), 3, np.uint16 if dtype != np.uint8 else np.uint8)
    codes = codes.astype(dtype)
    got_ct, got_codes = moved(ct, codes, one(quarter_turns=turns))
    for got, volume in ((got_ct, ct), (got_codes, codes)):
        want = volume
        for _ in range(turns):
            want = want.transpose(0, 2, 1)[:, :, ::-1]  # the voxel at (y, x) goes to (x, last - y)
        np.testing.assert_array_equal(got, want)
        assert got.dtype == volume.dtype
    rotated_ct, rotated_codes = moved(ct, codes, one(rotation=(90 * turns if turns < 3 else -90, 0, 0)))
    np.testing.assert_array_equal(rotated_codes, got_codes)
    np.testing.assert_allclose(rotated_ct, got_ct, atol=0.2)


def test_two_quarter_turns_of_a_patch_that_is_not_square():
    ct, codes = volumes((4, 6, 9))
    got_ct, got_codes = moved(ct, codes, one(quarter_turns=2))
    np.testing.assert_array_equal(got_ct, ct[:, ::-1, ::-1])
    np.testing.assert_array_equal(got_codes, codes[:, ::-1, ::-1])
    with pytest.raises(SpecError, match="only square"):
        moved(ct, codes, one(quarter_turns=1))


@given(shape=shapes, dtype=st.sampled_from([np.uint8, np.uint16, np.int32]))
def test_mirroring_flips_x_exactly(shape, dtype):
    ct, codes = volumes(shape, 4, np.uint8)
    got_ct, got_codes = moved(ct, codes.astype(dtype), one(mirror=True))
    np.testing.assert_array_equal(got_ct, ct[:, :, ::-1])
    np.testing.assert_array_equal(got_codes, codes[:, :, ::-1].astype(dtype))


def test_resampling_then_turning_then_mirroring():
    ct, codes = volumes((9, 14, 14), 5, np.uint16)
    first = one(rotation=(10, 5, -7), scale=(1.2, 1.2, 1.2))
    step = moved(*moved(*moved(ct, codes, first), one(quarter_turns=1)), one(mirror=True))
    at_once = moved(ct, codes, replace(first, quarter_turns=np.array([1]), mirror=np.array([True])))
    np.testing.assert_array_equal(at_once[0], step[0])
    np.testing.assert_array_equal(at_once[1], step[1])


def test_patches_that_nothing_happens_to_are_the_same_bits():
    ct = torch.tensor([float("nan"), -0.0, 5000.25, 1e-30] * 6).reshape(1, 2, 3, 4).repeat(3, 1, 1, 1)
    codes = torch.arange(72, dtype=torch.int32).reshape(3, 2, 3, 4).to(torch.uint16)
    same = apply_spatial(ct, codes, Parameters.neutral([1, 2, 3]), 65_535)
    assert same[0] is ct
    assert same[1] is codes
    middle = replace(Parameters.neutral([1, 2, 3]), scale=np.array([[1, 1, 1], [2, 1, 1], [1, 1, 1.0]]))
    before = ct.clone(), codes.clone()
    got_ct, got_codes = apply_spatial(ct, codes, middle, 65_535)
    for b in (0, 2):
        assert got_ct[b].numpy().tobytes() == ct[b].numpy().tobytes()
        assert got_codes[b].numpy().tobytes() == codes[b].numpy().tobytes()
    assert got_ct[1].numpy().tobytes() != ct[1].numpy().tobytes()
    assert ct.numpy().tobytes() == before[0].numpy().tobytes(), "the input is left alone"
    assert torch.equal(codes.view(torch.int16), before[1].view(torch.int16))


def test_every_code_of_16_bits_survives_interpolation():
    codes = np.arange(2**16, dtype=np.uint16).reshape(32, 32, 64)
    _, got = moved(np.zeros(codes.shape, np.float32), codes, one(elastic=np.full((3, 7, 7, 7), 0.2)))
    np.testing.assert_array_equal(got, codes)


def test_what_comes_from_outside_is_air_and_unknown():
    ct, codes = np.full((16, 16, 16), 50, np.float32), np.ones((16, 16, 16), np.uint8)
    got_ct, got_codes = moved(ct, codes, one(scale=(0.5, 0.5, 0.5)))
    inside = np.zeros(codes.shape, bool)
    inside[4:12, 4:12, 4:12] = True
    np.testing.assert_array_equal(got_codes, np.where(inside, 1, OUTSIDE))
    np.testing.assert_array_equal(got_ct, np.where(inside, 50, -1024))  # no voxel is half air


@given(index=st.lists(st.integers(0, 500), min_size=1, max_size=4), shape=st.tuples(*[st.integers(6, 14)] * 3))
@settings(max_examples=25)
def test_a_patch_does_not_depend_on_its_batch_and_replays_give_the_same_bits(index, shape):
    parameters = ANY.draw(11, index, shape)
    ct, codes = (torch.from_numpy(np.stack(v)) for v in zip(*(volumes(shape, i) for i in index), strict=True))
    together = apply_spatial(ct, codes, parameters, OUTSIDE)
    again = apply_spatial(ct, codes, Parameters.from_dict(ANY.draw(11, index, shape).as_dict()), OUTSIDE)
    for b in range(len(index)):
        alone = apply_spatial(ct[b : b + 1], codes[b : b + 1], parameters[b], OUTSIDE)
        for one_of_batch, repeated, single in zip(together, again, alone, strict=True):
            assert torch.equal(one_of_batch[b], single[0])
            assert torch.equal(one_of_batch[b], repeated[b])


def test_moving_touches_no_global_generator():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    moved(*volumes((8, 8, 8)), ANY.draw(0, [3], (8, 8, 8)))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("ct", "codes", "rows", "code", "says"),
    [
        (torch.zeros(2, 4, 4, 4), torch.zeros(2, 4, 4, 4, dtype=torch.uint8), 1, 9, "parameters of 1 patches"),
        (torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 5, dtype=torch.uint8), 1, 9, "not of one batch"),
        (torch.zeros(1, 4, 4, 4).half(), torch.zeros(1, 4, 4, 4, dtype=torch.uint8), 1, 9, "CT is float32"),
        (torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4), 1, 9, "codes are integers"),
        (torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4, dtype=torch.uint8), 1, 256, "code 256 .* 0 to 255"),
        (torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4, dtype=torch.uint8), 1, -1, "code -1"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(ct, codes, rows, code, says):
    with pytest.raises(SpecError, match=says):
        apply_spatial(ct, codes, Parameters.neutral(range(rows)), code)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_a_gpu_gives_what_the_cpu_gives(dtype):
    parameters = replace(ANY, quarter_turns=0.5).draw(2, range(16), (24, 24, 24))
    ct, codes = (np.stack(v) for v in zip(*(volumes((24, 24, 24), i, np.uint8) for i in range(16)), strict=True))
    ct, codes = torch.from_numpy(ct), torch.from_numpy(codes.astype(dtype))
    on_cpu = apply_spatial(ct, codes, parameters, OUTSIDE)
    on_gpu = apply_spatial(ct.cuda(), codes.cuda(), parameters, OUTSIDE)
    different = on_cpu[1].int() != on_gpu[1].cpu().int()
    assert different.float().mean() < 1e-3, "nearest voxels may differ at ties alone"
    torch.testing.assert_close(on_gpu[0].cpu()[~different], on_cpu[0][~different], atol=0.2, rtol=0)
