"""The midplane of synthetic patients, whose midline is known, and of real ones, whose vertebrae are labelled."""

import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.harmonize.midplane import Midplane, find_midplane

REALDATA = Path(__file__).resolve().parents[3] / "shared" / "realdata"
SPACING = 3.0
SHAPE = (50, 130, 170)  # 150 x 390 x 510 mm


def patient(centre=(0.0, 0.0), turn=0.0, *, spacing=SPACING, shape=SHAPE, arms=False, table=False, spine="with canal"):
    """CT of a patient whose body centre is at `centre` (y, x) mm from the image's, turned by `turn` degrees.

    Returns the CT and the voxel index (y, x) of the middle of the spine.
    """
    noise = np.random.default_rng(0).normal(0, 12, shape)
    y, x = ((np.arange(n) - (n - 1) / 2) * spacing - c for n, c in zip(shape[1:], centre, strict=True))
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    right = x * cos + y[:, None] * sin
    front = -x * sin + y[:, None] * cos
    z = (np.arange(shape[0]) * spacing)[:, None, None]
    ct = np.full(shape, -1000.0)
    if table:
        ct[:, (y > -150) & (y < -144)] = -100  # a shell in image coordinates, under the body
    if arms:
        for side in (-1, 1):
            r = np.hypot(right - side * 215, front + 20)
            ct[:, r < 35] = 50
            ct[:, r < 14] = 900
            ct[:, r < 7] = -20
    ct[:, np.hypot(right / 170, front / 110) < 1] = -80  # fat
    ct[:, np.hypot(right / 155, front / 95) < 1] = 50
    for side in (-1, 1):  # kidneys full of contrast agent, an aorta left of the spine
        kidney = np.hypot(np.hypot(right - side * 75, front + 30) / 28, (z - 70) / 50) < 1
        ct[kidney] = 230
    ct[:, np.hypot(right + 18, front + 8) < 12] = 350
    if spine:
        ct[:, np.hypot(right, front + 45) < 22] = 280
    if spine == "with canal":
        ct[:, np.hypot(right, front + 70) < 16] = 450
        ct[:, np.hypot(right, front + 70) < 9] = 20
    place = np.array([-55 * cos, 55 * sin]) + centre  # the spine lies 55 mm behind the body's centre
    index = place / spacing + (np.array(shape[1:]) - 1) / 2
    return np.round(ct + noise).astype(np.int16), index


def off_by_mm(plane: Midplane, spine, spacing=SPACING) -> float:
    return abs(float(plane.lateral(*spine))) * spacing


def turned_by(plane: Midplane) -> float:
    return float(np.degrees(np.arctan2(*plane.right)))


@pytest.mark.parametrize("centre", [(0, 0), (-30, 60), (20, -75)])
@pytest.mark.parametrize("extra", [{}, {"arms": True, "table": True}])
def test_body_off_centre(centre, extra):
    ct, spine = patient(centre, **extra)
    plane = find_midplane(ct, SPACING)
    assert plane.source == "spine"
    assert off_by_mm(plane, spine) < 6
    assert turned_by(plane) == 0


@pytest.mark.parametrize("turn", [-90, -60, -30, 30, 60, 90])
def test_patient_on_the_side(turn):
    ct, spine = patient((15, 25), turn)
    plane = find_midplane(ct, SPACING)
    assert turned_by(plane) == pytest.approx(turn, abs=10)
    assert off_by_mm(plane, spine) < 8
    assert np.hypot(*plane.right) == pytest.approx(1)


@pytest.mark.parametrize("turn", [-70, 0, 70])
def test_spine_of_solid_bone_as_phantoms_have_it(turn):
    ct, spine = patient((15, 25), turn, spine="solid")
    plane = find_midplane(ct, SPACING)
    assert turned_by(plane) == pytest.approx(turn, abs=13)
    assert off_by_mm(plane, spine) < 10


@pytest.mark.parametrize("turn", [150, 180, -150])
def test_patient_facing_backwards_is_no_patient_to_split(turn):
    ct, _ = patient(turn=turn)
    assert find_midplane(ct, SPACING) is None


@pytest.mark.parametrize("window", [np.s_[:, 10:100, 30:105], np.s_[:, 25:90, 65:140]])
def test_narrow_field_of_view(window):
    ct, spine = patient()
    plane = find_midplane(np.ascontiguousarray(ct[window]), SPACING)
    assert plane.source == "spine"
    assert off_by_mm(plane, spine - [part.start for part in window[1:]]) < 6
    assert turned_by(plane) == 0


@pytest.mark.parametrize("padding", [-3024, -2000, -1024])
def test_padding_round_a_circular_field_of_view_that_cuts_the_body(padding):
    ct, spine = patient((0, 40))
    y, x = np.ogrid[: SHAPE[1], : SHAPE[2]]
    ct[:, np.hypot(y - 64.5, x - 84.5) > 40] = padding  # 120 mm: the body's right is cut off
    plane = find_midplane(ct, SPACING)
    assert off_by_mm(plane, spine) < 6
    assert turned_by(plane) == 0


def test_fits_best_in_the_slices_asked_for():
    ct, spine = patient()
    lean = np.stack([np.roll(image, round(z / 5), axis=1) for z, image in enumerate(ct)])  # 11 degrees
    low, high = (find_midplane(lean, SPACING, z_range=part) for part in (slice(0, 10), slice(40, 50)))
    assert off_by_mm(low, np.add(spine, (0, 1))) < 6
    assert off_by_mm(high, np.add(spine, (0, 9))) < 6


def test_body_alone_where_no_spine_is_seen():
    ct, _ = patient((0, 60), spine=None)
    ct[ct > 150] = 50  # neither kidneys nor aorta
    plane = find_midplane(ct, SPACING)
    assert plane.source == "body"
    assert off_by_mm(plane, ((SHAPE[1] - 1) / 2, (SHAPE[2] - 1) / 2 + 20)) < 5


@pytest.mark.parametrize(
    "ct",
    [
        np.full((20, 60, 60), -1000, np.int16),
        np.full((20, 60, 60), 40, np.int16),  # the body fills the image, no bone
        np.zeros((0, 60, 60), np.int16),
        np.zeros((1, 1, 1), np.int16),
    ],
    ids=["air", "tissue", "no slice", "a voxel"],
)
def test_no_honest_estimate(ct):
    assert find_midplane(ct, 1.5) is None


def test_one_slice_is_enough():
    ct, spine = patient((0, 30))
    assert off_by_mm(find_midplane(ct[20:21], SPACING), spine) < 6


@settings(max_examples=10, deadline=None)
@given(st.integers(-25, 25), st.integers(-15, 15), st.sampled_from([-70, 0, 70]))
def test_mirrored_patient_has_the_mirrored_plane(dx, dy, turn):
    ct, spine = patient((dy, dx), turn)
    plane, mirrored = find_midplane(ct, SPACING), find_midplane(ct[:, :, ::-1], SPACING)
    assert turned_by(mirrored) == pytest.approx(-turned_by(plane), abs=8)
    assert off_by_mm(mirrored, (spine[0], SHAPE[2] - 1 - spine[1])) < 8


def test_is_deterministic_and_leaves_the_ct_alone():
    ct, _ = patient(turn=40)
    before = ct.copy()
    assert find_midplane(ct, SPACING) == find_midplane(ct, SPACING)
    np.testing.assert_array_equal(ct, before)


def test_lateral_grows_to_the_right_of_the_patient():
    plane = Midplane((10.0, 20.0), (0.6, 0.8), "spine")
    assert plane.lateral(np.array(10), np.array(25)) == pytest.approx(4)
    assert plane.lateral(np.arange(4.0)[:, None], np.arange(5.0)).shape == (4, 5)


def test_is_fast():
    ct = patient(spacing=1.5, shape=(60, 300, 300))[0].repeat(5, axis=0)
    start = time.process_time()
    find_midplane(ct, 1.5)
    assert time.process_time() - start < 1  # about 0.1 s on an idle core


needs_realdata = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"no real scans at {REALDATA}")


def read(path):
    image = nib.as_closest_canonical(nib.load(path))
    return np.asanyarray(image.dataobj).astype(np.int16).transpose(2, 1, 0), float(image.header.get_zooms()[0])


@pytest.mark.realdata
@needs_realdata
def test_real_abdomen_with_labelled_vertebrae():
    ct, spacing = read(REALDATA / "totalsegmentator/example_ct.nii.gz")
    labels, _ = read(REALDATA / "totalsegmentator/example_seg_fast_force_split.nii.gz")
    vertebrae = (labels >= 26) & (labels <= 50)
    plane = find_midplane(ct, spacing)
    assert abs(np.median(plane.lateral(*np.nonzero(vertebrae)[1:]))) * spacing < 6
    assert turned_by(plane) == 0
    on_the_side = find_midplane(np.ascontiguousarray(np.rot90(ct, axes=(1, 2))), spacing)
    assert turned_by(on_the_side) == pytest.approx(-90, abs=15)
    assert find_midplane(ct[:, ::-1], spacing) is None  # header and anatomy contradict each other


@pytest.mark.realdata
@needs_realdata
def test_real_thorax_with_a_bright_heart_in_a_narrow_field_of_view():
    ct, spacing = read(REALDATA / "totalsegmentator/thorax_1.5mm/ct_cropped.nii.gz")
    t12, _ = read(REALDATA / "totalsegmentator/thorax_1.5mm/vertebrae_T12.nii.gz")
    plane = find_midplane(ct, spacing)
    assert abs(np.median(plane.lateral(*np.nonzero(t12)[1:]))) * spacing < 8
