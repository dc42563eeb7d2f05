"""atlas fetch: download datasets, or say what a person has to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from atlas.cli.output import console, notes, print_grid, yes_no
from atlas.cli.progress import Display
from atlas.errors import AtlasError, ScanError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atlas.build.delivery import Delivery
    from atlas.fetch.download import Download
    from atlas.fetch.plan import Plan

INCOMPLETE = 3
"""Exit status: done, but something is left for a person to do."""

SHOWN = 20
"""Files of a dataset before the rest is only counted."""


def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Ids of datasets (see `atlas datasets`).")],
    to: Annotated[Path, typer.Option(help="Folder that gets a folder for each dataset.", metavar="DIR")],
    mirror: Annotated[str | None, typer.Option(help="Copies to try first.", metavar="URL_OR_DIR")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be fetched.")] = False,
) -> None:
    """Download datasets and verify them; for gated ones, say what to do and check what was put there."""
    from atlas.build.delivery import Delivery

    delivery = Delivery.planned(names, to, mirror=mirror)
    show_licences(delivery)
    if dry_run:
        _show_plans(delivery.plans.values())
        return
    with Display(delivery) as display:
        arrivals = delivery.fetch(display.files)
    failed = [arrival for arrival in arrivals if arrival.error is not None]
    for name, plan in delivery.plans.items():
        console.print(f"{name}: {_state(plan, to / name)}", markup=False, soft_wrap=True)
        show_steps(plan, to / name)
    if failed:
        raise AtlasError(f"{len(failed)} of {len(arrivals)} could not be fetched; run the same command again to go on")
    if any(plan.by_hand for plan in delivery.plans.values()):
        raise typer.Exit(INCOMPLETE)


def show_licences(delivery: Delivery) -> None:
    """Say under which terms a dataset stands, before the first of its files is downloaded."""
    for name, plan in sorted(delivery.plans.items()):
        if not plan.todo and not plan.by_hand:
            continue
        licence = plan.licence
        doubt = "" if licence.verified else " (unverified)"
        uses = f"commercial use: {yes_no(licence.commercial)}; redistribution: {yes_no(licence.redistribution)}"
        note = f". {licence.note}" if licence.note else ""
        notes.print(f"{name}: licence {licence.id}{doubt}; {uses}{note}", markup=False, soft_wrap=True)


def show_steps(plan: Plan, folder: Path) -> None:
    """What a person has to do, and which files to put where."""
    if not plan.by_hand:
        return
    for number, step in enumerate(plan.steps, start=1):
        console.print(f"  {number}. {step}", markup=False, soft_wrap=True)
    for file in plan.by_hand:
        known = [decimal(file.size)] if file.size else []
        known += [f"{kind} {value}" for kind, value in (("md5", file.md5), ("sha256", file.sha256)) if value]
        facts = f": {', '.join(known)}" if known else ""
        about = [file.what] if file.what else []
        about += [f"{{case}} is {', '.join(file.each)}"] if file.each else []
        what = f" ({'; '.join(about)})" if about else ""
        console.print(f"  put {folder / file.target}{what}{facts}", markup=False, soft_wrap=True)
    again = f"atlas fetch {plan.dataset} --to {folder.parent}"
    console.print(f"  then run `{again}` again: it checks and unpacks them", markup=False, soft_wrap=True)


def _state(plan: Plan, folder: Path) -> str:
    """How complete a dataset is on disk."""
    from atlas.ingest.cases import find_cases
    from atlas.spec import load_manifest

    try:
        cases = find_cases(load_manifest(plan.dataset), folder)
    except ScanError:
        return "not there" if plan.by_hand else "nothing in it looks like the dataset"
    incomplete = sum(case.problem is not None for case in cases)
    return f"{len(cases)} cases" + (f", {incomplete} of them incomplete or known to be bad" if incomplete else "")


def _show_plans(plans: Iterable[Plan]) -> None:
    """What would be fetched."""
    rows = []
    for plan in plans:
        rows += [[plan.dataset, d.target, _size(d), d.host, "to fetch"] for d in plan.todo[:SHOWN]]
        if len(plan.todo) > SHOWN:
            rest = plan.todo[SHOWN:]
            rows.append([plan.dataset, f"and {len(rest)} more", _total(rest), "", "to fetch"])
        rows += [[plan.dataset, d.target, _size(d), d.host, "there"] for d in plan.done[:SHOWN]]
        rows += [[plan.dataset, d.target, _size(d), "", "put there by hand"] for d in plan.placed[:SHOWN]]
        rows += [[plan.dataset, f.target, decimal(f.size) if f.size else "?", "", "by hand"] for f in plan.by_hand]
    print_grid(["dataset", "file", "size", "from", "state"], rows)
    wanted = [download for plan in plans for download in plan.todo]
    console.print(f"{len(wanted)} files to fetch, {_total(wanted)}")


def _size(download: Download) -> str:
    return "?" if download.size is None else decimal(download.size)


def _total(downloads: Iterable[Download]) -> str:
    sizes = [download.size for download in downloads]
    unknown = sum(size is None for size in sizes)
    return decimal(sum(size or 0 for size in sizes)) + (f" and {unknown} of unknown size" if unknown else "")
