"""From a folder of scans to the three files that describe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from atlas.draft.compose import label_map_text, manifest_text, recipe_text
from atlas.draft.infer import KINDS, Kind, infer, infer_study
from atlas.draft.legend import legend
from atlas.draft.naming import Names
from atlas.draft.roles import ANY_CASE
from atlas.draft.survey import Eye, Findings, findings, modalities, volumes
from atlas.errors import ScanError
from atlas.ingest.cases import case_of, find_cases
from atlas.spec import Manifest, load_label_map, load_manifest, load_taxonomy

if TYPE_CHECKING:
    from pathlib import Path

    from atlas.spec.files import Layout

STUDY = "dicom"
LAYOUTS = (*KINDS, STUDY)


@dataclass(frozen=True)
class Draft:
    """What was found in a folder, and the files to write.

    Attributes
    ----------
    texts
        Path below the folder to write to -> content.
    strays
        Volumes that belong to no case.
    unreadable
        Path -> why a file cannot be read.
    legend
        Which file the names of the label values are from, or why none was used.
    """

    texts: dict[str, str]
    layout: Layout
    found: Findings
    strays: list[str]
    unreadable: dict[str, str]
    legend: str | None


def draft(name: str, folder: Path, like: str) -> Draft:
    """Look at a folder and describe it as a dataset.

    Parameters
    ----------
    name
        Id of the dataset to be.
    folder
        With the user's own scans; it is only read.
    like
        One of `LAYOUTS`, or the id of a dataset whose files lie in the same way.

    Raises
    ------
    ScanError
        If the folder does not hold what the layout says.
    """
    if not folder.is_dir():
        raise ScanError(f"{folder}: no such folder")
    paths, eye = volumes(folder), Eye(folder)
    if like == STUDY:
        layout = infer_study(modalities(folder))
    elif like in KINDS:
        layout = _inferred(paths, cast(Kind, like), eye, folder)
    else:
        layout = _like(like, folder)
    found = findings(_manifest(name, layout), folder)
    values = {value for by_value in found.values.values() for value in by_value if value}
    names, remark = legend(folder, values)
    texts = {
        f"manifests/{name}.yaml": manifest_text(name, layout, found),
        f"label_maps/{name}.yaml": label_map_text(
            name, layout, found, Names(load_taxonomy()), legend=names, elsewhere=_elsewhere(like)
        ),
        f"pipelines/{name}.yaml": recipe_text(name),
    }
    strays = [path for path in paths if case_of(layout, path) is None]
    return Draft(texts, layout, found, strays, eye.unreadable, remark)


def _inferred(paths: list[str], kind: Kind, eye: Eye, folder: Path) -> Layout:
    if not paths:
        dicom = next(modalities(folder), None)
        hint = "; it holds DICOM files: say --like dicom" if dicom else ""
        raise ScanError(f"{folder}: no NIfTI, MHA or NRRD files{hint}")
    try:
        return infer(paths, kind, eye.is_ct)
    except ScanError as error:
        reasons = list(eye.unreadable.values())
        broken = f" ({len(reasons)} files cannot be read; the first: {reasons[0]})" if reasons else ""
        raise ScanError(f"{folder}: {error}{broken}") from error


def _like(dataset: str, folder: Path) -> Layout:
    """Layout of another dataset, with any case names where its own do not occur."""
    layout = load_manifest(dataset).layout
    if layout.image_of:
        raise ScanError(
            f"{dataset} takes its CTs from {layout.image_of}; choose another layout for a folder of its own"
        )
    # what the publisher's list says must be there, or which slices were annotated, holds for the publisher's data
    layout = layout.model_copy(update={"index": None, "regions": None})
    for case in dict.fromkeys((layout.case, ANY_CASE)):
        tried = layout.model_copy(update={"case": case})
        try:
            cases = find_cases(_manifest(dataset, tried), folder)
        except ScanError:
            continue
        if any(each.problem is None for each in cases):
            return tried
    places = ", ".join([*layout.image, *layout.study])
    raise ScanError(f"{folder}: nothing in it lies as in {dataset}, whose scans are at {places}")


def _elsewhere(like: str) -> dict[str, dict[int, str]]:
    """What the values of a dataset mean that lies in the same way."""
    if like in LAYOUTS:
        return {}
    label_map = load_label_map(like)
    return {
        file: {value: " + ".join(targets) for value, targets in values.items() if targets}
        for file, values in label_map.values.items()
    }


def _manifest(name: str, layout: Layout) -> Manifest:
    """Just enough of a manifest to find cases by."""
    content = {
        "id": name,
        "name": name,
        "citation": "unpublished",
        "licence": {"id": "unknown", "commercial": None, "redistribution": None},
        "access": {"kind": "request"},
        "scans": 1,
        "labelled": 1,
        "layout": layout,
    }
    return Manifest.model_validate(content)
