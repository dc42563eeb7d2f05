"""atlas datasets: what is known about every dataset."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from atlas.cli.output import Format, console, emit
from atlas.spec import LabelMap, Manifest, load_label_map, load_manifest, load_taxonomy, names

app = typer.Typer(help="List the datasets, or show one.", invoke_without_command=True)


@app.callback()
def datasets(
    context: typer.Context,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
) -> None:
    """List every dataset: scans, size, licence, access, classes it annotates."""
    if context.invoked_subcommand is None:
        import pandas as pd

        emit(
            pd.DataFrame([_row(load_manifest(name), load_label_map(name)) for name in names("manifests")]),
            form,
        )


def _row(manifest: Manifest, label_map: LabelMap) -> dict[str, object]:
    classes = annotated(label_map)
    return {
        "dataset": manifest.id,
        "scans": manifest.scans,
        "labelled": manifest.labelled,
        "GB": "" if manifest.size_gb is None else f"{manifest.size_gb:g}",
        "licence": manifest.licence.id + ("" if manifest.licence.verified else " (?)"),
        "access": manifest.access.kind,
        "classes": len(classes),
    }


def annotated(label_map: LabelMap) -> list[str]:
    """Classes that a dataset annotates, in bit order; a pair counts as both."""
    taxonomy = load_taxonomy()
    bits = {bit for target in label_map.targets() for bit in taxonomy.target_bits(target)}
    return [taxonomy.names[bit] for bit in sorted(bits)]


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="Id of the dataset.")]) -> None:
    """Show everything known about one dataset."""
    manifest, label_map = load_manifest(name), load_label_map(name)
    licence = manifest.licence
    facts = [
        ("name", manifest.name),
        ("citation", manifest.citation),
        ("homepage", manifest.homepage),
        ("licence", f"{licence.id}{'' if licence.verified else ' (unverified)'}"),
        ("commercial use", _yes_no(licence.commercial)),
        ("redistribution", _yes_no(licence.redistribution)),
        ("licence note", licence.note),
        ("access", f"{manifest.access.kind} ({', '.join(manifest.access.via)})"),
        ("scans", f"{manifest.scans}, of which {manifest.labelled} labelled"),
        ("phase", manifest.phase),
        ("CT", " or ".join(manifest.layout.image)),
        *((f"labels {file}", " or ".join(patterns)) for file, patterns in manifest.layout.labels.items()),
        ("masks", " or ".join(manifest.layout.masks)),
        ("classes", ", ".join(annotated(label_map))),
        ("provenance", label_map.provenance.kind),
    ]
    table = Table.grid(padding=(0, 2, 0, 0))
    for key, value in facts:
        if value:
            table.add_row(Text(key, style="bold", justify="right"), Text(value))
    lists = {
        "known bad": [f"{', '.join(bad.cases)}: {bad.reason}" for bad in manifest.known_bad],
        "exceptions": [f"{case}: {e.reason}" for case, e in label_map.cases.items()],
        "overlaps": [f"{o.dataset}: {o.text}{_doubt(o.verified)}" for o in manifest.overlaps],
        "quirks": [f"{q.text}{_doubt(q.verified)}" for q in manifest.quirks],
        "label notes": list(label_map.notes),
    }
    for title, entries in lists.items():
        for number, entry in enumerate(entries):
            table.add_row(Text("" if number else title, style="bold", justify="right"), Text(f"- {entry}"))
    console.print(table)


def _yes_no(value: bool | None) -> str:
    return "sources disagree" if value is None else "yes" if value else "no"


def _doubt(verified: bool) -> str:
    return "" if verified else " (unverified)"
