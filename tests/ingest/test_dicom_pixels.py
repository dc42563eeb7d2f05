"""HU of DICOM slices, however they are stored."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from ct_writing import axial, changed, compressed_by_itk, image, multiframe, save, save_all, stored_numbers
from pydicom.uid import ExplicitVRBigEndian, JPEGLSLossless, RLELossless

from atlas.errors import ScanError
from atlas.ingest.volume import read_ct


def expected(images):
    """HU by pydicom: (i, j, k)."""
    planes = [float(ds.RescaleSlope) * ds.pixel_array.astype(float) + float(ds.RescaleIntercept) for ds in images]
    return np.stack(planes).T


def in_16_bits(numbers, bits=12, *, signed=False):
    """Images that use fewer bits than they have."""
    stored = np.asarray(numbers).astype(np.int16) & (2**bits - 1)
    images = axial(stored.astype(np.uint16))
    for ds in images:
        changed(ds, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=int(signed))
    return images


NUMBERS = stored_numbers()
SIGNED = NUMBERS.astype(np.int16) - 2000
STORED = {
    "unsigned": axial(NUMBERS),
    "signed": axial(SIGNED),
    "12 of 16 bits": in_16_bits(NUMBERS),
    "12 of 16 bits, signed": in_16_bits(SIGNED // 2, signed=True),
    "8 bits": axial((NUMBERS % 256).astype(np.uint8)),
    "slope": axial(NUMBERS, RescaleSlope=2, RescaleIntercept=-2048),
    "negative slope": axial(NUMBERS, RescaleSlope=-1, RescaleIntercept=3000),
    "fractions": axial(NUMBERS, RescaleSlope="0.5", RescaleIntercept="-1024.25"),
    "rescaled slice by slice": [changed(ds, RescaleIntercept=-1000 - k) for k, ds in enumerate(axial(NUMBERS))],
    "of whole and broken slopes": [changed(ds, RescaleSlope=1 + k / 4) for k, ds in enumerate(axial(NUMBERS))],
    "light to dark": axial(NUMBERS, PhotometricInterpretation="MONOCHROME1"),
    "light to dark, signed": axial(SIGNED, PhotometricInterpretation="MONOCHROME1"),
    "light to dark, 12 bits": [changed(ds, PhotometricInterpretation="MONOCHROME1") for ds in in_16_bits(NUMBERS)],
    "light to dark, fractions": axial(NUMBERS, PhotometricInterpretation="MONOCHROME1", RescaleSlope="0.3"),
}


@pytest.mark.parametrize("kind", STORED)
def test_as_pydicom_decodes_it(tmp_path, kind):
    truth = expected(STORED[kind])
    data = read_ct(save_all(STORED[kind], tmp_path)).data
    whole = all(float(ds.RescaleSlope).is_integer() and float(ds.RescaleIntercept).is_integer() for ds in STORED[kind])
    assert data.dtype == (np.int16 if whole else np.float32)
    np.testing.assert_array_equal(data, truth.astype(data.dtype))


def test_what_gdcm_cannot_decode_is_refused(tmp_path):
    images = [changed(ds, PhotometricInterpretation="MONOCHROME1") for ds in in_16_bits(SIGNED // 2, signed=True)]
    with pytest.raises(ScanError, match=r"dcm: GDCM cannot decode it"):
        read_ct(save_all(images, tmp_path))


def test_too_few_pixels_with_more_behind_them(tmp_path):
    images = axial(NUMBERS)
    changed(images[2], PixelData=images[2].PixelData[:-4], DataSetTrailingPadding=b"\0" * 100)
    with pytest.raises(ScanError, match="its pixels need 24 bytes, 4 are missing"):
        read_ct(save_all(images, tmp_path))


def test_big_endian_as_old_archives_have_it(tmp_path):
    for n, ds in enumerate(axial(NUMBERS)):
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        ds.PixelData = NUMBERS[n].astype(">u2").tobytes()
        pydicom.dcmwrite(tmp_path / f"{n}.dcm", ds, implicit_vr=False, little_endian=False, enforce_file_format=True)
    np.testing.assert_array_equal(read_ct(tmp_path).data, expected(axial(NUMBERS)))


def test_what_is_beyond_the_range_of_int16_saturates(tmp_path):
    stored = np.full((3, 4, 5), 65535, np.uint16)
    data = read_ct(save_all(axial(stored, RescaleIntercept=0), tmp_path)).data
    assert data.dtype == np.int16
    assert (data == 32767).all()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_by_pydicom(tmp_path, syntax):
    images = axial(stored_numbers((4, 16, 16)))
    truth = expected(images)
    for ds in images:
        ds.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read_ct(save_all(images, tmp_path)).data, truth)


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG"])
def test_compressed_by_itk(tmp_path, compressor):
    images = axial(stored_numbers((4, 16, 16)))
    truth = expected(images)
    images = [compressed_by_itk(ds, tmp_path, compressor) for ds in images]
    assert images[0].file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_ct(save_all(images, tmp_path / "ct")).data, truth)


@pytest.mark.parametrize("kept", [-1, -9, -40])
def test_compressed_pixels_cut_off(tmp_path, kept):
    images = axial(stored_numbers((4, 16, 16)))
    for ds in images:
        ds.compress(RLELossless, generate_instance_uid=False)
    path = sorted(save_all(images, tmp_path).iterdir())[1]
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ScanError, match=f"{path.name}: its compressed pixels have no end"):
        read_ct(tmp_path)


def test_damaged_compressed_pixels(tmp_path):
    images = [compressed_by_itk(ds, tmp_path, "JPEG2000") for ds in axial(stored_numbers((4, 16, 16)))]
    path = sorted(save_all(images, tmp_path / "ct").iterdir())[1]
    content = path.read_bytes()
    start = content.index(b"\xff\x4f\xff\x51")  # of the JPEG 2000 code stream
    path.write_bytes(content[:start] + b"\0" * 60 + content[start + 60 :])
    with pytest.raises(ScanError, match=path.name):
        read_ct(tmp_path / "ct")


def test_pixels_of_another_size_than_the_header_says(tmp_path):
    images = axial(stored_numbers((4, 16, 16)))
    for ds in images:
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
    save_all([changed(ds, Rows=20) for ds in images], tmp_path)
    with pytest.raises(ScanError, match="Fetch it again"):
        read_ct(tmp_path)


POSITIONS = [(0, 0, z) for z in range(5)]
FRACTIONS = [(0.5 * (k + 1), -1000 - k) for k in range(5)]
MIXED = [(2, -1000), (1, -24), (3, 7), (1, 0), (1, -1024)]


@pytest.mark.parametrize("each", [MIXED, FRACTIONS, MIXED[::-1]])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("shared", [None, (5, 6)])
def test_frames_rescaled_one_by_one(tmp_path, each, photometric, shared):
    ds = multiframe(NUMBERS, POSITIONS, shared=shared, each=each, PhotometricInterpretation=photometric)
    save(ds, tmp_path / "a.dcm")
    slopes, inters = np.array(each).T
    np.testing.assert_array_equal(read_ct(tmp_path).data, NUMBERS.T * slopes + inters)


def test_frames_rescaled_alike(tmp_path):
    save(multiframe(NUMBERS, POSITIONS, shared=(2, -3000)), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_ct(tmp_path).data, NUMBERS.T * 2.0 - 3000)


def test_frames_without_rescale(tmp_path):
    save(multiframe(NUMBERS, POSITIONS, shared=None), tmp_path / "a.dcm")
    with pytest.raises(ScanError, match="no usable RescaleSlope"):
        read_ct(tmp_path)


def padded(value, **elements):
    """A disc of tissue with water in it, in a frame of a value."""
    y, x = np.mgrid[:16, :16] - 7.5
    plane = np.where(np.hypot(x, y) < 7, 1100, value).astype(np.int16)
    plane[7:9, 7:9] = 1024  # 0 HU
    plane[0, 8] = 1100  # an arm at the edge
    return plane, [image(plane, (0, 0, k), PixelPaddingValue=value, **elements) for k in range(3)]


def test_padding_above_air_becomes_air(tmp_path):
    plane, images = padded(1024)
    volume = read_ct(save_all(images, tmp_path))
    inside = plane == 1100
    inside[7:9, 7:9] = True  # the same value within the patient is water
    for k in range(3):
        found = volume.data[:, :, k].T
        np.testing.assert_array_equal(found[inside], plane[inside] - 1024)
        assert (found[~inside] == -1024).all()
    assert volume.warnings == (
        f"padding above air: {3 * (~inside).sum()} voxels at the edges of slices set to -1024 HU",
    )


def test_padding_below_air_stays(tmp_path):
    plane, images = padded(-2000)
    volume = read_ct(save_all(images, tmp_path))
    np.testing.assert_array_equal(volume.data[:, :, 0].T, plane - 1024)
    assert volume.warnings == ()


def test_a_range_of_padding_in_fractions(tmp_path):
    plane, images = padded(1300, PixelPaddingRangeLimit=1310, RescaleSlope="0.7")
    volume = read_ct(save_all(images, tmp_path))
    assert (volume.data[:, :, 0].T[plane == 1300] == -1024).all()
    np.testing.assert_allclose(volume.data[7, 2, 0], 1100 * 0.7 - 1024, rtol=1e-6)


def test_simpleitk_alone_would_be_wrong(tmp_path):
    """What the reader works around; when this fails, the work-arounds can go."""
    save(image(NUMBERS[0], PhotometricInterpretation="MONOCHROME1"), tmp_path / "a.dcm")
    inverted = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.dcm"), imageIO="GDCMImageIO"))[0]
    np.testing.assert_array_equal(inverted, 65535 - NUMBERS[0].astype(int) - 1024)
    ds, path = image(NUMBERS[0]), tmp_path / "b.dcm"
    changed(ds, PixelData=ds.PixelData[:-4]).save_as(path)
    # two voxels are missing and nothing is said; they hold whatever the memory held
    silent = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))[0]
    np.testing.assert_array_equal(silent.ravel()[:-2], NUMBERS[0].astype(int).ravel()[:-2] - 1024)
    assert pydicom.dcmread(tmp_path / "a.dcm").pixel_array.ravel()[0] == NUMBERS[0, 0, 0]
