"""atlas datasets show: everything known about one dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from atlas.cli.output import console, yes_no
from atlas.spec import LabelMap, Manifest, Taxonomy, load_label_map, load_manifest, load_taxonomy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atlas.spec.access import Access, SourceFile
    from atlas.spec.files import Layout
    from atlas.spec.label_map import CaseException

Entries = list[tuple[str, str]]
"""Heading and text; several texts in a row may have the same heading, which is then printed once."""

GIGABYTE = 1e9

_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEP = 1000
_DOUBT = {True: "", False: " (unverified)"}
_MOST_CASES = 8


def show(name: Annotated[str, typer.Argument(metavar="NAME", help="Id of the dataset.")]) -> None:
    """Show everything known about one dataset."""
    manifest, label_map = load_manifest(name), load_label_map(name)
    for entries in (_facts(manifest), _getting(manifest), _lying(manifest), _meaning(label_map), _knowing(manifest)):
        if any(text for _, text in entries):
            console.print(_grid(entries))
            console.print()


def _grid(entries: Entries) -> Table:
    table, last = Table.grid(padding=(0, 2, 0, 0)), ""
    table.add_column(width=14, justify="right", style="bold")
    table.add_column(overflow="fold")  # an address that is cut off is worth nothing
    for key, text in entries:
        if text:
            table.add_row(Text("" if key == last else key), Text(text))
            last = key
    return table


def _facts(manifest: Manifest) -> Entries:
    licence = manifest.licence
    return [
        ("id", manifest.id),
        ("name", manifest.name),
        ("citation", manifest.citation),
        ("homepage", manifest.homepage or ""),
        ("scans", f"{manifest.scans}, of which {manifest.labelled} labelled"),
        ("phase", manifest.phase or ""),
        ("licence", f"{licence.id}{_DOUBT[licence.verified]}"),
        ("commercial use", yes_no(licence.commercial)),
        ("redistribution", yes_no(licence.redistribution)),
        ("licence note", licence.note or ""),
    ]


def _getting(manifest: Manifest) -> Entries:
    access = manifest.access
    size = size_gb(manifest)
    return [
        ("access", how(access)),
        ("size", "" if size is None else f"{size:g} GB"),
        *(("what to do", f"{number}. {step}") for number, step in enumerate(access.steps, start=1)),
        *(("files", text) for file in access.files for text in _file(file)),
        ("access note", access.note or ""),
    ]


def how(access: Access) -> str:
    """How a person gets the files, in a few words."""
    return access.kind + (f": {', '.join(access.via)}" if access.via else "")


def size_gb(manifest: Manifest) -> float | None:
    """Size of the download in GB: as the manifest says, else of its files where every size is known."""
    if manifest.size_gb is not None:
        return manifest.size_gb
    sizes = [file.size for file in manifest.access.files]
    known = [size for size in sizes if size is not None]
    return float(f"{sum(known) / GIGABYTE:.3g}") if known and len(known) == len(sizes) else None


def _file(file: SourceFile) -> Iterable[str]:
    """Lines about one file: where from, how large, its checksum, where to."""
    yield file.url or f"{file.target} (a person puts it there)"
    remarks = [
        file.what,
        f"{{case}}: {len(file.cases)} files, {', '.join(file.each)}" if file.each else None,
        f"{readable(file.size)} ({file.size} bytes)" if file.size else None,
        f"md5 {file.md5}" if file.md5 else None,
        f"sha256 {file.sha256}" if file.sha256 else None,
        f"stored as {file.target}" if file.url and file.target else None,
        f"unpacked into {file.into or 'the top of the folder'}" if file.archive else None,
        f"with archives in it: {', '.join(file.nested)}" if file.nested else None,
        f"of which wanted: {', '.join(file.holds)}" if file.holds else None,
        "encrypted: the password is taken from the environment" if file.encrypted else None,
    ]
    yield from (f"  {remark}" for remark in remarks if remark)


def readable(size: float) -> str:
    """Bytes as a person reads them: 23.6 GB."""
    unit = 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size, unit = size / _STEP, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"


def _lying(manifest: Manifest) -> Entries:
    layout = manifest.layout
    storage = layout.storage
    spacing = " x ".join(f"{step:g}" for step in storage.spacing)
    return [
        ("case", layout.case),
        ("CT", " or ".join(layout.image) + (f" of {layout.image_of}" if layout.image_of else "")),
        *(("labels", f"{name}: {' or '.join(patterns)}") for name, patterns in layout.labels.items()),
        ("masks", " or ".join(layout.masks)),
        ("study", " or ".join(layout.study)),
        ("index", layout.index or ""),
        *(("geometry", text) for text in _geometry(layout)),
        ("stored as", f"{storage.orientation}, {spacing} mm; labels {storage.label_dtype}"),
        ("patient", manifest.patient or "one scan a patient"),
        ("unlabelled", _cases(manifest.unlabelled)),
    ]


def _geometry(layout: Layout) -> Iterable[str]:
    if layout.affine != "agree":
        yield f"the {layout.affine} counts where a header's two positions disagree"
    if layout.label_geometry == "image":
        yield "label headers are wrong; voxel k of the label is voxel k of the CT"
    if layout.label_geometry == "axes":
        yield "label headers are right about the axes and wrong about the position"
    if layout.regions:
        yield f"which slices were annotated stands in {layout.regions.file}"


def _meaning(label_map: LabelMap) -> Entries:
    provenance, unknown = label_map.provenance, label_map.unknown
    model = f" ({provenance.model})" if provenance.model else ""
    return [
        *(("values", text) for file, values in label_map.values.items() for text in _values(file, values)),
        *(("structure", f"{name}: {_targets(targets)}") for name, targets in label_map.structures.items()),
        ("classes", ", ".join(annotated(label_map, load_taxonomy()))),
        ("available", "only what a case shows" if label_map.available == "drawn" else ""),
        ("optional", ", ".join(label_map.optional)),
        ("provenance", f"{provenance.kind}{model}"),
        *(("provenance", f"{target}: {p.kind}") for target, p in label_map.provenance_of.items()),
        *(("drawn in part", target) for target in unknown.beyond_labelled_slices),
        *(("drawn in part", f"{target}: unknown within {mm:g} mm") for target, mm in unknown.near_partial.items()),
        *(("exceptions", f"- {case}: {_exception(found)}") for case, found in label_map.cases.items()),
        *(("label notes", f"- {note}") for note in label_map.notes),
    ]


def _values(file: str, values: dict[int, tuple[str, ...]]) -> Iterable[str]:
    yield f"{file}:"
    yield from (f"{value:>5}  {_targets(targets)}" for value, targets in sorted(values.items()))


def _targets(targets: tuple[str, ...]) -> str:
    return " + ".join(targets) or "(no class)"


def _exception(found: CaseException) -> str:
    lacking = f"; without {', '.join(found.unavailable)}" if found.unavailable else ""
    return f"{found.reason}{lacking}{'; only a box of it' if found.box else ''}{_link(found.link)}"


def annotated(label_map: LabelMap, taxonomy: Taxonomy) -> list[str]:
    """Classes that a dataset annotates, in bit order; a pair counts as both."""
    bits = {bit for target in label_map.targets() for bit in taxonomy.target_bits(target)}
    return [taxonomy.names[bit] for bit in sorted(bits)]


def _knowing(manifest: Manifest) -> Entries:
    return [
        *(("known bad", f"- {', '.join(b.cases)}: {b.reason}{_link(b.link)}") for b in manifest.known_bad),
        *(("overlaps", f"- {o.dataset}: {o.text}{_paired(o.cases)}{_DOUBT[o.verified]}") for o in manifest.overlaps),
        *(("quirks", f"- {q.text}{_DOUBT[q.verified]}{_link(q.source)}") for q in manifest.quirks),
    ]


def _paired(cases: dict[str, str]) -> str:
    return f" ({len(cases)} cases are paired by name)" if cases else ""


def _cases(cases: tuple[str, ...]) -> str:
    more = f" and {len(cases) - _MOST_CASES} more" if len(cases) > _MOST_CASES else ""
    return ", ".join(cases[:_MOST_CASES]) + more


def _link(link: str | None) -> str:
    return f" [{link}]" if link else ""
