"""What the real labels say, read without atlas: by nibabel, pydicom, SimpleITK, and by tables written out here.

A structure is named as in the taxonomy; ``kidney_left/right`` is one whose side the source does not tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from isal import igzip
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from pathlib import Path


def _numbers(text):
    return {name: {number} for number, name in enumerate(text.split(), start=1)}


# Version 2 of TotalSegmentator, 1 to 117
TOTALSEGMENTATOR = _numbers(
    """
    spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left
    lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right
    esophagus trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate kidney_cyst_left
    kidney_cyst_right sacrum vertebrae_S1 vertebrae_L5 vertebrae_L4 vertebrae_L3 vertebrae_L2 vertebrae_L1
    vertebrae_T12 vertebrae_T11 vertebrae_T10 vertebrae_T9 vertebrae_T8 vertebrae_T7 vertebrae_T6 vertebrae_T5
    vertebrae_T4 vertebrae_T3 vertebrae_T2 vertebrae_T1 vertebrae_C7 vertebrae_C6 vertebrae_C5 vertebrae_C4
    vertebrae_C3 vertebrae_C2 vertebrae_C1 heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right
    subclavian_artery_left common_carotid_artery_right common_carotid_artery_left brachiocephalic_vein_left
    brachiocephalic_vein_right atrial_appendage_left superior_vena_cava inferior_vena_cava
    portal_vein_and_splenic_vein iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right humerus_left
    humerus_right scapula_left scapula_right clavicula_left clavicula_right femur_left femur_right hip_left hip_right
    spinal_cord gluteus_maximus_left gluteus_maximus_right gluteus_medius_left gluteus_medius_right
    gluteus_minimus_left gluteus_minimus_right autochthon_left autochthon_right iliopsoas_left iliopsoas_right brain
    skull rib_left_1 rib_left_2 rib_left_3 rib_left_4 rib_left_5 rib_left_6 rib_left_7 rib_left_8 rib_left_9
    rib_left_10 rib_left_11 rib_left_12 rib_right_1 rib_right_2 rib_right_3 rib_right_4 rib_right_5 rib_right_6
    rib_right_7 rib_right_8 rib_right_9 rib_right_10 rib_right_11 rib_right_12 sternum costal_cartilages
    """
) | {
    "lung_left": {10, 11},
    "lung_right": {12, 13, 14},
    "kidney_right": {2, 24},
    "kidney_left": {3, 23},
    "kidney_cyst": {23, 24},
    "sacrum": {25, 26},
}

VALUES = {
    "ts_example": TOTALSEGMENTATOR,
    "word": _numbers(
        """
        liver spleen kidney_left kidney_right stomach gallbladder esophagus pancreas duodenum colon small_bowel
        adrenal_gland_left/right rectum urinary_bladder femur_head_left femur_head_right
        """
    ),
    "amos22": _numbers(
        """
        spleen kidney_right kidney_left gallbladder esophagus liver stomach aorta inferior_vena_cava pancreas
        adrenal_gland_right adrenal_gland_left duodenum urinary_bladder prostate_or_uterus
        """
    ),
    "kits19": {"kidney_left/right": {1, 2}, "kidney_tumor": {2}},
    "kits23": {"kidney_left/right": {1, 2, 3}, "kidney_tumor": {2}, "kidney_cyst": {3}, "kidney_cyst_left/right": {3}},
    "panorama": {"pancreas": {1, 4, 5}, "pancreas_tumor": {1}},
    "crlm": {"hepatic_vessel": {1}},
    "odd_nifti": {"bone": {1}},
    "odd_dicom": {"bone": {1}},
    "chaos_ct": {"liver": {1}},
    "dcmqi": {"liver": {1}},
    "ibsi": {"lung_tumor": {1}},
}
"""Dataset -> structure -> values of the label volume."""

MASKS = {
    "ts_thorax": {"aorta": {"aorta"}, "vertebrae_T12": {"vertebrae_T12"}},
    "ts_example_masks": {name: {name} for name in TOTALSEGMENTATOR if name not in {"lung_left", "lung_right"}}
    | {
        "lung_left": {"lung_upper_lobe_left", "lung_lower_lobe_left"},
        "lung_right": {"lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"},
        "kidney_left": {"kidney_left", "kidney_cyst_left"},
        "kidney_right": {"kidney_right", "kidney_cyst_right"},
        "kidney_cyst": {"kidney_cyst_left", "kidney_cyst_right"},
        "sacrum": {"sacrum", "vertebrae_S1"},
    },
    "abdomenatlas_11_mini": {
        name: {name}
        for name in _numbers(
            """
            aorta kidney_left kidney_right liver pancreas spleen stomach adrenal_gland_left adrenal_gland_right
            celiac_trunk colon duodenum esophagus hepatic_vessel lung_left lung_right portal_vein_and_splenic_vein
            rectum
            """
        )
    }
    | {
        "gallbladder": {"gall_bladder"},
        "inferior_vena_cava": {"postcava"},
        "urinary_bladder": {"bladder"},
        "small_bowel": {"intestine"},
        "femur_head_left": {"femur_left"},
        "femur_head_right": {"femur_right"},
        "prostate_or_uterus": {"prostate"},
    },
}
"""Dataset -> structure -> stems of the mask files."""

NOT_ANNOTATED = {
    "panorama/100001_00001": {"pancreas_tumor"},
    "panorama/100004_00001": {"pancreas_tumor"},
}
"""Case -> structures that its dataset annotates, but not there."""

PAIRS = ("kidney", "lung", "adrenal_gland", "femur_head", "femur", "hip")
"""Paired organs that merging and splitting is tried on, in the order of their values in merged_values."""


LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Structure:
    """A structure of the source, cropped to its bounding box: bool (i, j, k), and the crop's first voxel."""

    name: str
    mask: np.ndarray
    start: np.ndarray
    affine: np.ndarray
    shape: tuple

    @property
    def box(self):
        """Where the crop lies in the volume."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.mask.shape, strict=True))

    @property
    def voxel_ml(self):
        """Volume of a voxel."""
        return abs(np.linalg.det(self.affine[:3, :3])) / 1000

    @property
    def volume_ml(self):
        """Volume."""
        return np.count_nonzero(self.mask) * self.voxel_ml

    @property
    def centroid(self):
        """RAS mm."""
        at = [
            np.arange(n) @ self.mask.sum(axis=tuple({0, 1, 2} - {axis})) / self.mask.sum()
            for axis, n in enumerate(self.mask.shape)
        ]
        return nib.affines.apply_affine(self.affine, np.array(at) + self.start)


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Label volume as small unsigned integers (i, j, k), and its affine."""
    if path.is_dir():
        return _read_pictures(path)
    if path.suffix == ".nrrd":
        return _read_nrrd(path)
    image = nib.Nifti1Image.from_bytes(igzip.decompress(path.read_bytes()))
    if image.header["datatype"] == 256:  # int8 with a slope: -128 and 127 stand for 0 and 1
        data = np.asanyarray(image.dataobj.get_unscaled())
        return (data > 0).view(np.uint8), image.affine
    data = np.asanyarray(image.dataobj)
    return (data if data.dtype == np.uint8 else np.rint(data).astype(np.uint8, order="K")), image.affine


def _read_pictures(folder):
    """PNG images of CHAOS: the k-th of them belongs to the k-th file of the CT beside them, wherever that lies."""
    names = sorted(path.name for path in (folder.parent / "DICOM_anon").iterdir())
    files, affine = _stack(folder.parent / "DICOM_anon")
    pictures = dict(zip(names, sorted(folder.glob("*.png")), strict=True))
    planes = [np.asarray(Image.open(pictures[path.name])) for path, _ in files]
    return np.stack(planes).astype(np.uint8).T, affine


def _read_nrrd(path):
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).astype(np.uint8).T, LPS_TO_RAS @ affine


def read_ct(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """CT in HU, float64 (i, j, k), and its affine; a folder of DICOM slices in the order of their positions."""
    if not path.is_dir():
        image = nib.load(path)
        return np.asarray(image.dataobj, dtype=np.float64), image.affine
    files, affine = _stack(path)
    return np.stack([_hounsfield(*each) for each in files]).astype(np.float64).T, affine


def _stack(folder):
    """Slices with their headers, upwards, and the affine of their stack, if they are one."""
    files = [(path, pydicom.dcmread(path, stop_before_pixels=True)) for path in sorted(folder.iterdir())]
    right, down = np.array(files[0][1].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(right, down)
    files.sort(key=lambda each: np.array(each[1].ImagePositionPatient, float) @ normal)
    first, last = (np.array(files[n][1].ImagePositionPatient, float) for n in (0, -1))
    step = (last - first) / max(1, len(files) - 1)
    between_rows, between_columns = map(float, files[0][1].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = right * between_columns, down * between_rows
    affine[:3, 2] = step if step @ normal else normal
    affine[:3, 3] = first
    return files, LPS_TO_RAS @ affine


def _hounsfield(path, header):
    """HU of a slice, (j, i): by pydicom, but for JPEG 2000, which it cannot decode by itself."""
    if header.file_meta.TransferSyntaxUID.is_compressed:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
    stored = pydicom.dcmread(path).pixel_array
    return stored * float(header.RescaleSlope) + float(header.RescaleIntercept)


def _structure(name, data, affine, values, boxes) -> Structure | None:
    """Crop of what has one of the values; boxes as scipy.ndimage.find_objects gives them for `data.T`."""
    found = [boxes[v - 1] for v in values if v <= len(boxes) and boxes[v - 1] is not None]
    if not found:
        return None
    low = [min(b[axis].start for b in found) for axis in (2, 1, 0)]
    high = [max(b[axis].stop for b in found) for axis in (2, 1, 0)]
    crop = data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    mask = np.isin(np.arange(256), list(values))[crop]
    return Structure(name, mask, np.array(low), affine, data.shape)


def structures(dataset: str, labels: Path) -> dict[str, Structure]:
    """Every structure that is present in a case.

    Parameters
    ----------
    dataset
        Which table to read the labels by.
    labels
        The label volume, or the folder of masks.
    """
    if dataset in VALUES:
        data, affine = read(labels)
        boxes = ndimage.find_objects(data.T)
        found = [_structure(name, data, affine, values, boxes) for name, values in VALUES[dataset].items()]
        return {s.name: s for s in found if s}
    masks = {}
    wanted = set().union(*MASKS[dataset].values())
    for path in sorted(labels.glob("[!.]*.nii.gz")):
        stem = path.name.removesuffix(".nii.gz")
        if stem in wanted:
            data, affine = read(path)
            masks[stem] = _structure("", data, affine, {1}, ndimage.find_objects(data.T))
    found = [_union(name, [masks.get(stem) for stem in stems]) for name, stems in MASKS[dataset].items()]
    return {s.name: s for s in found if s}


def annotated(dataset: str, labels: Path) -> set[str]:
    """Names of the structures that were looked for, present or not."""
    if dataset in VALUES:
        return set(VALUES[dataset])
    stems = {p.name.removesuffix(".nii.gz") for p in labels.glob("[!.]*.nii.gz")}
    return {name for name, needed in MASKS[dataset].items() if needed <= stems}


def _union(name, parts) -> Structure | None:
    parts = [p for p in parts if p]
    if not parts:
        return None
    low = np.min([p.start for p in parts], axis=0)
    high = np.max([p.start + p.mask.shape for p in parts], axis=0)
    mask = np.zeros(high - low, bool)
    for p in parts:
        box = tuple(slice(a, a + n) for a, n in zip(p.start - low, p.mask.shape, strict=True))
        mask[box] |= p.mask
    return Structure(name, mask, low, parts[0].affine, parts[0].shape)
