"""Affines that are sound, nearly sound, and impossible."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import polar
from scipy.spatial.transform import Rotation

from atlas.errors import GeometryError
from atlas.ingest import geometry

SHAPE = (100, 80, 60)


def affine_of(direction, spacing=(0.8, 0.7, 2.5), origin=(-120.0, 30.0, 900.0)):
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(direction) * spacing
    affine[:3, 3] = origin
    return affine


def sheared(degrees):
    """The third axis leans in the plane of the second and third, as with a tilted gantry."""
    angle = np.radians(degrees)
    return np.array([[1, 0, 0], [0, 1, np.sin(angle)], [0, 0, np.cos(angle)]])


def corners(affine, shape=SHAPE):
    return np.array([affine @ [*corner, 1] for corner in product(*((0, n - 1) for n in shape))])


def test_all_48_orientations_come_back_as_they_are():
    for axes in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            affine = affine_of(np.eye(3)[:, axes] * signs)
            found, warning = geometry.repaired(affine, SHAPE)
            assert np.array_equal(found, affine)
            assert warning is None


@pytest.mark.parametrize("mirror", [1, -1])
def test_an_oblique_volume_is_left_alone_and_keeps_its_handedness(mirror):
    direction = Rotation.from_euler("xyz", (16.5, -20, 70), degrees=True).as_matrix() * [mirror, 1, 1]
    affine = affine_of(direction)
    found, warning = geometry.repaired(affine, SHAPE)
    assert warning is None
    assert np.allclose(found, affine, atol=1e-9)
    assert np.sign(np.linalg.det(found[:3, :3])) == mirror


def test_single_precision_headers_are_squared_up_without_a_word():
    direction = Rotation.from_euler("xyz", (16.5, -20, 70), degrees=True).as_matrix()
    affine = affine_of(direction).astype(np.float32).astype(np.float64)
    found, warning = geometry.repaired(affine, SHAPE)
    assert warning is None
    axes = found[:3, :3] / np.linalg.norm(found[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert np.abs(corners(found) - corners(affine)).max() < geometry.UNMOVED_MM


@pytest.mark.parametrize("mirror", [1, -1])
def test_nearly_square_axes_are_repaired_to_the_nearest_rotation_about_the_centre(mirror):
    turned = Rotation.from_euler("xyz", (5, 10, 15), degrees=True).as_matrix() @ sheared(0.5) * [1, mirror, 1]
    affine = affine_of(turned)
    found, warning = geometry.repaired(affine, SHAPE)
    spacing = np.linalg.norm(found[:3, :3], axis=0)
    nearest, _ = polar(turned)  # another algorithm for the same matrix
    assert np.allclose(spacing, (0.8, 0.7, 2.5))
    assert np.allclose(found[:3, :3] / spacing, nearest, atol=1e-9)
    centre = [*(np.array(SHAPE) - 1) / 2, 1]
    assert np.allclose(found @ centre, affine @ centre)
    moved = np.linalg.norm((corners(found) - corners(affine))[:, :3], axis=1).max()
    assert moved < np.radians(0.5) * 180  # half of the shear over half of the diagonal, and some
    assert warning is not None
    assert "0.5 degrees" in warning
    assert f"{moved:.2g} mm" in warning


@given(st.integers(0, 2**32 - 1))
def test_direction_cosines_rounded_to_two_decimals_are_always_readable(seed):
    direction = Rotation.random(random_state=np.random.RandomState(seed)).as_matrix().round(2)
    found, _ = geometry.repaired(affine_of(direction), SHAPE)
    axes = found[:3, :3] / np.linalg.norm(found[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("degrees", [1.2, 5, -18.5, 60])
def test_a_sheared_volume_is_refused_with_its_angle(degrees):
    with pytest.raises(GeometryError, match=f"{abs(degrees):.2f} degrees away from square"):
        geometry.repaired(affine_of(sheared(degrees)), SHAPE)


def test_the_shear_is_that_of_the_worst_pair_of_axes():
    assert geometry.shear_degrees(np.eye(3)) == 0
    assert geometry.shear_degrees(sheared(0.3)) == pytest.approx(0.3)
    assert geometry.shear_degrees(sheared(-7)[[2, 0, 1]]) == pytest.approx(7)
    assert geometry.shear_degrees(np.ones((3, 3)) / np.sqrt(3)) == pytest.approx(90)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("where", [(0, 0), (1, 2), (2, 3)])
def test_numbers_that_are_no_positions_are_refused(wrong, where):
    affine = affine_of(np.eye(3))
    affine[where] = wrong
    with pytest.raises(GeometryError, match="not finite or beyond"):
        geometry.repaired(affine, SHAPE)


@pytest.mark.parametrize("spacing", [(0.8, 0.0, 2.5), (0.8, 0.8, 0.01), (700, 700, 2500), (0.8, 0.8, 51)])
def test_impossible_spacing_is_refused_with_its_numbers(spacing):
    with pytest.raises(GeometryError, match=r"the spacing .* is not that of a CT") as caught:
        geometry.repaired(affine_of(np.eye(3), spacing), SHAPE)
    assert f"{spacing[0]:g} x {spacing[1]:g} x {spacing[2]:g} mm" in str(caught.value)


def test_parallel_axes_are_refused():
    with pytest.raises(GeometryError, match=r"90\.00 degrees"):
        geometry.repaired(affine_of([[1, 1, 0], [0, 0, 0], [0, 0, 1]]), SHAPE)


def test_the_largest_distance_is_that_of_a_corner():
    one, other = affine_of(np.eye(3)), affine_of(np.eye(3))
    other[2, 2] += 0.01
    other[0, 3] += 0.3
    assert geometry.largest_distance(one, one, SHAPE) == 0
    assert geometry.largest_distance(one, other, SHAPE) == pytest.approx(np.hypot(0.59, 0.3))
