"""The door to all formats: names, messages, and what the stored numbers mean."""

import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from atlas.errors import GeometryError, LabelError, ScanError
from atlas.ingest import values, volume
from atlas.ingest.volume import read_ct, read_labels

AFFINE = np.diag([-0.8, -0.7, 2.5, 1.0])
SHAPE = (7, 6, 5)


def save(path, data, affine=AFFINE, slope=1.0, inter=0.0):
    image = nib.Nifti1Image(data, affine)
    image.header.set_slope_inter(slope, inter)
    raw = image.to_bytes()
    path.write_bytes(raw[:112] + np.array([slope, inter], "<f4").tobytes() + raw[120:])
    return path


def labelled(value, dtype=np.float64, count=3):
    data = np.zeros(SHAPE, dtype)
    data.reshape(-1)[10 : 10 + count] = value
    return data


# names and messages


def test_other_formats_are_refused_with_those_that_can_be_read(tmp_path):
    path = tmp_path / "scan.dcm"
    with pytest.raises(ScanError, match=r"names must end in one of \.nii, \.nii\.gz, \.mha, \.mhd, \.nrrd, \.nhdr"):
        read_ct(path)


@pytest.mark.parametrize("suffix", volume.SUFFIXES)
def test_the_suffix_chooses_the_format_in_any_case(tmp_path, suffix):
    data = labelled(2, np.uint8)
    lower = tmp_path / f"label{suffix}"
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing((0.8, 0.7, 2.5))
    sitk.WriteImage(image, str(lower))
    upper = lower.with_name(f"LABEL{suffix.upper()}")
    lower.rename(upper)
    found = read_labels(upper)
    assert np.array_equal(found.data, data)
    assert np.allclose(found.affine, AFFINE)


@pytest.mark.parametrize("suffix", volume.SUFFIXES)
@pytest.mark.parametrize("read", [read_ct, read_labels])
def test_missing_files_and_folders_are_named(tmp_path, read, suffix):
    path = tmp_path / f"scan{suffix}"
    with pytest.raises(ScanError, match=f"^{re.escape(str(path))}: cannot be read: No such file"):
        read(path)
    path.mkdir()
    with pytest.raises(ScanError, match=f"^{re.escape(str(path))}: cannot be read: Is a directory"):
        read(path)


def test_every_message_begins_with_the_file_and_keeps_its_kind(tmp_path):
    sheared = AFFINE.copy()
    sheared[1, 2] = 0.5
    path = save(tmp_path / "label.nii", labelled(0.5), sheared)
    with pytest.raises(GeometryError, match=f"^{re.escape(str(path))}: the axes"):
        read_labels(path, affine="sform")
    with pytest.raises(LabelError, match=f"^{re.escape(str(path))}: holds values that are no labels"):
        read_labels(save(path, labelled(0.5)))


def test_the_geometry_is_judged_before_the_voxels_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(values, "hounsfield", lambda stored: pytest.fail("read although refused"))
    with pytest.raises(GeometryError, match=r"the spacing 0\.01 x"):
        read_ct(save(tmp_path / "ct.nii", labelled(1), np.diag([0.01, 1, 1, 1])), affine="sform")


def test_too_little_memory_is_a_reason_like_others(tmp_path, monkeypatch):
    def exhausted(stored):
        raise MemoryError

    monkeypatch.setattr(values, "hounsfield", exhausted)
    with pytest.raises(ScanError, match="does not fit into the memory"):
        read_ct(save(tmp_path / "ct.nii", labelled(1)))


# Hounsfield units


@pytest.mark.parametrize(
    ("dtype", "stored", "expected"),
    [
        (np.int32, [-100_000, -1024, 3071, 100_000], [-32768, -1024, 3071, 32767]),
        (np.uint16, [0, 65535], [0, 32767]),
        (np.uint32, [0, 4_000_000_000], [0, 32767]),
        (np.int64, [-(2**40), 5], [-32768, 5]),
        (np.uint64, [2**63, 5], [32767, 5]),
        (np.int8, [-128, 127], [-128, 127]),
    ],
)
def test_integers_saturate_into_int16(tmp_path, dtype, stored, expected):
    data = np.zeros(SHAPE, dtype)
    data[: len(stored), 0, 0] = stored
    path = tmp_path / "ct.nii"
    image = nib.Nifti1Image(data, AFFINE, dtype=dtype)
    nib.save(image, path)
    found = read_ct(path).data
    assert found.dtype == np.int16
    assert found[: len(stored), 0, 0].tolist() == expected


def test_floats_and_scaled_integers_become_float32(tmp_path):
    path = save(tmp_path / "ct.nii", labelled(-1000.25))
    assert read_ct(path).data.dtype == np.float32
    assert read_ct(path).data.min() == -1000.25
    found = read_ct(save(path, labelled(100, np.int16), slope=0.5, inter=-1024)).data
    assert found.dtype == np.float32
    assert set(np.unique(found)) == {-1024, -974}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slope", [1.0, 2.0])
def test_a_ct_with_unknown_voxels_is_refused_with_their_number(tmp_path, dtype, slope):
    data = labelled(np.nan, dtype, count=12)
    data[0, 0, 0] = -np.inf
    with pytest.raises(ScanError, match="holds 12 NaN and 1 infinite voxels of 210"):
        read_ct(save(tmp_path / "ct.nii", data, slope=slope))


@pytest.mark.parametrize(("value", "slope"), [(1e300, 1.0), (1e30, 3e38)])
def test_what_float32_cannot_hold_is_infinite(tmp_path, value, slope):
    with pytest.raises(ScanError, match="0 NaN and 3 infinite"):
        read_ct(save(tmp_path / "ct.nii", labelled(value), slope=slope))


# labels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("stored", "label"), [(0.9999, 1), (1.0000000591, 1), (41.9995, 42), (-0.0004, 0)])
def test_what_float_storage_loses_is_given_back(tmp_path, dtype, stored, label):
    found = read_labels(save(tmp_path / "label.nii", labelled(stored, dtype))).data
    assert found.dtype == np.uint8
    assert np.array_equal(found, labelled(label, np.uint8))


def test_masks_of_scaled_bytes_are_zero_and_one(tmp_path):
    data = np.where(labelled(1) > 0, 127, -128).astype(np.int8)
    path = save(tmp_path / "mask.nii", data, slope=1 / 255, inter=128 / 255)
    assert np.array_equal(read_labels(path).data, labelled(1, np.uint8))
    data[3, 3, 3] = 0
    with pytest.raises(LabelError, match=r"no labels: 0\.501961 \(1 voxels\)\. A label"):
        read_labels(save(path, data, slope=1 / 255, inter=128 / 255))


@pytest.mark.parametrize(
    ("value", "dtype", "told"),
    [
        (0.5, np.float64, "0.5 (3 voxels)"),
        (0.99, np.float32, "0.99 (3 voxels)"),
        (-1, np.int16, "-1 (3 voxels)"),
        (-1, np.int8, "-1 (3 voxels)"),
        (-2, np.float64, "-2 (3 voxels)"),
        (70_000, np.int32, "70000 (3 voxels)"),
        (70_000, np.uint32, "70000 (3 voxels)"),
        (2**40, np.uint64, "1.09951e+12 (3 voxels)"),
        (1e30, np.float32, "1e+30 (3 voxels)"),
        (np.nan, np.float64, "nan (3 voxels)"),
        (np.inf, np.float32, "inf (3 voxels)"),
    ],
)
@pytest.mark.parametrize("piece", [2, values.PIECE])
def test_values_that_are_no_labels_are_named_and_counted(tmp_path, monkeypatch, value, dtype, told, piece):
    monkeypatch.setattr(values, "PIECE", piece)
    path = tmp_path / "label.nii"
    nib.save(nib.Nifti1Image(labelled(value, dtype), AFFINE, dtype=dtype), path)
    with pytest.raises(LabelError, match=re.escape(f"no labels: {told}. A label is a whole number from 0 to 65535")):
        read_labels(path)


def test_of_many_wrong_values_the_most_frequent_are_named(tmp_path):
    data = np.zeros(SHAPE)
    data.reshape(-1)[:28] = [-k for k in range(1, 8) for _ in range(k)]
    with pytest.raises(LabelError, match=r"-7 \(7 voxels\), -6 .* -3 \(3 voxels\) and at least 2 other values\."):
        read_labels(save(tmp_path / "label.nii", data))


@pytest.mark.parametrize("piece", [16, values.PIECE])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_labels_above_255_widen_the_result(tmp_path, monkeypatch, dtype, piece):
    monkeypatch.setattr(values, "PIECE", piece)
    data = np.arange(210).reshape(SHAPE).astype(dtype)
    assert read_labels(save(tmp_path / "label.nii", data)).data.dtype == np.uint8
    data[6, 5, 4] = 65535
    found = read_labels(save(tmp_path / "label.nii", data)).data
    assert found.dtype == np.uint16
    assert found.flags.f_contiguous
    assert np.array_equal(found, data)
