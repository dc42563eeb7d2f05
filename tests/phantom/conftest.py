"""Datasets made up for the tests: one of each kind of layout that publishers use."""

import pytest

MANIFEST = """\
id: {id}
name: Made up
citation: Nobody, 2026
licence: {{id: CC0-1.0, commercial: true, redistribution: true}}
access: {access}
scans: 9
labelled: 9
layout: {layout}
"""

ORGANS = "{liver: liver, tumor: liver_tumor, 'lesion*': liver_tumor, spleen: spleen, kidney: kidney_left/right}"

LAYOUTS = {
    # a DICOM series listed by a collection, NIfTI labels with other axes and a wrong position
    "series": (
        "{kind: open, files: [{url: 'idc://made_up_series?Modality=CT'}, "
        "{url: 'https://labels.example.org/files/labels.tar.gz', into: labels, "
        "md5: d41d8cd98f00b204e9800998ecf8427e}]}",
        "{case: '00\\d\\d', image: 'P_{case}/*/*/', labels: {all: 'labels/**/label{case}.nii.gz'}, "
        "label_geometry: axes, storage: {orientation: LAI, label_orientation: RPS}}",
        "values: {all: {1: liver, 2: spleen, 3: kidney_left, 4: kidney_right}}",
    ),
    # labels alone, on the CT of `series`, annotated over some slices
    "labels_alone": (
        "{kind: open, files: [{url: 'https://labels.example.org/more/labels.zip'}, "
        "{url: 'https://labels.example.org/more/slices.csv'}]}",
        "{case: '00[0-4]\\d', image: '**/P_{case}/**/', image_of: series, labels: {all: 'labels/{case}.nii'}, "
        "regions: {file: slices.csv, rows: [3, 7], case: 1, slices: [4, 2]}}",
        "values: {all: {1: stomach, 2: gallbladder}}\nunknown: {beyond_labelled_slices: [stomach]}",
    ),
    "pngs": (
        "{kind: open, files: [{url: 'https://example.org/Train.zip', holds: ['Train/CT/**/*']}]}",
        "{case: '\\d+', image: 'Train/CT/{case}/DICOM/', labels: {liver: 'Train/CT/{case}/Ground/'}, "
        "storage: {orientation: LPI, slices: png}}",
        "values: {liver: {255: liver}}",
    ),
    # a folder of DICOM masks for each structure, in archives within the archive
    "folders": (
        "{kind: open, files: [{url: 'https://example.org/s/x/download', to: all.zip, nested: ['all/*/*.zip'], "
        "sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}]}",
        "{case: '\\d+', image: 'all/n.{case}/CT/', masks: 'all/n.{case}/MASKS/{structure}/'}",
        f"structures: {ORGANS}\noptional: [tumor, 'lesion*']",
    ),
    "segmentations": (
        "{kind: open, files: [{url: 'idc://made_up_seg?Modality=CT,SEG'}]}",
        "{case: 'H_\\d{3}', study: '{case}/'}",
        f"structures: {ORGANS}",
    ),
    "contours": (
        "{kind: open, files: [{url: 'idc://made_up_rt', to: '{PatientID}/{SeriesInstanceUID}'}]}",
        "{case: '\\d{3}', study: 'R-{case}/', storage: {objects: rtstruct, orientation: LAI}}",
        f"structures: {ORGANS}",
    ),
    # what was drawn in which case is not said
    "partly": (
        "{kind: login, steps: [ask], files: [{to: images.7z, into: images}, {to: labels.zip, encrypted: true}]}",
        "{case: 'F_\\d{4}', image: 'images/{case}_0000.nii.gz', labels: {all: 'labels/{case}.nii.gz'}}",
        "available: drawn\nvalues: {all: {1: liver, 2: liver_tumor, 3: brain}}",
    ),
    # a file for each case from a hub, label files in a bucket, of which one will do
    "listed": (
        "{kind: open, files: [{url: 'hf://datasets/owner/name@v1/ct/{case}.nii.gz', to: 'ct/{case}.nii.gz', "
        "each: [c0..c9]}, {url: 's3://bucket/labels/', to: labels}]}",
        "{case: 'c\\d', image: 'ct/{case}.nii.gz', labels: {old: 'labels/{case}_o.nii', new: 'labels/{case}_n.nii'}, "
        "alternatives: true}",
        "values: {old: {1: liver}, new: {1: liver, 2: spleen}}",
    ),
    "parts": (
        "{kind: open, files: [{url: 'hf://datasets/owner/name/*.tar.gz', to: archives, holds: ['**/*.nii.gz']}]}",
        "{case: 'c\\d', image: '**/{case}/ct.nii.gz', masks: '**/{case}/{structure}.nii.gz'}",
        "structures: {liver: liver}",
    ),
}


@pytest.fixture
def layouts(tmp_path, monkeypatch):
    """Specifications of all of them, found through ATLAS_PATH; returns the folder."""
    specs = tmp_path / "specs"
    for folder in ("manifests", "label_maps"):
        (specs / folder).mkdir(parents=True)
    for name, (access, layout, labels) in LAYOUTS.items():
        (specs / "manifests" / f"{name}.yaml").write_text(MANIFEST.format(id=name, access=access, layout=layout))
        (specs / "label_maps" / f"{name}.yaml").write_text(f"dataset: {name}\n{labels}\n")
    monkeypatch.setenv("ATLAS_PATH", str(specs))
    return specs
