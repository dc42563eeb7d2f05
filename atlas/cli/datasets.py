"""atlas datasets: a table of every dataset, made from manifests and label maps; show and new are beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from atlas.cli import newdataset, showdataset
from atlas.cli.output import Format, emit, yes_no
from atlas.cli.showdataset import annotated, how, size_gb
from atlas.spec import LabelMap, Manifest, Taxonomy, load_label_map, load_manifest, load_taxonomy, names

app = typer.Typer(help="List the datasets, show one, or draft one of your own.", invoke_without_command=True)
app.command()(showdataset.show)
app.command()(newdataset.new)

_FORMATS = {".nii": "NIfTI", ".nii.gz": "NIfTI", ".mha": "MHA", ".mhd": "MHA", ".nrrd": "NRRD", ".nhdr": "NRRD"}


@app.callback()
def datasets(
    context: typer.Context,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
) -> None:
    """List every dataset: scans, size, licence, access, classes it annotates."""
    if context.invoked_subcommand is None:
        import pandas as pd

        taxonomy = load_taxonomy()
        rows = [_row(load_manifest(name), load_label_map(name), taxonomy) for name in names("manifests")]
        emit(pd.DataFrame(rows), form)


def _row(manifest: Manifest, label_map: LabelMap, taxonomy: Taxonomy) -> dict[str, object]:
    licence = manifest.licence
    return {
        "dataset": manifest.id,
        "scans": manifest.scans,
        "labelled": manifest.labelled,
        "GB": size_gb(manifest),
        "licence": licence.id + ("" if licence.verified else " (?)"),
        "commercial use": yes_no(licence.commercial),
        "access": how(manifest.access),
        "classes": len(annotated(label_map, taxonomy)),
        "formats": formats(manifest),
    }


def formats(manifest: Manifest) -> str:
    """File formats of the CTs and of the labels: "DICOM + NIfTI"; one word where they are the same."""
    layout, storage = manifest.layout, manifest.layout.storage
    if layout.study:
        return "DICOM + " + {"dicom_seg": "DICOM-SEG", "rtstruct": "RTSTRUCT"}[storage.objects]
    labels = [pattern for patterns in layout.labels.values() for pattern in patterns]
    slices = {"png": "PNG", "dicom": "DICOM"}[storage.slices]
    parts = [
        *(_format(pattern, "DICOM") for pattern in layout.image),
        *(_format(pattern, slices) for pattern in labels),
        *(f"{_format(pattern, slices)} masks" for pattern in layout.masks),
    ]
    return " + ".join(dict.fromkeys(parts))


def _format(pattern: str, folder: str) -> str:
    """Format of a file by what its name ends in; of a folder of slices as told."""
    if pattern.endswith("/"):
        return folder
    return next((name for suffix, name in _FORMATS.items() if pattern.endswith(suffix)), "volumes")
