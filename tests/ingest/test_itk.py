"""MetaImage and NRRD files, sound and broken."""

import os
import re
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from atlas.errors import AtlasError, GeometryError, LabelError, ScanError
from atlas.ingest.volume import Volume, read_ct, read_labels

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
SHAPE = (7, 6, 5)
LPS_TO_RAS = np.diag([-1, -1, 1])


def hu(shape=SHAPE, dtype=np.int16):
    return np.random.default_rng(0).integers(-1024, 3072, shape).astype(dtype)


def image_of(data, direction=None):
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing((0.8, 0.7, 2.5))
    image.SetOrigin((-100, 50, 33))
    if direction is not None:
        image.SetDirection(np.asarray(direction, dtype=float).ravel().tolist())
    return image


def write(path, data, direction=None, *, packed=False):
    sitk.WriteImage(image_of(data, direction), str(path), packed)
    return path


def edited(path, *replacements):
    """Change the text of a header, leaving what follows as it is."""
    contents = path.read_bytes()
    for old, new in replacements:
        contents, count = re.subn(old.encode(), new.encode(), contents, count=1)
        assert count == 1
    path.write_bytes(contents)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("packed", [False, True])
def test_voxels_and_positions_are_simpleitks(tmp_path, suffix, packed):
    direction = Rotation.from_euler("xyz", (16, -8, 30), degrees=True).as_matrix()
    path = write(tmp_path / f"ct{suffix}", hu(), direction, packed=packed)
    found = read_ct(path)
    assert found.warnings == ()
    assert found.data.dtype == np.int16
    assert found.data.flags.f_contiguous
    image = sitk.ReadImage(str(path))
    for index in ((0, 0, 0), (6, 0, 0), (0, 5, 0), (0, 0, 4), (3, 2, 1)):
        assert found.data[index] == image[index]
        world = LPS_TO_RAS @ image.TransformIndexToPhysicalPoint(index)
        assert np.allclose((found.affine @ [*index, 1])[:3], world, atol=1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_type_is_read(tmp_path, suffix, kind):
    data = np.abs(hu()).clip(0, 120).astype(kind)
    path = write(tmp_path / f"ct{suffix}", data)
    assert np.array_equal(read_ct(path).data, data)
    found = read_labels(path).data
    assert found.dtype == np.uint8
    assert np.array_equal(found, data)


@pytest.mark.parametrize(
    ("space", "to_ras"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("RAS", (1, 1, 1)),
    ],
)
def test_the_space_of_an_nrrd_is_heeded(tmp_path, space, to_ras):
    path = write(tmp_path / "ct.nrrd", hu())
    found = read_ct(edited(path, ("space: left-posterior-superior", f"space: {space}")))
    assert np.allclose(found.affine[:3, :3], np.diag(to_ras) * (0.8, 0.7, 2.5))
    assert np.allclose(found.affine[:3, 3], np.array(to_ras) * (-100, 50, 33))


@pytest.mark.parametrize("space", ["space: scanner-xyz", "space: 3D-right-handed", "space dimension: 3"])
def test_a_space_that_is_not_anatomical_is_refused(tmp_path, space):
    path = edited(write(tmp_path / "ct.nrrd", hu()), ("space: left-posterior-superior", space))
    with pytest.raises(GeometryError, match="Write the true one into the header: left-posterior-superior"):
        read_ct(path)


def lean(path, by):
    """Let the third axis lean by this much of its length along the second."""
    if path.suffix in {".mha", ".mhd"}:
        return edited(path, ("TransformMatrix = .*", f"TransformMatrix = 1 0 0 0 1 0 0 {by:g} 1"))
    axes = f"(0.8,0,0) (0,0.7,0) (0,{2.5 * by:g},2.5)"
    return edited(path, ("space directions: .*", f"space directions: {axes}"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sheared_axes_are_refused_and_nearly_square_ones_repaired(tmp_path, suffix):
    path = write(tmp_path / f"ct{suffix}", hu())
    found = read_ct(lean(path, 0.008))
    assert len(found.warnings) == 1
    assert "axes off by 0.46 degrees" in found.warnings[0]
    with pytest.raises(GeometryError, match=r"16\.70 degrees away from square"):
        read_ct(lean(path, 0.3))


def test_a_direction_without_volume_is_refused(tmp_path):
    path = edited(write(tmp_path / "ct.mha", hu()), ("TransformMatrix = .*", "TransformMatrix = 1 0 0 0 1 0 0 1 0"))
    with pytest.raises(ScanError, match=r"ITK cannot read it .*determinant is 0"):
        read_ct(path)


def test_a_metaimage_without_direction_is_read_with_a_warning(tmp_path):
    path = edited(write(tmp_path / "ct.mha", hu()), ("TransformMatrix = .*\n", ""))
    assert read_ct(path).warnings == ("header has no TransformMatrix: axes taken to run left, posterior, superior",)


@pytest.mark.parametrize("name", ["/etc/passwd", "../ct.raw", "sub/ct.raw", "..", "LIST", "ct%03d.raw 1 5 1", "a\\b"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_headers_may_not_point_out_of_their_folder(tmp_path, suffix, name):
    path = write(tmp_path / f"ct{suffix}", hu())
    if suffix in {".mha", ".mhd"}:
        edited(path, ("ElementDataFile = .*", f"ElementDataFile = {name}".replace("\\", "\\\\")))
    elif suffix == ".nrrd":
        edited(path, ("encoding: raw", f"encoding: raw\ndata file: {name}".replace("\\", "\\\\")))
    else:
        edited(path, ("data file: .*", f"data file: {name}".replace("\\", "\\\\")))
    with pytest.raises(ScanError, match="only one plain file name in the same folder is followed"):
        read_ct(path)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_missing_data_file_is_named(tmp_path, suffix):
    path = write(tmp_path / f"ct{suffix}", hu())
    (tmp_path / "ct.raw").unlink()
    with pytest.raises(ScanError, match=r"names 'ct\.raw' as the data, but there is no such file"):
        read_ct(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("packed", [False, True])
def test_truncated_data_is_refused(tmp_path, suffix, packed):
    path = write(tmp_path / f"ct{suffix}", hu(), packed=packed)
    data = path if suffix in {".mha", ".nrrd"} else next(f for f in tmp_path.iterdir() if f != path)
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(ScanError, match=re.escape(str(path))):
        read_ct(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_compressed_data_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"ct{suffix}", hu(), packed=True)
    data = path if suffix in {".mha", ".nrrd"} else next(f for f in tmp_path.iterdir() if f != path)
    damaged = bytearray(data.read_bytes())
    damaged[-30] ^= 0xFF
    data.write_bytes(damaged)
    with pytest.raises(ScanError, match=re.escape(str(path))):
        read_ct(path)


def test_a_checksum_alone_is_enough_to_refuse(tmp_path):
    path = write(tmp_path / "ct.mha", np.zeros(SHAPE, np.int16), packed=True)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ScanError, match="compressed data is damaged"):
        read_ct(path)


@pytest.mark.parametrize("size", ["10", "100000"])
def test_a_compressed_size_that_is_not_the_datas_is_refused(tmp_path, size):
    path = write(tmp_path / "ct.mha", hu(), packed=True)
    edited(path, ("CompressedDataSize = .*", f"CompressedDataSize = {size}"))
    with pytest.raises(ScanError, match=f"promises {size} bytes of compressed data, there are"):
        read_ct(path)
    with pytest.raises(ScanError, match="promises no bytes of compressed data, there are"):
        read_ct(edited(path, ("CompressedDataSize = .*\n", "")))


def test_more_compressed_data_than_the_header_tells_is_refused(tmp_path):
    path = edited(write(tmp_path / "ct.mha", hu(), packed=True), ("DimSize = 7 6 5", "DimSize = 7 6 1"))
    with pytest.raises(ScanError, match="inflates to 420 bytes, its header promises 84"):
        read_ct(path)


def test_compressed_data_in_a_file_of_its_own_needs_no_size(tmp_path):
    path = write(tmp_path / "ct.mhd", hu(), packed=True)
    assert np.array_equal(read_ct(edited(path, ("CompressedDataSize = .*\n", ""))).data, hu())


@pytest.mark.parametrize("count", ["93", "-1", "x", "", "3\nNDims = 93"])
def test_a_number_of_dimensions_that_would_crash_itk_is_refused(tmp_path, count):
    path = edited(write(tmp_path / "ct.mha", hu()), ("NDims = 3", f"NDims = {count}"))
    with pytest.raises(ScanError, match="dimensions; a volume has 3"):
        read_ct(path)


@pytest.mark.parametrize(("suffix", "old", "new"), [
    (".mha", "DimSize = .*", "DimSize = 1200 1200 1200"),
    (".mha", "DimSize = .*", "DimSize = 100000 100000 100000"),
    (".nrrd", "sizes: .*", "sizes: 1200 1200 1200"),
    (".nrrd", "sizes: .*", "sizes: 100000 100000 100000"),
])  # fmt: skip
def test_claims_beyond_the_file_are_refused(tmp_path, suffix, old, new):
    path = edited(write(tmp_path / f"ct{suffix}", hu()), (old, new))
    with pytest.raises(ScanError, match=r"the header promises|more than the 2147483648"):
        read_ct(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_voxels_of_several_numbers_are_refused(tmp_path, suffix):
    image = image_of(hu())
    sitk.WriteImage(sitk.Compose([image, image]), str(tmp_path / f"ct{suffix}"))
    with pytest.raises(ScanError, match="2 components in each voxel"):
        read_ct(tmp_path / f"ct{suffix}")


def test_four_dimensions_are_fine_if_there_is_one_volume(tmp_path):
    image = image_of(hu())
    path = tmp_path / "ct.mha"
    sitk.WriteImage(sitk.JoinSeries([image]), str(path))
    found = read_ct(path)
    assert np.array_equal(found.data, hu())
    assert np.allclose(found.affine @ [6, 5, 4, 1], [100 - 4.8, -50 - 3.5, 43, 1])
    sitk.WriteImage(sitk.JoinSeries([image, image, image]), str(path))
    with pytest.raises(ScanError, match=r"holds 3 volumes \(7 x 6 x 5 x 3\)"):
        read_ct(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_single_image_is_refused(tmp_path, suffix):
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(hu((6, 5))), str(path))
    if suffix in {".nrrd", ".nhdr"}:
        with pytest.raises(AtlasError, match=re.escape(str(path))):
            read_ct(path)
    else:
        with pytest.raises(ScanError, match="2 dimensions"):
            read_ct(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_such_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"ct{suffix}"
    for contents in (b"", b"<html>", os.urandom(100_000)):
        path.write_bytes(contents)
        with pytest.raises(ScanError, match=re.escape(str(path))):
            read_ct(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_rules_for_values_are_those_of_every_format(tmp_path, suffix):
    path = tmp_path / f"ct{suffix}"
    data = np.zeros(SHAPE, np.float64)
    data[0, 0, :3] = 0.9999
    data[1, 1, 1] = 300
    assert read_labels(write(path, data)).data[0, 0].tolist() == [1, 1, 1, 0, 0]
    assert read_labels(path).data.dtype == np.uint16
    data[0, 0, :3] = 0.5
    with pytest.raises(LabelError, match=r"0\.5 \(3 voxels\)"):
        read_labels(write(path, data))
    data[0, 0, :2] = np.nan
    with pytest.raises(ScanError, match="2 NaN and 0 infinite"):
        read_ct(write(path, data))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from((".mha", ".nrrd")),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damaged_files_are_read_or_refused(tmp_path, suffix, packed, flips):
    path = write(tmp_path / f"ct{suffix}", hu(), packed=packed)
    damaged = bytearray(path.read_bytes())
    for where, value in flips:
        damaged[where % len(damaged)] = value
    path.write_bytes(damaged)
    tracemalloc.start()
    try:
        found: Volume | str = read_ct(path)
    except AtlasError as error:
        found = str(error)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found, Volume) or found.startswith(f"{path}: ")
    assert peak < 50e6
