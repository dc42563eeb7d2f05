"""Which cases a dataset has on disk, and which files belong to each: by the manifest's path patterns."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from atlas.errors import ScanError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from atlas.spec import Manifest
    from atlas.spec.files import Layout

JUNK = ("__MACOSX",)
"""Folders that archivers add. AppleDouble files (._*) and other hidden files are skipped as well."""

MAX_INDEX_BYTES = 16 * 2**20


@dataclass
class CaseFiles:
    """Files of one case, as paths below the dataset's folder.

    `problem` is set where something is missing or double; such a case is quarantined without being read.
    """

    source_case: str
    image: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    masks: dict[str, str] = field(default_factory=dict)
    problem: str | None = None

    def paths(self) -> list[str]:
        """All files, sorted."""
        return sorted({*([self.image] if self.image else []), *self.labels.values(), *self.masks.values()})


def find_cases(manifest: Manifest, folder: Path) -> list[CaseFiles]:
    """All cases of a dataset, in the order of their ids.

    A case that the manifest knows to be bad, or that lacks files, has its `problem` set. Cases that are
    published without labels are left out.

    Raises
    ------
    ScanError
        If the folder is not there, or nothing in it looks like the dataset.
    """
    layout = manifest.layout
    if not folder.is_dir():
        raise ScanError(f"{manifest.id}: no folder {folder}; put the dataset there as the publisher unpacks it")
    cases = _match(layout, folder)
    for listed in _listed(layout, folder):
        cases.setdefault(listed, CaseFiles(listed))
    for unlabelled in manifest.unlabelled:
        if unlabelled in cases and not cases[unlabelled].labels and not cases[unlabelled].masks:
            del cases[unlabelled]
    if not cases:
        raise ScanError(
            f"{manifest.id}: nothing in {folder} matches {', '.join(layout.image)} with {{case}} like {layout.case!r}"
        )
    bad = {case: bad for bad in manifest.known_bad for case in bad.cases}
    for name, case in cases.items():
        if name in bad:
            link = f" ({bad[name].link})" if bad[name].link else ""
            case.problem = f"known to be bad: {bad[name].reason}{link}"
        else:
            case.problem = case.problem or _missing(case, layout)
    return [cases[name] for name in sorted(cases)]


def _match(layout: Layout, folder: Path) -> dict[str, CaseFiles]:
    """Sort every file of the folder into the cases."""
    roles = [("image", "", p) for p in layout.image]
    roles += [("labels", name, p) for name, patterns in layout.labels.items() for p in patterns]
    roles += [("masks", "", p) for p in layout.masks]
    compiled = [(role, name, _regex(pattern, layout.case)) for role, name, pattern in roles]
    cases: dict[str, CaseFiles] = {}
    for path in _files(folder):
        for role, name, pattern in compiled:
            found = pattern.fullmatch(path)
            if found:
                case = cases.setdefault(found["case"], CaseFiles(_checked(found["case"], path)))
                _assign(case, role, name or found.groupdict().get("structure", ""), path)
                break
    return cases


def _assign(case: CaseFiles, role: str, name: str, path: str) -> None:
    before = case.image if role == "image" else getattr(case, role).get(name)
    if before is not None:
        case.problem = f"two files for one: {before} and {path}; keep one of them"
    elif role == "image":
        case.image = path
    else:
        getattr(case, role)[name] = path


def _missing(case: CaseFiles, layout: Layout) -> str | None:
    """What a case lacks."""
    if case.image is None:
        return f"no CT: expected {' or '.join(layout.image)}"
    absent = [name for name in layout.labels if name not in case.labels]
    if layout.labels and absent and not case.masks:
        expected = " or ".join(layout.labels[absent[0]])
        return f"no label file {absent[0]!r}: expected {expected}"
    if layout.masks and not case.masks and not case.labels:
        return f"no masks: expected {' or '.join(layout.masks)}"
    return None


def _files(folder: Path) -> Iterator[str]:
    """Paths below a folder, sorted, without hidden files and junk; links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in JUNK)
        for name in sorted(names):
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _regex(pattern: str, case: str) -> re.Pattern[str]:
    """A path pattern as a regular expression: `**/` is any depth, `*` and `?` stay within a name."""
    result, named = [], False
    for token in re.split(r"(\*\*/|\*|\?|\{case\}|\{structure\})", pattern):
        if token == "{case}":
            result.append("(?P=case)" if named else f"(?P<case>{case})")
            named = True
        else:
            known = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]", "{structure}": "(?P<structure>[^/]+?)"}
            result.append(known.get(token, re.escape(token)))
    return re.compile("".join(result))


def _listed(layout: Layout, folder: Path) -> list[str]:
    """Cases that the dataset's index (MSD: dataset.json) lists for training."""
    if layout.index is None or not (folder / layout.index).is_file():
        return []
    path = folder / layout.index
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise ScanError(f"{path}: larger than {MAX_INDEX_BYTES} bytes; this is no dataset.json")
        training = json.loads(path.read_text(encoding="utf-8"))["training"]
        images = [PurePosixPath(layout.index).parent / entry["image"] for entry in training]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ScanError(f"{path}: not a dataset.json with a list `training` of images ({error!r})") from error
    patterns = [_regex(p, layout.case) for p in layout.image]
    found = (pattern.fullmatch(str(image)) for image in images for pattern in patterns)
    return [_checked(match["case"], layout.index) for match in found if match]


def _checked(case: str, where: str) -> str:
    """A case id becomes a folder of the corpus, so it must be a plain name."""
    if not re.fullmatch(r"[^./\\ ][^/\\]*", case) or not case.isprintable():
        raise ScanError(f"{where}: {case!r} cannot be a case id; let {{case}} in the manifest stand for a plain name")
    return case
