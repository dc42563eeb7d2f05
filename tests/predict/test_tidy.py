"""Post-processing of probabilities leaves surfaces where they were."""

import numpy as np
import pytest

from atlas.harmonize.midplane import Midplane
from atlas.predict.tidy import tidy
from atlas.spec.training import PostprocessSpec
from atlas.train import postprocess

SHAPE = (10, 12, 30)
CLASSES = ("kidney_right", "liver", "kidney_left")


@pytest.fixture(autouse=True)
def middle(monkeypatch):
    monkeypatch.setattr(postprocess, "find_midplane", lambda ct, spacing: Midplane((5.5, 14.5), (0.0, 1.0), "spine"))


def run(probabilities, taxonomy, **spec):
    result = probabilities.copy()
    masks = np.ones(result.shape, bool)  # what is in there counts for nothing
    ct = np.zeros(SHAPE, np.int16)
    tidy(result, masks, CLASSES, taxonomy, PostprocessSpec(**spec), 1.5, ct)
    np.testing.assert_array_equal(result >= 128, masks)
    return result


def ramp(x, value=255):
    """A blob at column x: 255 in the middle, falling off to 60 at its surroundings."""
    blob = np.zeros(SHAPE, np.uint8)
    blob[2:8, 2:8, x - 3 : x + 4] = 60
    blob[3:7, 3:7, x - 2 : x + 3] = 140
    blob[4:6, 4:6, x - 1 : x + 2] = value
    return blob


def test_what_is_removed_has_no_probability_left_above_half(taxonomy):
    probabilities = np.zeros((3, *SHAPE), np.uint8)
    probabilities[1] = np.maximum(ramp(6), ramp(22) // 2 + 60 * (ramp(22) > 128))
    probabilities[1, 9, 11, 29] = 200
    result = run(probabilities, taxonomy, largest=("liver",))
    assert result[1, 9, 11, 29] == 0
    keep = np.ones(SHAPE, bool)
    removed = (probabilities[1] >= 128) & (result[1] < 128)
    keep[removed] = False
    np.testing.assert_array_equal(result[1][keep], probabilities[1][keep])


def test_a_piece_moves_to_the_other_side_with_its_surface(taxonomy):
    probabilities = np.zeros((3, *SHAPE), np.uint8)
    probabilities[2] = np.maximum(ramp(6), ramp(23, 250))  # the left one has a piece on the right
    probabilities[0, 0, 0, 0] = 90  # faint and elsewhere
    result = run(probabilities, taxonomy, sides=True)
    np.testing.assert_array_equal(result[0][:, :, 15:], ramp(23, 250)[:, :, 15:])
    assert result[0, 0, 0, 0] == 90
    assert result[0][:, :, :15].max() == 90
    np.testing.assert_array_equal(result[2][:, :, :15], ramp(6)[:, :, :15])
    assert result[2][:, :, 15:].max() < 128


def test_pieces_that_change_places_keep_their_probabilities(taxonomy):
    probabilities = np.zeros((3, *SHAPE), np.uint8)
    probabilities[0], probabilities[2] = ramp(6, 201), ramp(23, 202)
    result = run(probabilities, taxonomy, sides=True)
    np.testing.assert_array_equal(result[2][result[2] >= 128], ramp(6, 201)[ramp(6) >= 128])
    np.testing.assert_array_equal(result[0][result[0] >= 128], ramp(23, 202)[ramp(23) >= 128])
