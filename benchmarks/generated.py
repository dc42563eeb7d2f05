"""Generated cases for the benchmarks: a body of simple solids with noise, as `atlas demo` uses.

python benchmarks/generated.py FOLDER organs 250 2.5
"""

import shutil
import sys
from pathlib import Path

TARGET = 1.5
SIDE = 512
PIXEL = 0.8
"""Spacing along x and y, mm."""
SLICE, THIN_SLICE = 2.5, 1.0
"""Spacing along z, and that of the case of 1,000 slices, mm."""
ORGANS = (
    "spleen",
    "kidney_left/right",  # sides are found, as for most datasets
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "pancreas",
    "adrenal_gland_left/right",
    "duodenum",
    "urinary_bladder",
    "colon",
    "small_bowel",
    "portal_vein_and_splenic_vein",
)
STRUCTURES = 104
RICH = "totalseg_v2"
"""The dataset with the most structures. Those come first that the generated body has; the rest are empty."""
NOISE_HU, AIR_NOISE_HU = 22.0, 9.0
SLAB = 25
"""Slices generated at a time."""


def make_case(folder, kind, slices, thickness):
    """Write one case, its manifest and its label map; `kind`: organs, volume (104 structures) or masks."""
    import numpy as np

    from atlas.phantom.anatomy import anatomy
    from atlas.phantom.labels import mask_tables, value_tables
    from atlas.phantom.write import FIELD
    from atlas.spec import load_label_map, load_taxonomy

    taxonomy, body = load_taxonomy(), anatomy(3)
    shape = (SIDE, SIDE, slices)
    low, high = np.array(FIELD).T
    # the body is stretched to fill the scan, so that a voxel costs the same however many slices there are
    paint = np.diag([*((high - low) / shape), 1.0])
    paint[:3, 3] = low + np.diag(paint)[:3] / 2
    paint[0] *= -1  # stored left, posterior, superior: the commonest order
    paint[0, 3] = high[0] - abs(paint[0, 0]) / 2
    numbers = np.empty(shape, np.uint16, order="F")
    for first in range(0, slices, SLAB):
        part = numbers[:, :, first : first + SLAB]
        shifted = paint.copy()
        shifted[:3, 3] += shifted[:3, 2] * first
        part[...] = body.paint(part.shape, shifted)
    meanings = {name: (name,) for name in ORGANS}
    if kind != "organs":
        structures = load_label_map(RICH).structures
        cells = mask_tables(structures, body, taxonomy)
        shown = np.bincount(numbers[::4, ::4, ::4].ravel(), minlength=len(body.cells) + 1) > 0
        order = sorted(structures, key=lambda name: not (cells[name] & shown).any())
        meanings = {name: structures[name] for name in order[:STRUCTURES]}
    affine = np.diag([-PIXEL, PIXEL, thickness, 1.0])
    source = folder / "sources/bench"
    write_ct(source / "images/case_0.nii.gz", numbers, body.hu, affine)
    if kind == "masks":
        for name, cells in mask_tables(meanings, body, taxonomy).items():
            write_label(source / f"masks/case_0/{name}.nii.gz", numbers, cells.astype(np.uint8), affine)
    else:
        values = dict(enumerate(meanings.values(), start=1))
        table = value_tables(values, body, taxonomy)[0]
        write_label(source / "labels/case_0.nii.gz", numbers, table.astype(np.uint8), affine)
    write_specifications(folder / "specifications", meanings, masks=kind == "masks")
    (folder / "complete").touch()


def write_ct(path, numbers, hu, affine):
    import numpy as np

    rng = np.random.default_rng(0)

    def slab(part):
        noise = rng.standard_normal(part.shape, np.float32) * np.where(part, NOISE_HU, AIR_NOISE_HU)
        return np.clip(hu[part] + noise, -1024, 3071).astype(np.int16)

    write_volume(path, numbers, slab, np.int16, affine)


def write_label(path, numbers, table, affine):
    write_volume(path, numbers, lambda part: table[part], table.dtype, affine)


def write_volume(path, numbers, slab, dtype, affine):
    """Write a .nii.gz slab by slab; `slab` makes voxels of cell numbers."""
    import nibabel as nib
    from isal import igzip

    header = nib.Nifti1Header()
    header.set_data_shape(numbers.shape)
    header.set_data_dtype(dtype)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    path.parent.mkdir(parents=True, exist_ok=True)
    with igzip.open(path, "wb", compresslevel=3) as file:
        file.write(header.binaryblock + bytes(4))
        for first in range(0, numbers.shape[2], SLAB):
            file.write(slab(numbers[:, :, first : first + SLAB]).tobytes(order="F"))


def write_specifications(folder, meanings, *, masks):
    """Write the manifest and the label map of the generated dataset (YAML may be JSON)."""
    layout = {"case": r"case_\d+", "image": "images/{case}.nii.gz"}
    label_map = {"dataset": "bench"}
    if masks:
        layout["masks"] = "masks/{case}/{structure}.nii.gz"
        label_map["structures"] = {name: list(targets) for name, targets in meanings.items()}
    else:
        layout["labels"] = {"segmentation": "labels/{case}.nii.gz"}
        values = {number: list(targets) for number, targets in enumerate(meanings.values(), start=1)}
        label_map["values"] = {"segmentation": values}
    manifest = {
        "id": "bench",
        "name": "Generated for the benchmark",
        "citation": "none",
        "licence": {"id": "CC0-1.0", "commercial": True, "redistribution": True},
        "access": {"kind": "open"},
        "scans": 1,
        "labelled": 1,
        "layout": layout,
    }
    for kind, content in (("manifests", manifest), ("label_maps", label_map)):
        path = folder / kind / "bench.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_yaml(content), encoding="utf-8")


def to_yaml(content):
    import yaml

    return yaml.safe_dump(content, sort_keys=False)


def pair(folder):
    source = folder / "sources/bench"
    return str(source / "images/case_0.nii.gz"), str(source / "labels/case_0.nii.gz")


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    place, kind, slices, thickness = sys.argv[1:]
    make_case(Path(place), kind, int(slices), float(thickness))
