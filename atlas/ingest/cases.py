"""Which cases a dataset has on disk, and which files belong to each: by the manifest's path patterns.

A pattern that ends in "/" stands for a folder; the path of a folder ends in "/" everywhere.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from atlas.errors import ScanError
from atlas.ingest.folders import files_below, incomplete, walked
from atlas.spec.patterns import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from atlas.spec import Manifest
    from atlas.spec.files import Layout
    from atlas.spec.manifest import KnownBad

MAX_INDEX_BYTES = 16 * 2**20

_BESIDE = "../"


@dataclass
class CaseFiles:
    """Files and folders of one case, as paths below the dataset's folder.

    The CT may lie in the folder of another dataset: its path is then `../<dataset>/<path>` (see `located`).
    `problem` is set where something is missing or double; such a case is quarantined without being read.
    """

    source_case: str
    image: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    masks: dict[str, str] = field(default_factory=dict)
    study: str | None = None
    problem: str | None = None

    def paths(self) -> list[str]:
        """All files and folders, sorted."""
        single = [path for path in (self.image, self.study) if path]
        return sorted({*single, *self.labels.values(), *self.masks.values()})


def located(folder: Path, path: str) -> Path:
    """Place of a path of `CaseFiles` on disk; the folder of another dataset lies beside this one's."""
    return folder.parent / path.removeprefix(_BESIDE) if path.startswith(_BESIDE) else folder / path


def case_of(layout: Layout, path: str) -> str | None:
    """Case that a file belongs to, by its path below the dataset's folder; None where no pattern fits it."""
    patterns = [pattern for role in _roles(layout) for pattern in role[2:]]
    parents = [f"{parent}/" for parent in PurePosixPath(path).parents if parent.name]
    for place in (*reversed(parents), path):
        for pattern in patterns:
            if found := pattern.fullmatch(place):
                return found["case"]
    return None


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
    if layout.image_of:
        _share_images(cases, layout, folder.parent / layout.image_of)
    for listed in _listed(layout, folder):
        cases.setdefault(listed, CaseFiles(listed))
    for unlabelled in manifest.unlabelled:
        if unlabelled in cases and not cases[unlabelled].labels and not cases[unlabelled].masks:
            del cases[unlabelled]
    if not cases:
        raise ScanError(
            f"{manifest.id}: nothing in {folder} matches {', '.join(_sought(layout))} "
            f"with {{case}} like {layout.case!r}"
        )
    bad = {case: bad for bad in manifest.known_bad for case in bad.cases}
    for name, case in cases.items():
        case.problem = (
            _known(bad[name]) if name in bad else case.problem or _missing(case, layout) or _cut(case, folder)
        )
    return [cases[name] for name in sorted(cases)]


def _known(bad: KnownBad) -> str:
    return f"known to be bad: {bad.reason}" + (f" ({bad.link})" if bad.link else "")


def _cut(case: CaseFiles, folder: Path) -> str | None:
    """Which of a case's folders was not fetched to its end."""
    for path in case.paths():
        if path.endswith("/") and (below := incomplete(located(folder, path))) is not None:
            return f"{path}{below}: its download was interrupted; run atlas fetch again to go on"
    return None


def _match(layout: Layout, folder: Path) -> dict[str, CaseFiles]:
    """Sort every file of the folder into the cases."""
    roles = [role for role in _roles(layout) if not (role[0] == "image" and layout.image_of)]
    cases: dict[str, CaseFiles] = {}
    for path in _places(folder, [pattern for role, _, pattern in roles if role == "study"]):
        for role, name, pattern in roles:
            if found := pattern.fullmatch(path):
                case = cases.setdefault(found["case"], CaseFiles(_checked(found["case"], path)))
                _assign(case, role, name or found.groupdict().get("structure", ""), path)
                break
    return cases


def _roles(layout: Layout) -> list[tuple[str, str, re.Pattern[str]]]:
    """Role, name of the label file, and pattern of everything that a case may have."""
    roles = [("image", "", p) for p in layout.image] + [("study", "", p) for p in layout.study]
    roles += [("labels", name, p) for name, patterns in layout.labels.items() for p in patterns]
    roles += [("masks", "", p) for p in layout.masks]
    return [(role, name, compiled(pattern, layout.case)) for role, name, pattern in roles]


def _places(folder: Path, studies: list[re.Pattern[str]]) -> Iterator[str]:
    """Files, and folders that hold files, in order; a study is one place and nothing in it is another."""
    inside: str | None = None
    for place, names in walked(folder):
        if inside is not None and place.startswith(inside):
            continue
        if any(study.fullmatch(place) for study in studies):
            inside = place
            if next(files_below(folder / place), None) is not None:
                yield place
            continue
        if names and place:
            yield place
        yield from (place + name for name in names)


def _share_images(cases: dict[str, CaseFiles], layout: Layout, images: Path) -> None:
    """Give each case its CT out of the folder of another dataset; a CT that nobody labelled here is no case."""
    patterns = [pattern for role, _, pattern in _roles(layout) if role == "image"]
    for path in _places(images, []):
        for pattern in patterns:
            found = pattern.fullmatch(path)
            if found and found["case"] in cases:
                _assign(cases[found["case"]], "image", "", f"{_BESIDE}{layout.image_of}/{path}")
                break


def _sought(layout: Layout) -> tuple[str, ...]:
    """Patterns by which a case shows."""
    if not layout.image_of:
        return layout.image or layout.study
    return layout.masks or next(iter(layout.labels.values()))


def _assign(case: CaseFiles, role: str, name: str, path: str) -> None:
    single = role in ("image", "study")
    before = getattr(case, role) if single else getattr(case, role).get(name)
    if before is not None:
        what = "folders" if path.endswith("/") else "files"
        case.problem = f"two {what} for one: {before} and {path}; keep one of them"
    elif single:
        setattr(case, role, path)
    else:
        getattr(case, role)[name] = path


def _missing(case: CaseFiles, layout: Layout) -> str | None:
    """What a case lacks."""
    if layout.study:
        return None if case.study else f"no study: expected {' or '.join(layout.study)}"
    if case.image is None:
        where = f" in the folder of {layout.image_of}, beside this one" if layout.image_of else ""
        return f"no CT: expected {' or '.join(layout.image)}{where}"
    absent = [name for name in layout.labels if name not in case.labels]
    if layout.alternatives and case.labels:
        several = ", ".join(sorted(case.labels.values()))
        return None if len(case.labels) == 1 else f"labels of several releases: {several}; keep one of them"
    if layout.labels and absent and not case.masks:
        expected = " or ".join(layout.labels[absent[0]])
        return f"no label file {absent[0]!r}: expected {expected}"
    if layout.masks and not case.masks and not case.labels:
        return f"no masks: expected {' or '.join(layout.masks)}"
    return None


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
    patterns = [compiled(p, layout.case) for p in layout.image]
    found = (pattern.fullmatch(str(image)) for image in images for pattern in patterns)
    return [_checked(match["case"], layout.index) for match in found if match]


def _checked(case: str, where: str) -> str:
    """A case id becomes a folder of the corpus, so it must be a plain name."""
    if not re.fullmatch(r"[^./\\ ][^/\\]*", case) or not case.isprintable():
        raise ScanError(f"{where}: {case!r} cannot be a case id; let {{case}} in the manifest stand for a plain name")
    return case
