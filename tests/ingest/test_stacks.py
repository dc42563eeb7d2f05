"""Labels in folders of slices, beside a DICOM CT."""

import struct
import zlib

import numpy as np
import pytest
from ct_writing import axial, changed, image, save, save_all, stored_numbers
from PIL import Image

from atlas.errors import AtlasError, GeometryError, LabelError, ScanError
from atlas.ingest.dicom.series import only_series
from atlas.ingest.folders import slices_in
from atlas.ingest.stacks import read_stack

LABELS = (np.arange(60).reshape(5, 4, 3) * 7 % 5).astype(np.uint8)  # (slice upwards, row, column)
NAMES = ("IM-0", "IM-2", "IM-9", "IM-10", "IM-11")


@pytest.fixture(params=["upwards", "downwards"])
def ct(tmp_path, request):
    """A CT whose files, by natural order of their names, run up or down the patient."""
    names = NAMES if request.param == "upwards" else NAMES[::-1]
    for name, ds in zip(names, axial(), strict=True):
        save(ds, tmp_path / "ct" / name)
    return tmp_path / "ct"


def downwards(ct):
    return only_series(slices_in(ct)).files[0].name == NAMES[-1]


def png(labels, folder, *, mode=None):
    """Slices in the order of their names; unpadded numbers, so that natural order is not that of the alphabet."""
    folder.mkdir(exist_ok=True)
    for n, plane in enumerate(labels):
        picture = Image.fromarray(plane)
        (picture if mode is None else picture.convert(mode)).save(folder / f"GT_{n + 8}.png")
    return folder


def read(folder, ct, *, mask=False, by_name=False):
    series = only_series(slices_in(ct))
    return read_stack(folder, series, series.affine, mask=mask, by_name=by_name)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_slices_go_with_the_files_of_the_ct_by_name(tmp_path, ct, dtype):
    factor = 1 if dtype == np.uint8 else 1000
    stored = LABELS[::-1] if downwards(ct) else LABELS
    volume = read(png(stored.astype(dtype) * factor, tmp_path / "gt"), ct)
    np.testing.assert_array_equal(volume.data, LABELS.T.astype(int) * factor)
    np.testing.assert_array_equal(volume.affine, only_series(slices_in(ct)).affine)
    assert volume.data.dtype == dtype
    assert volume.data.flags.f_contiguous
    assert volume.warnings == ()


def raw_png(path, rows, depth, kind, palette=b""):
    """A PNG of packed rows, as it stands in the standard."""
    path.parent.mkdir(exist_ok=True)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 3, len(rows), depth, kind, 0, 0, 0)
    packed = b"".join(
        b"\0" + int("".join(f"{value:0{depth}b}" for value in row).ljust(8, "0"), 2).to_bytes(-(-3 * depth // 8), "big")
        for row in rows
    )
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", palette) if palette else b"", chunk(b"IDAT", zlib.compress(packed))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("depth", "kind"), [(1, 0), (2, 0), (8, 0), (2, 3), (8, 3)])
def test_png_values_are_as_they_are_stored(tmp_path, ct, depth, kind):
    labels = LABELS % (2 if depth == 1 else 4)
    stored = labels[::-1] if downwards(ct) else labels
    colours = bytes(range(0, 120, 10)) if kind == 3 else b""
    for n, plane in enumerate(stored):
        raw_png(tmp_path / "gt" / f"{n}.png", plane, depth, kind, colours)
    np.testing.assert_array_equal(read(tmp_path / "gt", ct).data, labels.T)


def test_a_mask_of_any_single_value(tmp_path, ct):
    inside = LABELS == 2
    stored = (inside[::-1] if downwards(ct) else inside) * np.uint8(255)
    data = read(png(stored, tmp_path / "gt"), ct, mask=True).data
    assert data.dtype == np.uint8
    np.testing.assert_array_equal(data, inside.T)
    assert not read(png(stored * 0, tmp_path / "gt"), ct, mask=True).data.any()
    stored[2, 1, 1] = 7
    with pytest.raises(LabelError, match=r"one value beside 0, this one 2 \(0, 7, 255"):
        read(png(stored, tmp_path / "gt"), ct, mask=True)


def test_other_files_among_the_slices(tmp_path, ct):
    folder = png(LABELS, tmp_path / "gt")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    assert read(folder, ct).warnings == ("1 files that are no PNG left out (Thumbs.db)",)


def test_counts_must_agree(tmp_path, ct):
    with pytest.raises(GeometryError, match="holds 4 label slices, the CT has 5"):
        read(png(LABELS[:4], tmp_path / "gt"), ct)


def test_sizes_must_agree(tmp_path, ct):
    with pytest.raises(GeometryError, match=r"GT_\d+.png has 4 x 3 pixels, the slices of the CT 3 x 4"):
        read(png(LABELS.transpose(0, 2, 1).copy(), tmp_path / "gt"), ct)


def test_names_that_jump_about_pair_nothing(tmp_path):
    save_all(axial(), tmp_path / "ct")
    with pytest.raises(GeometryError, match="jump to and fro"):
        read(png(LABELS, tmp_path / "gt"), tmp_path / "ct")


def test_colours_are_no_labels(tmp_path, ct):
    with pytest.raises(ScanError, match=r"GT_8.png is a colour image \(RGB\)"):
        read(png(LABELS, tmp_path / "gt", mode="RGB"), ct)


@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "text"])
def test_damaged_png(tmp_path, ct, damage):
    path = png(LABELS, tmp_path / "gt") / "GT_9.png"
    sound = path.read_bytes()
    middle = len(sound) - 24
    damaged = {
        "empty": b"",
        "cut": sound[:middle],
        "changed": sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :],
        "text": b"no picture",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(ScanError, match=f"^{tmp_path / 'gt'}: GT_9.png is no readable PNG"):
        read(tmp_path / "gt", ct)


def test_a_png_far_larger_than_it_looks(tmp_path, ct):
    folder = png(LABELS, tmp_path / "gt")
    for sides in ((12000, 12000), (60000, 60000)):
        header = struct.pack(">IIBBBBB", *sides, 8, 0, 0, 0, 0)
        chunk = b"IHDR" + header
        path = folder / "GT_8.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)))
        with pytest.raises(ScanError, match=r"GT_8\.png"):
            read(folder, ct)


def masks(inside, folder, *, which=range(5), **elements):
    """DICOM masks, 255 inside, with a rescale that means nothing."""
    for n in which:
        plane = inside[n] * np.uint8(255)
        position = (-10, -20, 30 + 2.5 * n)
        ds = image(plane, position, sop_class="1.2.840.10008.5.1.4.1.1.7", RescaleIntercept=-1024)
        save(changed(ds, **elements), folder / f"image_{n + 8}")
    return folder


UNPLACED = {"ImagePositionPatient": None, "ImageOrientationPatient": None}


@pytest.mark.parametrize("elements", [{}, {"RescaleSlope": 2}, {"PhotometricInterpretation": "MONOCHROME1"}])
def test_dicom_masks_go_where_their_headers_say(tmp_path, ct, elements):
    folder = masks(LABELS == 2, tmp_path / "liver", which=[3, 1, 0, 4, 2], **elements)
    volume = read(folder, ct, mask=True)
    np.testing.assert_array_equal(volume.data, (LABELS == 2).T)
    assert volume.warnings == ()


def test_dicom_masks_of_some_slices(tmp_path, ct):
    volume = read(masks(LABELS == 2, tmp_path / "liver", which=[1, 2]), ct, mask=True)
    expected = np.zeros(LABELS.shape, bool)
    expected[1:3] = (LABELS == 2)[1:3]
    np.testing.assert_array_equal(volume.data, expected.T)
    assert volume.warnings == ("3 of 5 slices have no file and are empty",)


@pytest.mark.parametrize("placed", [True, False])
def test_dicom_masks_by_name(tmp_path, ct, placed):
    """Where they say nothing, or where the manifest says that it is wrong."""
    inside = LABELS == 2
    elements = {"ImagePositionPatient": [0, 0, 0]} if placed else UNPLACED
    folder = masks(inside[::-1] if downwards(ct) else inside, tmp_path / "liver", **elements)
    np.testing.assert_array_equal(read(folder, ct, mask=True, by_name=placed).data, inside.T)


def test_dicom_label_slices_keep_their_values(tmp_path, ct):
    for n, plane in enumerate(LABELS.astype(np.int16)):
        save(image(plane, (-10, -20, 30 + 2.5 * n)), tmp_path / "labels" / f"{n}.dcm")
    np.testing.assert_array_equal(read(tmp_path / "labels", ct).data, LABELS.T)
    save(image(LABELS[0].astype(np.int16) - 1, (-10, -20, 30)), tmp_path / "labels/0.dcm")
    with pytest.raises(LabelError, match=r"0\.dcm holds values from -1 to 3"):
        read(tmp_path / "labels", ct)


MISPLACED = {
    "does not lie on the grid of the CT": {"ImagePositionPatient": [-10, -20, 31.25]},
    "its first pixel is voxel .0.12, 0.00, 1.00": {"ImagePositionPatient": [-9.9, -20, 32.5]},
    "its first pixel is voxel .* 5.00": {"ImagePositionPatient": [-10, -20, 42.5]},
    "does not lie on the grid": {"PixelSpacing": [0.8, 0.8]},
    "image_9 does not lie on the grid": {"ImageOrientationPatient": [1, 0, 0, 0, -1, 0]},
    "1 of its 5 slices do not say where they lie": UNPLACED,
    "lie in one place": {"ImagePositionPatient": [-10, -20, 35]},
    "3 samples": {"SamplesPerPixel": 3},
}


@pytest.mark.parametrize("message", MISPLACED)
def test_dicom_masks_that_contradict_the_ct(tmp_path, ct, message):
    folder = masks(LABELS == 2, tmp_path / "liver")
    masks(LABELS == 2, folder, which=[1], **MISPLACED[message])
    with pytest.raises(AtlasError, match=f"^{folder}: .*{message}"):
        read(folder, ct, mask=True)


def test_masks_by_name_need_as_many_as_the_ct_has(tmp_path, ct):
    folder = masks(LABELS == 2, tmp_path / "liver", which=[0, 1], **UNPLACED)
    with pytest.raises(GeometryError, match="holds 2 label slices, the CT has 5"):
        read(folder, ct, mask=True)


def test_what_is_no_dicom_is_refused(tmp_path, ct):
    folder = masks(LABELS == 2, tmp_path / "liver")
    (folder / "readme").write_text("about the masks")
    with pytest.raises(ScanError, match="readme: is not a DICOM file"):
        read(folder, ct, mask=True)


def test_an_oblique_ct(tmp_path):
    """Positions are compared in the CT's own voxels."""
    turn = np.array([[0.8, 0.0, -0.6], [0.36, 0.8, 0.48], [0.48, -0.6, 0.64]])
    orientation, normal = (*turn[:, 0], *turn[:, 1]), turn[:, 2]
    for n, plane in enumerate(stored_numbers()):
        save(image(plane, normal * 2.5 * n, orientation), tmp_path / "ct" / f"{n}.dcm")
        mask = (LABELS[n] == 2) * np.uint8(1)
        save(image(mask, normal * 2.5 * n, orientation), tmp_path / "liver" / f"{n}.dcm")
    np.testing.assert_array_equal(read(tmp_path / "liver", tmp_path / "ct", mask=True).data, (LABELS == 2).T)
