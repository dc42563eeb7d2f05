"""Lay the real labels out as their publishers do, and give those without a CT one made on their own grid."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import dicom_cases
import nibabel as nib
import numpy as np
import truth
from cases import Case, link, remove, unpack
from isal.igzip import IGzipFile
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Collection

HU = {
    "lung": -820, "liver": 105, "spleen": 120, "kidney": 170, "kidney_tumor": 90, "kidney_cyst": 8, "aorta": 190,
    "inferior_vena_cava": 150, "portal_vein_and_splenic_vein": 160, "hepatic_vessel": 150, "celiac_trunk": 185,
    "pancreas": 85, "pancreas_tumor": 55, "adrenal_gland": 65, "stomach": 35, "duodenum": 45, "colon": 15,
    "small_bowel": 40, "rectum": 30, "gallbladder": 10, "urinary_bladder": 5, "esophagus": 40, "femur_head": 260,
    "prostate_or_uterus": 50,
}  # fmt: skip
"""What a made CT shows for a structure; anything else is 60."""

FAT, AIR, MUSCLE, MARROW, CORTEX = -90, -1000, 55, 110, 420
SLAB = 8_000_000
SIDED = {
    "ts_example": "merged_values",
    "word": "merged_values",
    "amos22": "merged_values",
    "abdomenatlas_11_mini": "merged_masks",
}
"""Datasets that tell left from right -> where they are without sides."""

BODY_MM = (165.0, 110.0)
"""Half width and half depth of the body, where the labels need no more."""


def lay_out(real: Path, sources: Path) -> list[Case]:
    """Unpack and link everything below `real` into a folder per dataset; what is there already stays."""
    parts = (_kits, _word, _amos, _abdomenatlas, _totalsegmentator, _panorama, _crlm, _odd, dicom_cases.lay_out)
    return [case for part in parts for case in part(real, sources)]


def keep(cases: list[Case], wanted: Collection[str]) -> list[Case]:
    """Take all other cases out of the sources again: their labels, and what links to their CT."""
    for case in cases:
        if case.case_id not in wanted:
            for path in (case.study,) if case.study else (case.labels, case.ct):
                remove(path)
    return [case for case in cases if case.case_id in wanted]


def make_cts(cases: list[Case], workers: int = 2) -> None:
    """Make the CT of all cases that have none."""
    jobs = [case for case in cases if case.made and not case.ct.exists()]
    if workers < 2 or len(jobs) < 2:
        for case in jobs:
            make_ct(case)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(make_ct, jobs))


def _kits(real, sources):
    for dataset, top in (("kits19", "data"), ("kits23", "dataset")):
        for path in sorted((real / dataset / top).glob("case_*/segmentation.nii.gz")):
            folder = sources / dataset / top / path.parent.name
            labels = link(path, folder / path.name)
            yield Case(dataset, path.parent.name, folder / "imaging.nii.gz", labels, made=True)


def _word(real, sources):
    folder = unpack(real / "word/WORD_V0.1.0_labelsTs.zip", sources / "word/WORD_V0.1.0_labelsTs")
    for path in sorted(folder.glob("labelsTs/word_*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        yield Case("word", name, sources / "word/WORD-V0.1.0/imagesTs" / path.name, path, made=True)


def _amos(real, sources):
    folder = sources / "amos22/amos22"
    index = json.loads((real / "amos/dataset.json").read_text())
    names = []
    for path in sorted((real / "amos/labelsTr").glob("*.nii.gz")):
        names.append(path.name)
        labels = link(path, folder / "labelsTr" / path.name)
        yield Case("amos22", path.name.removesuffix(".nii.gz"), folder / "imagesTr" / path.name, labels, made=True)
    # the published list, cut to what is here
    index["training"] = [e for e in index["training"] if Path(e["image"]).name in names]
    (folder / "dataset.json").write_text(json.dumps(index))


def _abdomenatlas(real, sources):
    dataset = "abdomenatlas_11_mini"
    top = sources / dataset
    archive = real / "abdomenatlas/AbdomenAtlasDemo_BDMAP_00000006_labels.tar.xz"
    demo = unpack(archive, top / "demo") / "AbdomenAtlasDemo/BDMAP_00000006"
    for path in sorted((real / "abdomenatlas/BDMAP_00000338/segmentations").glob("*.nii.gz")):
        link(path, top / "BDMAP_00000338/segmentations" / path.name)
    for folder in (demo, top / "BDMAP_00000338"):
        yield Case(dataset, folder.name, folder / "ct.nii.gz", folder / "segmentations", made=True)


def _totalsegmentator(real, sources):
    real = real / "totalsegmentator"
    top = sources / "ts_example"
    for name, labels in (("example_ct", "example_seg_fast_force_split"), ("example_ct_sm", "example_seg")):
        ct = link(real / f"{name}.nii.gz", top / "images" / f"{name}.nii.gz")
        volume = link(real / f"{labels}.nii.gz", top / "labels" / f"{name}.nii.gz")
        yield Case("ts_example", name, ct, volume, made=False)
    folder = unpack(real / "example_seg_fast_per_class.tar.xz", sources / "ts_example_masks") / "example_seg_fast"
    ct = link(real / "example_ct_sm.nii.gz", folder / "ct.nii.gz")
    yield Case("ts_example_masks", folder.name, ct, folder, made=False)
    folder = sources / "ts_thorax/thorax_1.5mm"
    for path in sorted((real / "thorax_1.5mm").glob("*.nii.gz")):
        link(path, folder / path.name)
    yield Case("ts_thorax", folder.name, folder / "ct_cropped.nii.gz", folder, made=False)


def _panorama(real, sources):
    top = sources / "panorama"
    for path in sorted((real / "panorama").glob("*_labels/*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        labels = link(path, top / path.parent.name / path.name)
        yield Case("panorama", name, top / "images" / f"{name}_0000.nii.gz", labels, made=True)


def _crlm(real, sources):
    for path in sorted((real / "crlm").glob("*_seg_mask.nii.gz")):
        labels = link(path, sources / "crlm" / path.name)
        ct = labels.with_name(path.name.replace("_seg_mask", ""))
        yield Case("crlm", path.name.split("_")[0], ct, labels, made=True)


def _odd(real, sources):
    """CT without labels: what is brighter than a threshold serves as label."""
    for name, threshold in (("CT_pitch", 200), ("shear", 300)):
        ct = link(real / f"odd_nifti/{name}.nii.gz", sources / "odd_nifti" / f"{name}.nii.gz")
        labels = ct.with_name(f"{name}_bone.nii.gz")
        if not labels.exists():
            image = nib.load(ct)
            mask = (np.asanyarray(image.dataobj) > threshold).astype(np.uint8)
            _save(mask, image.header, labels)
        yield Case("odd_nifti", name, ct, labels, made=False)


def merge_sides(cases: list[Case], sources: Path) -> None:
    """Write sided cases once more, with left and right of each pair as one value or one mask."""
    for case in cases:
        if case.dataset in SIDED:
            folder = sources / SIDED[case.dataset] / case.name
            link(case.ct, folder / ("ct" if case.ct.is_dir() else "ct.nii.gz"))
            (_merge_values if case.dataset in truth.VALUES else _merge_masks)(case, folder)


def _merge_values(case, folder):
    if (folder / "pairs.nii.gz").exists():
        return
    data, _ = truth.read(case.labels)
    merged = np.arange(10, 266)
    merged[0] = 0
    for number, pair in enumerate(truth.PAIRS, start=1):
        for side in ("left", "right"):
            merged[list(truth.VALUES[case.dataset].get(f"{pair}_{side}", ()))] = number
    _save(merged.astype(np.uint8)[data], nib.load(case.labels).header, folder / "pairs.nii.gz")


def _merge_masks(case, folder):
    if (folder / "pairs").exists():
        return
    part = folder / "pairs.part"
    found = truth.structures(case.dataset, case.labels)
    header = nib.load(min(case.labels.glob("[!.]*.nii.gz"))).header
    for pair in truth.PAIRS:
        sides = [found[name] for name in (f"{pair}_left", f"{pair}_right") if name in found]
        if sides:
            data = np.zeros(sides[0].shape, np.uint8, order="F")
            for s in sides:
                data[s.box] |= s.mask
            _save(data, header, part / f"{pair}.nii.gz")
    part.rename(folder / "pairs")


def make_ct(case: Case) -> None:
    """Write a plausible CT on the grid of a label volume or of a folder of masks.

    Air; an ellipse of fat and muscle around the labels, as wide as a body, on its back; a vertebral column in its
    midline; the labelled organs in HU of their own; and a little noise.
    """
    labels, hu, header, middle = _numbered(case)
    _save(labels, header, case.ct, partial_hu=(hu, *_background(labels.T, header.get_best_affine(), middle)))


def _numbered(case):
    """Labels as one volume of small numbers, HU of each number, the header, and the midline's x where it shows."""
    hu = np.full(256, 60, np.int16)
    if case.labels.is_file():
        header = nib.load(case.labels).header
        data, affine = truth.read(case.labels)
        table = truth.VALUES[case.dataset]
        for name, values in sorted(table.items(), key=lambda item: -len(item[1])):  # parts after their wholes
            hu[list(values)] = HU.get(_unsided(name), 60)
        boxes = ndimage.find_objects(data.T)
        found = {n: truth._structure(n, data, affine, v, boxes) for n, v in table.items()}
    else:
        header = nib.load(min(case.labels.glob("[!.]*.nii.gz"))).header
        found = truth.structures(case.dataset, case.labels)
        data = np.zeros(next(iter(found.values())).shape, np.uint8, order="F")
        for number, s in enumerate(found.values(), start=1):
            hu[number] = HU.get(_unsided(s.name), 60)
            data[s.box][s.mask] = number
    return data, hu, header, _midline({n: s for n, s in found.items() if s})


def _unsided(name):
    return name.replace("_left/right", "").replace("_left", "").replace("_right", "")


def _midline(found):
    """RAS x (mm) halfway between the outer edges of the pairs that are there."""
    middles = []
    for pair in truth.PAIRS:
        left, right = found.get(f"{pair}_left"), found.get(f"{pair}_right")
        if left and right:
            corners = [
                nib.affines.apply_affine(s.affine, corner)[0]
                for s in (left, right)
                for corner in (s.start, s.start + s.mask.shape)
            ]
            middles.append((min(corners) + max(corners)) / 2)
    return np.mean(middles) if middles else None


def _background(labels, affine, middle):
    """HU without the organs, broadcasting against `labels` (k, j, i)."""
    axis = {int(a): i for i, a in enumerate(nib.io_orientation(affine)[:, 0])}  # x, y, z -> array axis i, j, k
    shape = labels.shape[::-1]
    x, y = (affine[n, 3] + affine[n, axis[n]] * np.arange(shape[axis[n]]) for n in (0, 1))
    shadow = (labels.max(axis=2 - axis[2]) > 0).T  # array axes in rising order
    shadow = shadow if axis[0] < axis[1] else shadow.T  # (x, y)
    cx = (x[0] + x[-1]) / 2 if middle is None else middle
    cy, rx, ry = _ellipse(x, y, shadow, cx)
    radius = np.hypot((x[:, None] - cx) / rx, (y - cy) / ry)
    hu = np.where(radius < 1, np.where((radius > 0.82) & (radius < 0.9), MUSCLE, FAT), AIR)
    for behind, outer, inner, core in ((55, 19, 16, MARROW), (28, 12, 8, 30)):  # body of a vertebra, its canal
        away = np.hypot(x[:, None] - cx, y - (cy - ry + behind))
        hu = np.where(away < outer, np.where(away < inner, core, CORTEX), hu)
    plane = np.expand_dims(hu if axis[0] < axis[1] else hu.T, axis[2])
    rng = np.random.default_rng(0)
    # few rows of noise, repeated: what gzip finds again costs nothing
    rows = rng.integers(-6, 7, (16, shape[0]))
    noise = np.tile(rows, (-(-shape[1] // 16), 1))[: shape[1]]
    return plane.T.astype(np.int16), noise.astype(np.int16)


def _ellipse(x, y, shadow, cx):
    """Centre y and half axes of a body around all labels."""
    rx, ry = min(BODY_MM[0], 0.47 * np.ptp(x)), min(BODY_MM[1], 0.45 * np.ptp(y))
    px, py = (c[i] for c, i in zip((x, y), np.nonzero(shadow), strict=True))
    cy = np.clip((y[0] + y[-1]) / 2, py.max() - ry + 10, max(py.max() - ry + 10, py.min() + ry - 25))
    reach = np.hypot((px - cx) / rx, (py - cy) / ry).max()
    scale = max(1.0, reach / 0.95)
    return cy, rx * scale, ry * scale


def _save(labels, header, path, partial_hu=None):
    """Write a volume slab by slab: labels as they are, or the CT that belongs to them."""
    header = header.copy()
    header.set_data_dtype(np.int16 if partial_hu else np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = 0
    header["vox_offset"] = 352
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as raw, IGzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(header.binaryblock + bytes(4))
        slices = labels.T  # (k, j, i), i fastest
        step = max(1, SLAB // slices[0].size)
        for first in range(0, len(slices), step):
            slab = np.ascontiguousarray(slices[first : first + step])
            if partial_hu:
                hu, plane, noise = partial_hu
                below = plane[first : first + step] if len(plane) > 1 else plane
                slab = np.where(slab > 0, hu[slab], below) + noise
            file.write(slab.tobytes())
    part.rename(path)
