"""Pixels inside polygons, against exact arithmetic and matplotlib."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path

from atlas.errors import GeometryError
from atlas.ingest.dicom import contours
from atlas.ingest.dicom.contours import FINENESS, fill

SHAPE = (8, 7)
# quarters make vertices and edges fall on pixel centres all the time
quarters = st.integers(-8, 40).map(lambda n: n / 4)
polygons = st.lists(st.tuples(quarters, quarters), min_size=1, max_size=9).map(lambda points: np.array(points, float))


def by_fractions(drawn, shape):
    """Crossings to the left of each centre, one by one, in exact arithmetic."""
    inside = np.zeros(shape, bool)
    for i, j in np.ndindex(shape):
        crossings = 0
        for contour in drawn:
            points = [(Fraction(x), Fraction(y)) for x, y in contour.tolist()]
            for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
                if (y0 <= j) != (y1 <= j):
                    crossings += x0 + (j - y0) * (x1 - x0) / (y1 - y0) <= i
        inside[i, j] = crossings % 2
    return inside


@given(st.lists(polygons, max_size=3))
def test_every_pixel_is_that_of_exact_arithmetic(drawn):
    assert np.array_equal(fill(drawn, SHAPE), by_fractions(drawn, SHAPE))


def star(rng, centre, count=40):
    """A polygon around a centre, by angle; any radius."""
    angle = np.sort(rng.random(count)) * 2 * np.pi
    return centre + (rng.random(count) * 30 + 2)[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def from_edges(contour, shape):
    """Distance of every pixel centre from the nearest edge."""
    centres = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)[:, :, np.newaxis]
    start, along = contour, np.roll(contour, -1, axis=0) - contour
    part = np.clip(((centres - start) * along).sum(-1) / (along**2).sum(-1), 0, 1)
    return np.linalg.norm(centres - start - part[..., np.newaxis] * along, axis=-1).min(axis=-1)


@pytest.mark.parametrize("seed", range(8))
def test_matplotlib_agrees_away_from_the_edges(seed):
    shape = (64, 50)
    contour = star(np.random.default_rng(seed), (30.0, 20.0))
    centres = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    theirs = Path(contour).contains_points(centres.reshape(-1, 2)).reshape(shape)
    clear = from_edges(contour, shape) > 1 / FINENESS
    assert clear.mean() > 0.99
    assert np.array_equal(fill([contour], shape)[clear], theirs[clear])


def test_a_disc_is_the_pixels_nearer_than_its_radius():
    angle = np.arange(20000) / 20000 * 2 * np.pi
    circle = np.stack([20.3 + 12.7 * np.cos(angle), 17.6 + 12.7 * np.sin(angle)], axis=1)
    i, j = np.ogrid[:45, :40]
    assert np.array_equal(fill([circle], (45, 40)), np.hypot(i - 20.3, j - 17.6) < 12.7)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_that_touch_share_no_pixel_and_leave_no_gap(seed):
    rng = np.random.default_rng(seed)
    # vertices on pixel centres, so that many centres lie on edges
    ring = np.array([[2, 2], [9, 1], [21, 2], [22, 10], [21, 21], [8, 22], [2, 20], [1, 9]], float)
    centre = rng.integers(6, 18, 2).astype(float)
    pieces = [np.stack([centre, ring[n], ring[n - 1]]) for n in range(len(ring))]
    counts = sum(fill([piece], (24, 24)).astype(int) for piece in pieces)
    assert counts.max() == 1
    assert np.array_equal(counts == 1, fill([ring], (24, 24)))


def test_squares_on_pixel_centres_are_half_open():
    square = np.array([[1, 1], [4, 1], [4, 3], [1, 3]], float)
    expected = np.zeros(SHAPE, bool)
    expected[1:4, 1:3] = True
    assert np.array_equal(fill([square], SHAPE), expected)
    assert np.array_equal(fill([square[::-1]], SHAPE), expected)
    # what single precision loses does not move the edge
    assert np.array_equal(fill([square + 2e-5], SHAPE), expected)
    assert np.array_equal(fill([square - 2e-5], SHAPE), expected)


def test_holes_as_inner_contours_and_as_keyholes():
    outer = np.array([[0.5, 0.5], [6.5, 0.5], [6.5, 5.5], [0.5, 5.5]])
    inner = np.array([[2.5, 2.5], [4.5, 2.5], [4.5, 3.5], [2.5, 3.5]])
    island = np.array([[2.6, 2.6], [3.4, 2.6], [3.4, 3.4], [2.6, 3.4]])
    expected = np.zeros(SHAPE, bool)
    expected[1:7, 1:6] = True
    expected[3:5, 3] = False
    keyhole = np.concatenate([outer, outer[:1], inner[::-1], inner[-1:]])
    same_way = np.concatenate([outer, outer[:1], inner, inner[:1]])
    assert np.array_equal(fill([outer, inner], SHAPE), expected)
    assert np.array_equal(fill([inner[::-1], outer], SHAPE), expected)
    assert np.array_equal(fill([keyhole], SHAPE), expected)
    assert np.array_equal(fill([same_way], SHAPE), expected)
    expected[3, 3] = True
    assert np.array_equal(fill([outer, inner, island], SHAPE), expected)


def test_contours_may_reach_beyond_the_slice():
    around = np.array([[-50, -60], [70, -60], [70, 80], [-50, 80]], float)
    assert fill([around], SHAPE).all()
    assert not fill([np.add(around, [200, 0])], SHAPE).any()
    assert not fill([], SHAPE).any()
    half = np.array([[-50, 2.5], [70, 2.5], [70, 80], [-50, 80]], float)
    assert np.array_equal(fill([half], SHAPE), np.broadcast_to(np.arange(7) >= 3, SHAPE))


def test_edges_are_taken_in_pieces(monkeypatch):
    contour = star(np.random.default_rng(9), (30.0, 20.0))
    whole = fill([contour], (64, 50))
    monkeypatch.setattr(contours, "_CROSSINGS_AT_A_TIME", 100)
    assert np.array_equal(fill([contour], (64, 50)), whole)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e6])
def test_impossible_points_are_refused(value):
    with pytest.raises(GeometryError, match="not finite or more than"):
        fill([np.array([[0, 0], [value, 3], [3, 3]])], SHAPE)
