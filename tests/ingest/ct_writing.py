"""CT images as DICOM files, sound and broken, with exactly the elements that a test wants."""

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SERIES, FRAME = "1.2.3.4", "1.2.3.5"


def image(stored, position=(0, 0, 0), orientation=(1, 0, 0, 0, 1, 0), spacing=(0.7, 0.8), sop_class=CT, **elements):
    """One image; `stored` are its numbers (row, column). Elements that are None are left out."""
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", SERIES, FRAME
    ds.ImagePositionPatient = [f"{x:.10g}" for x in position]
    ds.ImageOrientationPatient = [f"{x:.12f}" for x in orientation]
    ds.PixelSpacing = list(spacing)
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape[-2:]
    bits = stored.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    return changed(ds, **elements)


def changed(ds, **elements):
    for keyword, value in elements.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)
    return ds


def save(ds, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def stored_numbers(shape=(5, 4, 3), seed=0):
    """(k, rows, columns), 12 bits."""
    return np.random.default_rng(seed).integers(0, 4096, shape).astype(np.uint16)


def axial(stored=None, step=2.5, **elements):
    """Images of a series that makes a volume, slice by slice upwards."""
    stored = stored_numbers() if stored is None else stored
    return [image(plane, (-10, -20, 30 + step * k), **elements) for k, plane in enumerate(stored)]


def save_all(images, folder):
    """Save images under names whose order is no order."""
    for n, ds in enumerate(images):
        save(ds, folder / f"{(7 * n + 3) % len(images):03d}_{n}.dcm")
    return folder


def multiframe(stored, positions, *, shared=(1, -1024), each=None, **elements):
    """An enhanced CT; `shared` and `each` are slope and intercept, of all frames and frame by frame."""
    ds = image(stored, sop_class=ENHANCED_CT, **elements)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(ds, keyword)
    del ds.RescaleIntercept, ds.RescaleType
    ds.NumberOfFrames = len(stored)
    common = pydicom.Dataset()
    common.PlaneOrientationSequence = [group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    common.PixelMeasuresSequence = [group(PixelSpacing=[0.7, 0.8], SliceThickness=9)]
    if shared:
        common.PixelValueTransformationSequence = [_rescale(shared)]
    ds.SharedFunctionalGroupsSequence = [common]
    ds.PerFrameFunctionalGroupsSequence = []
    for k, position in enumerate(positions):
        frame = group(PlanePositionSequence=[group(ImagePositionPatient=list(position))])
        frame.FrameContentSequence = [group(FrameAcquisitionNumber=1)]
        if each:
            frame.PixelValueTransformationSequence = [_rescale(each[k])]
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    return ds


def group(**elements):
    return changed(pydicom.Dataset(), **elements)


def _rescale(numbers):
    return group(RescaleSlope=numbers[0], RescaleIntercept=numbers[1], RescaleType="HU")


def compressed_by_itk(ds, folder, compressor):
    """The same image with its pixels as ITK's encoder makes them: "JPEG2000", or "JPEG" (lossless)."""
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.SetFileName(str(folder / "encoded.dcm"))
    writer.Execute(sitk.GetImageFromArray(ds.pixel_array[np.newaxis]))
    encoded = pydicom.dcmread(folder / "encoded.dcm")
    (folder / "encoded.dcm").unlink()
    ds.file_meta.TransferSyntaxUID = encoded.file_meta.TransferSyntaxUID
    ds["PixelData"] = encoded["PixelData"]
    return ds
