"""DICOM segmentation objects, sound and broken."""

import re
import sys
import tarfile
import tracemalloc

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_writing import (
    LPS_TO_RAS,
    OBLIQUE,
    SHAPE,
    SPACING,
    as_frames,
    segmentation,
    write_ct,
    write_segmentation,
)
from pydicom.uid import JPEGLSLossless, RLELossless

from atlas.errors import AtlasError, GeometryError, ScanError
from atlas.ingest.dicom.seg import read_segmentation
from atlas.ingest.dicom.series import check_series, read_headers, series_in

GRIDS = {
    "axial": np.eye(3),
    "feet first": np.diag([1.0, -1.0, -1.0]),
    "both flipped": np.diag([-1.0, -1.0, 1.0]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]).T,
    "oblique": OBLIQUE,
}


def random_masks(count=3, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).random((count, *shape)) < 0.4


def masks_of(path, ct):
    """Every mask of an object on the grid of a CT."""
    series = check_series(read_headers(ct.paths))
    found = read_segmentation(path)
    with found.opened(series) as mask:
        return found, {name: mask(name) for name in found.names}


def on_grid_of(ct, image):
    """An ITK image of labels, nearest neighbour, on the grid of a CT: (i, j, k)."""
    lps = LPS_TO_RAS @ ct.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    grid = sitk.Image([ct.datasets[0].Columns, ct.datasets[0].Rows, len(ct.datasets)], sitk.sitkUInt8)
    grid.SetOrigin(lps[:3, 3])
    grid.SetSpacing(spacing)
    grid.SetDirection((lps[:3, :3] / spacing).ravel())
    return sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor)).T


def by_highdicom(path):
    """Each segment as highdicom itself reads it."""
    volume = hd.seg.segread(path).get_volume(combine_segments=False)
    axes = volume.affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    for n in range(volume.array.shape[3]):
        image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array[..., n].transpose(2, 1, 0)).astype(np.uint8))
        image.SetOrigin(volume.affine[:3, 3])
        image.SetSpacing(spacing)
        image.SetDirection((axes / spacing).ravel())
        yield image


@pytest.mark.parametrize("grid", GRIDS)
def test_overlapping_segments_all_come_out(tmp_path, grid):
    ct = write_ct(tmp_path / "ct", directions=GRIDS[grid])
    masks = random_masks()
    assert (masks.sum(axis=0) > 1).any()
    # 11 x 9 pixels: frames begin in the middle of bytes
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames(masks), ["Liver", "Tumor_1", "Portal"])
    found, read = masks_of(path, ct)
    assert found.names == ("Liver", "Tumor_1", "Portal")
    assert found.notes == ()
    for truth, other, (name, volume) in zip(masks, by_highdicom(path), read.items(), strict=True):
        assert volume.data.dtype == np.uint8, name
        assert volume.data.flags.f_contiguous
        assert np.array_equal(volume.data, truth)
        assert np.array_equal(volume.data, on_grid_of(ct, other))
        assert np.allclose(volume.affine, ct.affine, atol=1e-6)
        assert volume.warnings == ()


def turned(ct, swap, flip_columns, flip_rows):
    """Another way of storing the slices of a CT: spacing, orientation, positions; and how (i, j) become frames."""
    i, j = (LPS_TO_RAS @ ct.affine)[:3, :2].T
    columns, rows = (j, i) if swap else (i, j)
    size = SHAPE[1::-1] if swap else SHAPE[:2]
    start = np.zeros(3)
    if flip_columns:
        start, columns = start + columns * (size[0] - 1), -columns
    if flip_rows:
        start, rows = start + rows * (size[1] - 1), -rows
    spacing = [np.linalg.norm(rows), np.linalg.norm(columns), SPACING[2]]
    positions = ct.points(np.array([[0, 0, k] for k in range(SHAPE[2])])) + start
    cosines = [*columns / np.linalg.norm(columns), *rows / np.linalg.norm(rows)]

    def frame(picture):
        picture = picture.T if swap else picture
        picture = picture[:: -1 if flip_columns else 1, :: -1 if flip_rows else 1]
        return picture.T

    return (spacing, cosines, positions), frame


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("flip_columns", [False, True])
@pytest.mark.parametrize("flip_rows", [False, True])
def test_frames_may_be_stored_any_way_round(tmp_path, swap, flip_columns, flip_rows):
    ct = write_ct(tmp_path / "ct", directions=OBLIQUE)
    masks = random_masks(2)
    masks[:, :, :, 3] = False  # a slice without frames
    geometry, frame = turned(ct, swap, flip_columns, flip_rows)
    order = [4, 0, 5, 1, 2, 3]
    frames = np.stack([np.stack([frame(mask[:, :, k]) for mask in masks], axis=-1) for k in order])
    geometry = (*geometry[:2], geometry[2][order])
    path = tmp_path / "seg.dcm"
    write_segmentation(path, ct, frames.astype(np.uint8), ["a", "b"], geometry=geometry)
    assert pydicom.dcmread(path).NumberOfFrames == 10
    _, read = masks_of(path, ct)
    assert np.array_equal([read["a"].data, read["b"].data], masks)


def test_sagittal_frames_on_an_axial_ct(tmp_path):
    ct = write_ct(tmp_path / "ct")
    (mask,) = random_masks(1)
    lps = (LPS_TO_RAS @ ct.affine)[:3]
    # columns run along j, rows down along -k, a frame for each i
    cosines = [*lps[:, 1] / SPACING[1], *-lps[:, 2] / SPACING[2]]
    positions = ct.points(np.array([[i, 0, SHAPE[2] - 1] for i in range(SHAPE[0])]))
    frames = np.stack([mask[i, :, ::-1].T for i in range(SHAPE[0])])[..., np.newaxis].astype(np.uint8)
    geometry = ([SPACING[2], SPACING[1], SPACING[0]], cosines, positions)
    path = write_segmentation(tmp_path / "seg.dcm", ct, frames, ["a"], geometry=geometry)
    _, read = masks_of(path, ct)
    assert np.array_equal(read["a"].data, mask)
    assert np.allclose(read["a"].affine, ct.affine)


def test_slices_a_little_off_their_places_are_found(tmp_path):
    wobble, aside = np.array([[0.15], [0.36]]) * [0, 0.3, 0.7, 1, 0.7, 0]
    ct = write_ct(tmp_path / "ct", spacing=(0.25, 0.7, 0.5), wobble=wobble, aside=aside)
    (mask,) = random_masks(1)
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames([mask]), ["a"])
    _, read = masks_of(path, ct)
    assert np.array_equal(read["a"].data, mask)


@pytest.mark.parametrize("kind", ["PROBABILITY", "OCCUPANCY"])
def test_fractions_of_at_least_a_half_count(tmp_path, kind):
    ct = write_ct(tmp_path / "ct")
    fractions = np.random.default_rng(1).random((1, *SHAPE))
    path = tmp_path / "seg.dcm"
    frames = fractions.transpose(3, 2, 1, 0)
    write_segmentation(path, ct, frames, ["a"], "FRACTIONAL", fractional_type=kind, max_fractional_value=200)
    found, read = masks_of(path, ct)
    assert np.array_equal(read["a"].data, np.rint(fractions[0] * 200) >= 100)
    (note,) = found.notes
    assert kind.lower() in note


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_frames(tmp_path, syntax):
    ct = write_ct(tmp_path / "ct", shape=(40, 48, 4))
    masks = random_masks(2, (40, 48, 4)).astype(float)
    frames = masks.transpose(3, 2, 1, 0)
    path = tmp_path / "seg.dcm"
    write_segmentation(path, ct, frames, ["a", "b"], "FRACTIONAL", transfer_syntax_uid=syntax)
    _, read = masks_of(path, ct)
    assert np.array_equal([read["a"].data, read["b"].data], masks)


def test_label_maps(tmp_path):
    ct = write_ct(tmp_path / "ct")
    labels = np.random.default_rng(2).integers(0, 4, SHAPE).astype(np.uint8)
    frames = np.ascontiguousarray(labels.transpose(2, 1, 0))
    path = write_segmentation(tmp_path / "seg.dcm", ct, frames, ["a", "b", "c"], "LABELMAP")
    found, read = masks_of(path, ct)
    assert found.names == ("a", "b", "c")
    for number, volume in enumerate(read.values(), 1):
        assert np.array_equal(volume.data, labels == number)
        assert volume.data.flags.f_contiguous


def test_label_maps_with_colours_and_two_frames_in_one_place(tmp_path):
    ct = write_ct(tmp_path / "ct")
    labels = np.random.default_rng(2).integers(0, 3, SHAPE).astype(np.uint8)
    frames = np.ascontiguousarray(labels.transpose(2, 1, 0))
    colours = [np.arange(256, dtype=np.uint8)] * 3
    tables = [hd.PaletteColorLUT(0, table, name) for table, name in zip(colours, ("red", "green", "blue"), strict=True)]
    options = {"palette_color_lut_transformation": hd.PaletteColorLUTTransformation(*tables), "icc_profile": None}
    path = write_segmentation(tmp_path / "seg.dcm", ct, frames, ["a", "b"], "LABELMAP", **options)
    assert pydicom.dcmread(path).PhotometricInterpretation == "PALETTE COLOR"
    _, read = masks_of(path, ct)
    assert np.array_equal(read["b"].data, labels == 2)
    found = pydicom.dcmread(path)
    groups = found.PerFrameFunctionalGroupsSequence
    groups[0].PlanePositionSequence = groups[1].PlanePositionSequence
    found.save_as(path)
    with pytest.raises(ScanError, match="two LABELMAP frames in one place"):
        masks_of(path, ct)


def test_a_segment_without_frames_is_empty(tmp_path):
    ct = write_ct(tmp_path / "ct")
    masks = random_masks(2)
    masks[1] = False
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames(masks), ["a", "b"])
    _, read = masks_of(path, ct)
    assert np.array_equal(read["a"].data, masks[0])
    assert not read["b"].data.any()


def test_segments_of_one_name_are_one_structure(tmp_path):
    ct = write_ct(tmp_path / "ct")
    masks = random_masks(3)
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames(masks), ["Tumor", "Liver", "Tumor"])
    found, read = masks_of(path, ct)
    assert found.names == ("Tumor", "Liver")
    assert np.array_equal(read["Tumor"].data, masks[0] | masks[2])
    assert read["Tumor"].warnings == ("2 segments are called 'Tumor': taken together",)


def rename(seg, label=None, description=None, code="Liver"):
    item = seg.SegmentSequence[0]
    del item.SegmentLabel
    if label is not None:
        item.SegmentLabel = label
    if description is not None:
        item.SegmentDescription = description
    item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning = code


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"label": " Mass "}, "Mass"),
        ({"label": "", "description": "the mass"}, "the mass"),
        ({"description": " ", "code": "Neoplasm"}, "Neoplasm"),
    ],
)
def test_names_of_segments(tmp_path, names, expected):
    ct = write_ct(tmp_path / "ct")
    change = lambda seg: rename(seg, **names)  # noqa: E731
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames(random_masks(1)), ["x"], change=change)
    assert read_segmentation(path).names == (expected,)


def coarse(ct, step=5.0, aside=0.3):
    """Planes of another grid: other pixels, other distances, moved."""
    lps = (LPS_TO_RAS @ ct.affine)[:3]
    directions = lps[:, :3] / SPACING
    positions = lps[:, 3] + directions @ [aside, aside, 0.4] + np.arange(3)[:, np.newaxis] * directions[:, 2] * step
    return [1.0, 1.1, step], directions[:, :2].T.ravel(), positions


def test_another_grid_is_a_volume_of_its_own(tmp_path):
    ct = write_ct(tmp_path / "ct", directions=OBLIQUE)
    (mask,) = random_masks(1, (7, 5, 3))
    path = tmp_path / "seg.dcm"
    write_segmentation(path, ct, as_frames([mask]), ["a"], geometry=coarse(ct))
    _, read = masks_of(path, ct)
    volume = read["a"]
    assert np.array_equal(volume.data, mask)
    theirs = hd.seg.segread(path).get_volume(combine_segments=False)
    for voxel in np.argwhere(theirs.array[..., 0])[::5]:
        place = LPS_TO_RAS @ theirs.affine @ [*voxel, 1]
        own = np.linalg.inv(volume.affine) @ place
        assert np.allclose(own, np.rint(own), atol=1e-4)
        assert volume.data[tuple(np.rint(own[:3]).astype(int))] == 1
    assert volume.data.sum() == theirs.array.sum()


@pytest.mark.parametrize(
    ("move", "problem"),
    [
        ([0, 0, 1.7], "not in whole steps"),
        ([0.9, 0, 0], "moved aside by up to 0.9"),
    ],
)
def test_planes_that_make_no_volume_are_refused(tmp_path, move, problem):
    ct = write_ct(tmp_path / "ct")
    spacing, cosines, positions = coarse(ct)
    positions[1] += move
    path = tmp_path / "seg.dcm"
    frames = np.ones((3, 5, 7, 1), np.uint8)
    write_segmentation(path, ct, frames, ["a"], geometry=(spacing, cosines, positions))
    with pytest.raises(GeometryError, match=problem) as caught:
        masks_of(path, ct)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("move", [(0, 0, 1), (0, 0, -1), (2, 0, 0), (0, -1, 0)])
def test_frames_beyond_the_ct_are_refused(tmp_path, move):
    ct = write_ct(tmp_path / "ct")
    place = ct.points(np.array([[0, 0, k] for k in range(SHAPE[2])]) + move)
    geometry = ([SPACING[1], SPACING[0], SPACING[2]], [1, 0, 0, 0, 1, 0], place)
    frames = as_frames(np.ones((1, *SHAPE)))
    path = write_segmentation(tmp_path / "seg.dcm", ct, frames, ["a"], geometry=geometry)
    highest = tuple(n + size - 1 for n, size in zip(move, SHAPE, strict=True))
    with pytest.raises(GeometryError, match=re.escape(f"reach from voxel {move} to {highest}")):
        masks_of(path, ct)


def without(keyword):
    def change(seg):
        for group in (*seg.SharedFunctionalGroupsSequence, *seg.PerFrameFunctionalGroupsSequence):
            if keyword in group:
                del group[keyword]

    return change


def set_to(**values):
    def change(seg):
        for keyword, value in values.items():
            setattr(seg, keyword, value)

    return change


def odd_position(seg):
    place = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    place.ImagePositionPatient = [1e9, 0, 0]


def unknown_segment(seg):
    seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def turned_cosines(seg):
    place = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    place.ImageOrientationPatient = [1, 0, 0, 0.7, 0.7, 0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (set_to(SegmentationType="SURFACE"), "of type 'SURFACE'.*BINARY, FRACTIONAL, LABELMAP"),
        (set_to(NumberOfFrames=7), "claims 7 frames and describes"),
        (set_to(SegmentSequence=[]), "no segments"),
        (set_to(SegmentationType="FRACTIONAL"), "MaximumFractionalValue"),
        (set_to(BitsAllocated=32), "32 bits"),
        (set_to(Rows=0), "frames of 11 x 0"),
        (without("PlanePositionSequence"), "ImagePositionPatient is missing"),
        (without("PlaneOrientationSequence"), "ImageOrientationPatient is missing"),
        (without("PixelMeasuresSequence"), "PixelSpacing is missing"),
        (without("SegmentIdentificationSequence"), r"segment None, which is not among \[1, 2\]"),
        (unknown_segment, r"segment 9, which is not among \[1, 2\]"),
        (odd_position, "lies at"),
        (turned_cosines, "orientation"),
        (lambda seg: rename(seg, code=""), "segment 1 has no label"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, change, problem):
    ct = write_ct(tmp_path / "ct")
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames(random_masks(2)), ["a", "b"], change=change)
    with pytest.raises(ScanError, match=problem) as caught:
        masks_of(path, ct)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).count(str(path)) == 1


def test_a_binary_segment_holds_0_and_1(tmp_path):
    ct = write_ct(tmp_path / "ct")
    (mask,) = random_masks(1)
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames([mask]), ["a"])
    found = pydicom.dcmread(path)
    pixels = found.pixel_array.astype(np.uint8)
    found.BitsAllocated = found.BitsStored = 8
    found.HighBit = 7
    found.PixelData = pixels.tobytes()
    found.save_as(path)
    _, read = masks_of(path, ct)
    assert np.array_equal(read["a"].data, mask)
    found.PixelData = (pixels * 2).tobytes()
    found.save_as(path)
    with pytest.raises(ScanError, match="frame 1 holds 2"):
        masks_of(path, ct)


def test_missing_pixels_and_files_cut_off(tmp_path):
    ct = write_ct(tmp_path / "ct")
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames(random_masks(2)), ["a", "b"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ScanError, match="ends in the middle of frame"):
        masks_of(path, ct)
    found = pydicom.dcmread(path, stop_before_pixels=True)
    found.save_as(path)
    with pytest.raises(ScanError, match="no pixels"):
        masks_of(path, ct)


def test_damage_anywhere_is_told_or_harmless(tmp_path):
    ct = write_ct(tmp_path / "ct")
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames(random_masks(2)), ["a", "b"])
    whole = path.read_bytes()
    rng = np.random.default_rng(3)
    for n in range(150):
        damaged = bytearray(whole if n % 3 else whole[: rng.integers(len(whole))])
        for place in rng.integers(0, len(damaged), 4 if n % 3 else 0):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            _, read = masks_of(path, ct)
        except AtlasError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert all(volume.data.max() <= 1 for volume in read.values())


def test_what_is_missing_is_said_with_the_command(tmp_path, monkeypatch):
    ct = write_ct(tmp_path / "ct")
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames(random_masks(1)), ["a"])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "highdicom.frame", None)
        with pytest.raises(ScanError, match=r"pip install 'atlas-corpus\[segmentations\]'"):
            masks_of(path, ct)

    def no_decoder(*args, **options):
        raise RuntimeError("no decoder")

    monkeypatch.setattr("highdicom.frame.decode_frame", no_decoder)
    with pytest.raises(ScanError, match=r"cannot be decompressed: no decoder.*pylibjpeg"):
        masks_of(path, ct)


def test_memory_is_one_mask(tmp_path):
    shape = (96, 96, 40)
    ct = write_ct(tmp_path / "ct", shape=shape)
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames(random_masks(6, shape)), list("abcdef"))
    series = check_series(read_headers(ct.paths))
    found = read_segmentation(path)
    with found.opened(series) as mask:
        mask("a")
        tracemalloc.start()
        for name in found.names:
            assert mask(name).data.any()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1.5 * np.prod(shape)


def test_the_names_of_what_it_was_drawn_on(tmp_path):
    ct = write_ct(tmp_path / "ct")
    path = tmp_path / "seg.dcm"
    segmentation(ct, as_frames(random_masks(1)), ["a"]).save_as(path)
    reference = read_segmentation(path).reference
    assert reference.series == {ct.uid}
    assert reference.instances == {image.SOPInstanceUID for image in ct.datasets}
    assert reference.drawn == reference.instances
    assert reference.frame_of_reference == "1.2.3.4"
    middle = ct.points(np.array([[5, 4, k] for k in range(6)]))
    assert np.allclose(np.sort(reference.points, axis=0), np.sort(middle, axis=0), atol=1e-6)


@pytest.mark.realdata
def test_real_segments_are_those_of_the_nrrd_files(realdata, tmp_path):
    """Files of dcmqi: the same segments as DICOM and as NRRD, written by others and read by SimpleITK."""
    with tarfile.open(realdata / "dcmqi" / "dcmqi_liver_ct3slice_seg.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = next(tmp_path.rglob("ct-3slice"))
    (headers,) = series_in(folder)
    series = check_series(headers)
    expected = {
        ("liver.dcm", "Liver"): ("liver_seg", 1),
        ("partial_overlaps.dcm", "GREEN"): ("partial_overlaps-1", 1),
        ("partial_overlaps.dcm", "ORANGE"): ("partial_overlaps-2", 2),
        ("partial_overlaps.dcm", "PURPLE"): ("partial_overlaps-3", 3),
        ("partial_overlaps.dcm", "LIGHT_BLUE"): ("partial_overlaps-1", 4),
        ("partial_overlaps.dcm", "DARK_BLUE"): ("partial_overlaps-1", 5),
    }
    for (file, name), (nrrd, value) in expected.items():
        image = sitk.ReadImage(str(folder.parent / f"{nrrd}.nrrd"))
        with read_segmentation(folder.parent / file).opened(series) as mask:
            volume = mask(name)
        assert np.array_equal(volume.data, value == sitk.GetArrayFromImage(image).T)
        corner = LPS_TO_RAS @ [*image.TransformIndexToPhysicalPoint((511, 511, 2)), 1]
        assert np.allclose(volume.affine @ [511, 511, 2, 1], corner, atol=1e-3)
