"""atlas datasets new: draft the files that describe a folder of the user's own scans."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atlas.cli.output import console, print_grid
from atlas.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atlas.draft.draft import Draft
    from atlas.draft.survey import Tally

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_SHOWN = 10


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Id of the dataset to be: letters, digits and _.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of your scans; it is only read.")],
    like: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT",
            help="How the files lie. pairs: CTs and label volumes in two folders or with two prefixes or suffixes. "
            "folders: a folder a case with a CT and a label volume. masks: a folder a case with a CT and a mask for "
            "each structure. dicom: a folder a case with DICOM series and DICOM-SEG or RTSTRUCT. Or the id of a "
            "dataset (atlas datasets) whose files lie in the same way.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write the three files.")] = Path(),
) -> None:
    """Draft the manifest, label map and recipe of a folder of your own scans."""
    from atlas.draft.draft import LAYOUTS, draft
    from atlas.spec import names

    if not _NAME.fullmatch(name) or name == "taxonomy":
        raise typer.BadParameter(f"{name!r} must be letters, digits and _, beginning with a letter", param_hint="NAME")
    if like not in (*LAYOUTS, *names("manifests")):
        raise typer.BadParameter(
            f"{like!r} is none of {', '.join(LAYOUTS)}, nor the id of a dataset", param_hint="--like"
        )
    if name in names("manifests"):
        raise AtlasError(f"there is a dataset called {name} already (atlas datasets show {name}); choose another name")
    places = [out / f"{kind}/{name}.yaml" for kind in ("manifests", "label_maps", "pipelines")]
    for place in places:
        if place.exists():
            raise AtlasError(f"{place} exists and is not overwritten; choose another NAME or --out, or remove it")
    done = draft(name, folder, like)
    for path, text in done.texts.items():
        _write(out / path, text)
    _print_found(done)
    _print_next(name, folder.absolute(), out.absolute(), places, done)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise AtlasError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error


def _print_found(done: Draft) -> None:
    found = done.found
    many = len(found.cases)
    spacing = [
        " to ".join(dict.fromkeys(f"{f(s[a] for s in found.spacing):.3g}" for f in (min, max))) for a in range(3)
    ]
    _say(f"{many} cases with CT and labels, like {_few(found.cases, 3)}")
    _say(f"voxels read of {found.sampled} of them; spacing {' x '.join(spacing)} mm along the stored axes")
    rows = [*((f"{file} {v}", t) for file, by in found.values.items() for v, t in sorted(by.items()) if v)]
    rows += found.structures.items()
    if rows:
        header = ["label", "voxels", "cases", "where"]
        print_grid(header, [[name, f"{t.voxels:,}", str(t.cases), _where(t)] for name, t in rows])
    else:
        _say("no label value but 0 was found")
    if done.legend:
        _say(f"names of the label values: {done.legend}")
    _list("cases without labels", found.unlabelled)
    _list("did not fit", (f"{case}: {problem}" for case, problem in found.problems.items()))
    _list("belong to no case", done.strays)
    _list("cannot be read", done.unreadable.values())


def _where(tally: Tally) -> str:
    return tally.where() if tally.cases else "empty"


def _print_next(name: str, folder: Path, out: Path, places: list[Path], done: Draft) -> None:
    from atlas.draft.survey import SAMPLE

    sources = folder.parent if folder.name == name else None
    link = f"mkdir -p sources && ln -s {shlex.quote(str(folder))} sources/{name}"
    _say("")
    _say("written: " + ", ".join(str(place) for place in places))
    _say("what to do next:")
    _say(f"1. export ATLAS_PATH={shlex.quote(str(out))}" + (":$ATLAS_PATH" if os.environ.get("ATLAS_PATH") else ""))
    mapped = done.texts[f"label_maps/{name}.yaml"]
    _say(f"2. edit {places[1]}: {mapped.count(': null  #')} labels have no class yet; and {places[0]}: the licence")
    if sources is None:
        _say(f"3. the folder must be called {name} below --sources, or be a link there: {link}")
    where = shlex.quote(str(sources)) if sources else "sources"
    _say(f"{3 if sources else 4}. atlas build {name} --sources {where} --out {name}.zarr")
    if len(done.found.cases) > SAMPLE:
        _say(
            f"only {SAMPLE} of {len(done.found.cases)} cases were read: a case with a label value that the "
            "map does not explain is quarantined by the build"
        )


def _list(what: str, entries: Iterable[str]) -> None:
    texts = list(entries)
    for text in texts[:_SHOWN]:
        _say(f"{what}: {text}")
    if len(texts) > _SHOWN:
        _say(f"{what}: and {len(texts) - _SHOWN} more")


def _few(texts: list[str], most: int) -> str:
    return ", ".join(texts[:most]) + (", ..." if len(texts) > most else "")


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
