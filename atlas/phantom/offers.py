"""Which file that a publisher serves holds which files of a phantom."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from atlas.errors import SpecError
from atlas.ingest.cases import case_of
from atlas.phantom.served import serves
from atlas.spec.access import ARCHIVES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from atlas.spec import Manifest
    from atlas.spec.access import SourceFile

PARTS = 2
"""Archives that a pattern of archives stands for."""
JUNK = "._"
"""What the files begin with that a Mac adds."""


@dataclass
class Offer:
    """Something to download.

    Attributes
    ----------
    file
        As the manifest has it; of one case where it has one for each, one archive where it has several.
    entry
        Number of the manifest's entry that it comes from.
    case
        What {case} stood for.
    paths
        What it holds, by place below the dataset's folder.
    """

    file: SourceFile
    entry: int
    case: str | None = None
    paths: list[str] = field(default_factory=list)

    @property
    def collection(self) -> bool:
        """Whether it is a collection of DICOM series."""
        return urlsplit(self.file.url or "").scheme == "idc"

    def rank(self, path: str, folder: Path) -> int | None:
        """How much an offer has to do with a file: see `atlas.phantom.served.serves`."""
        if self.collection:
            return 1 if _in_series(self.file, path, folder) else None
        return serves(self.file, path)


def offers(manifest: Manifest, folder: Path, paths: Sequence[str]) -> list[Offer]:
    """Deal out a phantom's files to what the publisher serves. What could lie in several archives does so by cases.

    Parameters
    ----------
    folder
        The dataset's, with its phantoms.
    paths
        The files below it.

    Raises
    ------
    SpecError
        If nothing of what the manifest names would hold a file.
    """
    found = [offer for entry, file in enumerate(manifest.access.files) for offer in _expanded(file, entry, paths)]
    turns: dict[str | None, int] = {}
    for path in paths:
        # what a Mac adds lies where the file lies that it belongs to
        beside = str(PurePosixPath(path).with_name(PurePosixPath(path).name.removeprefix(JUNK)))
        ranks = [(rank, offer) for offer in found if (rank := offer.rank(beside, folder)) is not None]
        if not ranks:
            raise SpecError(f"{manifest.id}: {path} is in none of the files that the manifest says to download")
        best = [offer for rank, offer in ranks if rank == min(rank for rank, _ in ranks)]
        case = case_of(manifest.layout, beside)
        turn = turns.setdefault(case, len(turns)) if case is not None else 0
        best[turn % len(best)].paths.append(path)
    return found


def _expanded(file: SourceFile, entry: int, paths: Sequence[str]) -> list[Offer]:
    if file.each:
        cases = file.cases if file.archive else _cases(file.target, paths)
        return [Offer(_of_case(file, case), entry, case) for case in cases]
    if file.many and (file.url or "").endswith(ARCHIVES):
        return [Offer(_part(file, number), entry) for number in range(1, PARTS + 1)]
    return [Offer(file, entry)]


def _cases(template: str, paths: Sequence[str]) -> list[str]:
    """What {case} has to be for a template to give the files that are there."""
    first, *rest = (re.escape(part) for part in template.split("{case}"))
    pattern = first + "(?P<case>[^/]+)" + "(?P=case)".join(rest)
    return [found["case"] for path in paths if (found := re.fullmatch(pattern, path))]


def _of_case(file: SourceFile, case: str) -> SourceFile:
    named = {key: text and text.replace("{case}", case) for key, text in (("url", file.url), ("to", file.to))}
    holds = tuple(pattern.replace("{case}", case) for pattern in file.holds)
    return file.model_copy(update={**named, "holds": holds, "each": ()})


def _part(file: SourceFile, number: int) -> SourceFile:
    """One of the archives that an address stands for."""
    url = (file.url or "").replace("**/", "").replace("*", f"part{number}")
    name = PurePosixPath(urlsplit(url).path).name
    return file.model_copy(update={"url": url, "to": f"{file.to.strip('/')}/{name}" if file.to else name})


def _in_series(file: SourceFile, path: str, folder: Path) -> bool:
    """Whether a file is of a series that a collection's address means, and lies where they are put."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    to = "{PatientID}/{StudyInstanceUID}/{SeriesInstanceUID}" if file.to is None else file.to.strip("/")
    try:
        found = pydicom.dcmread(folder / path, stop_before_pixels=True, specific_tags=list(SERIES_TAGS))
    except InvalidDicomError:
        return False
    modalities = re.search(r"[?&]Modality=([^&]*)", file.url or "")
    wanted = modalities is None or found.Modality in modalities[1].split(",")
    place = to.format(**{tag: str(found.get(tag)) for tag in SERIES_TAGS})
    return wanted and path.rpartition("/")[0] == place


SERIES_TAGS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SOPInstanceUID")
"""What an index of series tells of each."""
