"""NIfTI files, sound and broken, against nibabel and SimpleITK."""

import gzip
import struct
import tarfile
import tracemalloc
import zlib
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Extension
from scipy.spatial.transform import Rotation

from atlas.errors import AtlasError, GeometryError, LabelError, ScanError
from atlas.ingest import bytestream, values
from atlas.ingest.volume import Volume, read_ct, read_labels

AFFINE = np.diag([-0.8, -0.7, 2.5, 1.0])
AFFINE[:3, 3] = (100, 90, -50)
SHAPE = (7, 6, 5)
REALDATA = Path(__file__).parents[3] / "shared" / "realdata"


def realdata(test):
    absent = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"the real scans are not at {REALDATA}")
    return pytest.mark.realdata(absent(test))


def hu(shape=SHAPE, dtype=np.int16, seed=0):
    return np.random.default_rng(seed).integers(-1024, 3072, shape).astype(dtype)


def write(path, data, affine=AFFINE, *, kind=nib.Nifti1Image, slope=None, inter=0.0, **fields):
    """Save a file with exactly these stored numbers and header fields."""
    image = kind(data, affine)
    image.header.set_slope_inter(slope if slope is not None else 1, inter)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def patched(path, offset, code, *numbers):
    """Overwrite header bytes of an uncompressed little-endian file."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + code, data, offset, *numbers)
    path.write_bytes(data)
    return path


DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE = 40, 70, 76, 108, 112
UNITS, QFORM_CODE, SFORM_CODE, QUATERN, SROW, MAGIC = 123, 252, 254, 256, 280, 344


# position in space


def world_by_itk(path, index):
    x, y, z = sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint([int(i) for i in index])
    return np.array([-x, -y, z])


def orientations():
    for axes in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            yield np.eye(3)[:, axes] * signs


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_every_orientation_lies_where_simpleitk_puts_it(tmp_path, form):
    data = hu()
    for direction in orientations():
        affine = np.eye(4)
        affine[:3, :3] = direction * (0.8, 0.7, 2.5)
        affine[:3, 3] = (11, -22, 33)
        image = nib.Nifti1Image(data, affine)
        image.set_qform(affine, code=1 if form == "qform" else 0)
        image.set_sform(affine, code=1 if form == "sform" else 0)
        path = tmp_path / "ct.nii"
        nib.save(image, path)
        found = read_ct(path)
        itk = sitk.ReadImage(str(path))
        assert found.warnings == ()
        for index in ((0, 0, 0), (6, 0, 0), (0, 5, 0), (0, 0, 4), (3, 2, 1)):
            assert found.data[index] == itk[index]
            assert np.allclose((found.affine @ [*index, 1])[:3], world_by_itk(path, index), atol=1e-4)


def test_an_oblique_volume_lies_where_simpleitk_and_nibabel_put_it(tmp_path):
    affine = AFFINE.copy()
    affine[:3, :3] = Rotation.from_euler("xyz", (16, -8, 30), degrees=True).as_matrix() * (0.8, 0.7, 2.5)
    path = write(tmp_path / "ct.nii.gz", hu(), affine)
    found = read_ct(path)
    assert np.allclose(found.affine, nib.load(path).affine, atol=1e-5)
    assert np.allclose((found.affine @ [6, 5, 4, 1])[:3], world_by_itk(path, (6, 5, 4)), atol=1e-4)


def both_forms(path, sform, qform):
    image = nib.Nifti1Image(hu(), sform)
    image.set_sform(sform, code=1)
    image.set_qform(qform, code=1)
    nib.save(image, path)
    return path


def test_two_affines_that_contradict_each_other_need_the_manifests_word(tmp_path):
    other = AFFINE.copy()
    other[2, 3] += 3
    path = both_forms(tmp_path / "ct.nii", AFFINE, other)
    with pytest.raises(GeometryError, match=r"3 mm apart .* 0\.35 mm.*`affine: sform` or `affine: qform`"):
        read_ct(path)
    assert np.allclose(read_ct(path, affine="sform").affine, AFFINE)
    assert np.allclose(read_ct(path, affine="qform").affine, other)


def test_two_affines_within_half_a_voxel_agree_and_the_sform_counts(tmp_path):
    other = AFFINE.copy()
    other[0, 3] += 0.3
    assert np.allclose(read_ct(both_forms(tmp_path / "ct.nii", AFFINE, other)).affine, AFFINE)


def test_the_affine_the_manifest_wants_must_be_there(tmp_path):
    path = patched(write(tmp_path / "ct.nii", hu()), QFORM_CODE, "h", 0)
    assert np.allclose(read_ct(path).affine, AFFINE)
    with pytest.raises(GeometryError, match=r"says `affine: qform`, but this header has only the sform"):
        read_ct(path, affine="qform")


def test_without_any_affine_the_position_is_unknown(tmp_path):
    path = patched(write(tmp_path / "ct.nii", hu()), QFORM_CODE, "hh", 0, 0)
    with pytest.raises(GeometryError, match="neither sform nor qform"):
        read_ct(path)


def test_a_nearly_square_sform_is_repaired_and_a_sheared_one_refused(tmp_path):
    slightly, badly = AFFINE.copy(), AFFINE.copy()
    slightly[1, 2], badly[1, 2] = 0.02, 0.4
    found = read_ct(write(tmp_path / "ct.nii", hu(), slightly), affine="sform")
    assert len(found.warnings) == 1
    assert "direction repaired to the nearest rotation (axes off by 0.46 degrees" in found.warnings[0]
    with pytest.raises(GeometryError, match=r"9\.09 degrees away from square"):
        read_ct(write(tmp_path / "ct.nii", hu(), badly), affine="sform")


@pytest.mark.parametrize(("unit", "per_mm"), [(1, 0.001), (3, 1000.0), (0, 1.0), (2 | 8, 1.0)])
def test_units_of_length_become_millimetres(tmp_path, unit, per_mm):
    stored = AFFINE.copy()
    stored[:3] *= per_mm
    path = write(tmp_path / "ct.nii", hu(), stored, xyzt_units=unit)
    assert np.allclose(read_ct(path).affine, AFFINE, rtol=1e-5)


def test_an_undefined_unit_is_refused(tmp_path):
    with pytest.raises(GeometryError, match="unknown code 5"):
        read_ct(write(tmp_path / "ct.nii", hu(), xyzt_units=5))


def test_millimetres_declared_as_metres_are_noticed(tmp_path):
    with pytest.raises(GeometryError, match="spacing 800 x 700 x 2500 mm is not that of a CT"):
        read_ct(write(tmp_path / "ct.nii", hu(), xyzt_units=1))


def test_an_impossible_quaternion_is_refused(tmp_path):
    path = patched(write(tmp_path / "ct.nii", hu()), QUATERN, "fff", 0.9, 0.9, 0.9)
    patched(path, QFORM_CODE, "hh", 1, 0)
    with pytest.raises(GeometryError, match="its qform is not valid"):
        read_ct(path)


def test_a_quaternion_a_rounding_error_too_long_is_the_half_turn_it_means(tmp_path):
    path = patched(write(tmp_path / "ct.nii", hu()), QUATERN, "fff", 0.0, 0.0, 1.00001)
    patched(path, QFORM_CODE, "hh", 1, 0)
    assert np.allclose(read_ct(path).affine, AFFINE, atol=1e-3)


def test_an_unset_qfac_means_right_handed(tmp_path):
    path = patched(write(tmp_path / "ct.nii", hu()), QFORM_CODE, "hh", 1, 0)
    patched(path, PIXDIM, "f", 0.0)
    assert np.allclose(read_ct(path).affine, AFFINE)


@pytest.mark.parametrize("step", [0.0, -2.5, np.nan, np.inf])
def test_impossible_voxel_sizes_of_a_qform_are_refused(tmp_path, step):
    path = patched(write(tmp_path / "ct.nii", hu()), QFORM_CODE, "hh", 1, 0)
    with pytest.raises(GeometryError, match=str(path)):
        read_ct(patched(path, PIXDIM + 12, "f", step))


# stored numbers


TYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_ct_of_any_type_and_byte_order_equals_nibabels(tmp_path, kind, order, suffix):
    dtype = np.dtype(order + kind)
    low = 0 if dtype.kind == "u" else -100
    data = np.random.default_rng(1).integers(low, 127, SHAPE).astype(dtype)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(dtype)
    path = tmp_path / f"ct{suffix}"
    nib.save(nib.Nifti1Image(data, AFFINE, header), path)
    found = read_ct(path).data
    assert found.dtype == (np.float32 if dtype.kind == "f" else np.int16)
    assert found.flags.f_contiguous
    assert np.array_equal(found, nib.load(path).get_fdata())


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize(("slope", "inter"), [(1.0, -1024.0), (0.1, 0.0), (2.5, 7.0), (-1.0, 0.0)])
def test_a_scaled_ct_equals_nibabels(tmp_path, kind, slope, inter):
    path = write(tmp_path / "ct.nii.gz", hu((9, 8, 7)).clip(0, 127).astype(kind))
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<ff", raw, SLOPE, slope, inter)
    path.write_bytes(gzip.compress(raw))
    found = read_ct(path).data
    assert found.dtype == np.float32
    assert np.array_equal(found, nib.load(path).get_fdata().astype(np.float32))


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_of_zero_or_nan_means_no_scaling(tmp_path, slope):
    path = patched(write(tmp_path / "ct.nii", hu()), SLOPE, "ff", slope, 5.0)
    found = read_ct(path).data
    assert found.dtype == np.int16
    assert np.array_equal(found, hu())


def test_a_slope_without_a_usable_intercept_is_refused(tmp_path):
    with pytest.raises(ScanError, match="scaling cannot be used"):
        read_ct(patched(write(tmp_path / "ct.nii", hu()), SLOPE, "ff", 2.0, np.nan))


def test_pieces_join_seamlessly(tmp_path, monkeypatch):
    monkeypatch.setattr(values, "PIECE", 17)
    data = hu()
    labels = np.abs(hu()).astype(np.float64)
    assert np.array_equal(read_ct(write(tmp_path / "a.nii.gz", data)).data, data)
    assert np.array_equal(read_ct(write(tmp_path / "b.nii.gz", data.astype(np.float64))).data, data)
    assert np.array_equal(read_labels(write(tmp_path / "c.nii.gz", labels)).data, labels)
    assert np.array_equal(read_labels(write(tmp_path / "d.nii.gz", (data > 0).astype("u1"))).data, data > 0)


def test_nifti_2_and_header_extensions_are_read(tmp_path):
    image = nib.Nifti2Image(hu(), AFFINE)
    image.header.extensions.append(Nifti1Extension("comment", b"hello" * 100))
    nib.save(image, tmp_path / "ct.nii.gz")
    found = read_ct(tmp_path / "ct.nii.gz")
    assert np.array_equal(found.data, hu())
    assert np.allclose(found.affine, AFFINE)


def test_data_may_begin_later_than_the_header_ends(tmp_path):
    path = write(tmp_path / "ct.nii", hu())
    raw = path.read_bytes()
    path.write_bytes(raw[:352] + b"\xff" * 1000 + raw[352:])
    assert np.array_equal(read_ct(patched(path, VOX_OFFSET, "f", 1352.0)).data, hu())
    path.write_bytes(raw)
    assert np.array_equal(read_ct(patched(path, VOX_OFFSET, "f", 0.0)).data, hu())


@pytest.mark.parametrize("offset", [100.0, -352.0, np.nan, np.inf])
def test_data_may_not_begin_anywhere(tmp_path, offset):
    with pytest.raises(ScanError, match="voxels begin at byte"):
        read_ct(patched(write(tmp_path / "ct.nii", hu()), VOX_OFFSET, "f", offset))


def test_a_name_may_be_wrong_about_compression(tmp_path):
    plain, packed = write(tmp_path / "a.nii", hu()), write(tmp_path / "b.nii.gz", hu())
    plain.rename(tmp_path / "c.nii.gz")
    packed.rename(tmp_path / "d.nii")
    assert np.array_equal(read_ct(tmp_path / "c.nii.gz").data, hu())
    assert np.array_equal(read_ct(tmp_path / "d.nii").data, hu())


def test_gzip_in_several_members_and_with_rubbish_behind_is_read(tmp_path):
    raw = write(tmp_path / "a.nii", hu()).read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(b"".join(gzip.compress(raw[i : i + 100]) for i in range(0, len(raw), 100)) + b"\0rubbish")
    assert np.array_equal(read_ct(path).data, hu())
    (tmp_path / "a.nii").write_bytes(raw + b"rubbish")
    assert np.array_equal(read_ct(tmp_path / "a.nii").data, hu())


# what is refused


def test_a_truncated_file_is_refused(tmp_path):
    path = write(tmp_path / "ct.nii", hu())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ScanError, match="the header promises 772 bytes, but the file of 771") as caught:
        read_ct(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("left", [0, 1, 3, 200])
def test_a_file_shorter_than_its_header_is_refused(tmp_path, left):
    path = write(tmp_path / "ct.nii", hu())
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ScanError, match=str(path)):
        read_ct(path)


def test_truncated_gzip_is_refused_wherever_it_breaks_off(tmp_path):
    path = write(tmp_path / "ct.nii.gz", hu())
    whole = path.read_bytes()
    for left in range(len(whole)):
        path.write_bytes(whole[:left])
        with pytest.raises(ScanError, match=str(path)):
            read_ct(path)


def test_a_gzip_whose_content_ends_early_is_refused(tmp_path):
    path = write(tmp_path / "ct.nii.gz", hu())
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-10]))
    with pytest.raises(ScanError, match="the data ends after 762 bytes, 10 or more too early"):
        read_ct(path)


def test_damage_in_the_middle_of_gzip_is_noticed_by_the_checksum(tmp_path):
    path = write(tmp_path / "ct.nii.gz", np.zeros((20, 20, 20), np.int16))
    damaged = bytearray(path.read_bytes())
    damaged[-8] ^= 1  # the stored checksum; every voxel is still right
    path.write_bytes(damaged)
    with pytest.raises(ScanError, match="compressed data is damaged"):
        read_ct(path)


def test_without_isal_the_standard_library_does_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(bytestream, "inflate", zlib)
    monkeypatch.setattr(bytestream, "_DAMAGED", zlib.error)
    path = write(tmp_path / "ct.nii.gz", hu())
    whole = path.read_bytes()
    assert np.array_equal(read_ct(path).data, hu())
    path.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(ScanError, match="compressed data is damaged"):
        read_ct(path)
    path.write_bytes(whole[:-9])
    with pytest.raises(ScanError, match="breaks off"):
        read_ct(path)


def test_what_is_no_nifti_is_refused(tmp_path):
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(b"<!DOCTYPE html><html>Sign in to download</html>")
    with pytest.raises(ScanError, match=r"not a NIfTI file: it begins with the bytes b'<!DO'"):
        read_ct(path)


def test_half_of_a_pair_is_refused(tmp_path):
    path = write(tmp_path / "ct.nii", hu())
    with pytest.raises(ScanError, match=r"one half of a \.hdr/\.img pair"):
        read_ct(patched(path, MAGIC, "4s", b"ni1\0"))
    with pytest.raises(ScanError, match="no NIfTI file"):
        read_ct(patched(path, MAGIC, "4s", b"\0\0\0\0"))


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_of_several_numbers_are_refused(tmp_path, dtype):
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), AFFINE), tmp_path / "ct.nii")
    with pytest.raises(ScanError, match="one integer or one float"):
        read_ct(tmp_path / "ct.nii")


@pytest.mark.parametrize("code", [0, 1, 9999, -3])
def test_unknown_types_are_refused(tmp_path, code):
    with pytest.raises(ScanError, match=str(tmp_path)):
        read_ct(patched(write(tmp_path / "ct.nii", hu()), DATATYPE, "h", code))


def test_a_4d_file_with_one_volume_is_a_volume(tmp_path):
    found = read_ct(write(tmp_path / "ct.nii.gz", hu()[..., None, None]))
    assert np.array_equal(found.data, hu())


def test_a_4d_file_with_several_volumes_is_refused_with_their_number(tmp_path):
    with pytest.raises(ScanError, match=r"holds 3 volumes \(7 x 6 x 5 x 3\)"):
        read_ct(write(tmp_path / "ct.nii.gz", hu((*SHAPE, 3))))


def test_a_single_image_is_refused_and_a_single_slice_is_not(tmp_path):
    with pytest.raises(ScanError, match=r"an image of 2 dimensions \(7 x 6\)"):
        read_ct(write(tmp_path / "ct.nii", hu((7, 6))))
    assert read_ct(write(tmp_path / "ct.nii", hu((7, 6, 1)))).data.shape == (7, 6, 1)


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_volume_without_voxels_is_refused(tmp_path, size, axis):
    with pytest.raises(ScanError, match="holds no voxels: its size is"):
        read_ct(patched(write(tmp_path / "ct.nii", hu()), DIM + 2 * axis, "h", size))


@pytest.mark.parametrize("count", [0, 8, -1])
def test_an_impossible_number_of_dimensions_is_refused(tmp_path, count):
    with pytest.raises(ScanError, match=f"claims {count} dimensions"):
        read_ct(patched(write(tmp_path / "ct.nii", hu()), DIM, "h", count))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("size", [2000, 32767])
def test_claims_beyond_the_file_take_no_memory(tmp_path, suffix, size):
    path = patched(write(tmp_path / "ct.nii", hu()), DIM + 2, "hhh", size, size, size // 4)
    if suffix == ".nii.gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    tracemalloc.start()
    with pytest.raises(ScanError, match=r"more than the 2147483648|the header promises"):
        read_ct(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


# memory and fuzz


def peak_beyond_output(read, path):
    tracemalloc.start()
    found = read(path).data
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - found.nbytes


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_reading_needs_the_result_and_little_more(tmp_path, slope):
    data = np.zeros((256, 256, 96), np.float64)  # 50 MB as stored, 6 MB as labels
    data[50:100, 60:90, 20:70] = 4 / slope
    path = tmp_path / "big.nii.gz"
    raw = nib.Nifti1Image(data, AFFINE).to_bytes()
    raw = raw[:SLOPE] + struct.pack("<ff", slope, 0.0) + raw[SLOPE + 8 :]
    path.write_bytes(gzip.compress(raw, 1))
    assert peak_beyond_output(read_labels, path) < 20e6
    assert peak_beyond_output(read_ct, path) < 20e6
    assert set(np.unique(read_labels(path).data)) == {0, 4}


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLIPS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), min_size=1, max_size=6)
HEADER_FLIPS = st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=8)


def survives(path, contents):
    """Reading gives a volume or a reason, never anything else and never much memory."""
    path.write_bytes(contents)
    for read in (read_ct, read_labels):
        tracemalloc.start()
        try:
            found: Volume | str = read(path)
        except AtlasError as error:
            found = str(error)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert isinstance(found, Volume) or found.startswith(f"{path}: ")
        assert peak < 50e6


@FUZZ
@given(FLIPS, st.integers(0, 10**9))
def test_damaged_files_are_read_or_refused(tmp_path, flips, cut):
    whole = write(tmp_path / "whole.nii.gz", hu()).read_bytes()
    damaged = bytearray(whole)
    for where, value in flips:
        damaged[where % len(damaged)] = value
    survives(tmp_path / "ct.nii.gz", bytes(damaged))
    survives(tmp_path / "ct.nii.gz", whole[: cut % len(whole)])


@FUZZ
@given(HEADER_FLIPS, st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]), st.booleans())
def test_damaged_headers_are_read_or_refused(tmp_path, flips, kind, packed):
    damaged = bytearray(kind(hu(), AFFINE).to_bytes())
    for where, value in flips:
        damaged[where] = value
    survives(tmp_path / "ct.nii", gzip.compress(damaged, 1) if packed else bytes(damaged))


# real files


@realdata
def test_masks_stored_as_scaled_bytes_are_zero_and_one(tmp_path):
    name = "AbdomenAtlasDemo/BDMAP_00000006/segmentations/liver.nii.gz"
    with tarfile.open(REALDATA / "abdomenatlas/AbdomenAtlasDemo_BDMAP_00000006_labels.tar.xz") as archive:
        archive.extract(name, tmp_path, filter="data")
    stored = np.asanyarray(nib.load(tmp_path / name).dataobj.get_unscaled())
    assert {stored.min(), stored.max()} == {-128, 127}
    assert np.array_equal(read_labels(tmp_path / name).data, (stored == 127).astype(np.uint8))
    unscaled = read_labels(REALDATA / "abdomenatlas/BDMAP_00000338/segmentations/postcava.nii.gz").data
    assert {unscaled.min(), unscaled.max()} == {0, 1}


@realdata
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("panorama/automatic_labels/100003_00001.nii.gz", 6),
        ("kits19/data/case_00015/segmentation.nii.gz", 2),
        ("kits19/data/case_00037/segmentation.nii.gz", 2),
        ("amos/labelsTr/amos_0001.nii.gz", 15),
    ],
)
def test_published_labels_equal_nibabels(name, most):
    found = read_labels(REALDATA / name)
    reference = nib.load(REALDATA / name)
    assert found.data.dtype == np.uint8
    assert found.data.max() == most
    assert np.array_equal(found.data, np.asanyarray(reference.dataobj))
    assert np.allclose(found.affine, reference.affine, atol=1e-4)


@realdata
def test_a_really_sheared_file_is_refused():
    path = REALDATA / "odd_nifti/shear.nii.gz"
    with pytest.raises(GeometryError, match=r"they put a corner of the volume 35\.6 mm apart"):
        read_ct(path)
    with pytest.raises(GeometryError, match=r"18\.50 degrees away from square"):
        read_ct(path, affine="sform")


@realdata
def test_a_really_oblique_file_is_read():
    path = REALDATA / "odd_nifti/CT_pitch.nii.gz"
    found, reference = read_ct(path), nib.load(path)
    assert found.warnings == ()
    assert np.array_equal(found.data, reference.get_fdata())
    assert np.allclose(found.affine, reference.affine, atol=1e-4)
    for index in ((0, 0, 0), (174, 247, 57)):
        assert np.allclose((found.affine @ [*index, 1])[:3], world_by_itk(path, index), atol=1e-2)


@realdata
def test_a_stale_but_consistent_affine_is_taken_as_it_is():
    path = REALDATA / "totalsegmentator/example_ct_sm.nii.gz"
    found = read_ct(path)
    assert found.data.dtype == np.int16
    assert np.allclose(found.affine, nib.load(path).affine)
    with pytest.raises(LabelError, match="holds values that are no labels"):
        read_labels(path)
