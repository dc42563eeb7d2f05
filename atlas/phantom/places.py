"""Where the files of a phantom lie: a manifest's patterns, filled in as a publisher fills them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from atlas.errors import SpecError
from atlas.phantom.dicom import uid
from atlas.phantom.served import serves
from atlas.spec import LabelMap, Manifest, Taxonomy, load_label_map, load_manifest, load_taxonomy
from atlas.spec.patterns import compiled

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Published:
    """A dataset as its publisher lays it out: what says how to write a case, and where.

    Attributes
    ----------
    sources
        Folder of all datasets.
    """

    sources: Path
    manifest: Manifest
    label_map: LabelMap
    taxonomy: Taxonomy

    @classmethod
    def of(cls, dataset: str, sources: Path) -> Published:
        """Read the specifications of a dataset."""
        return cls(sources, load_manifest(dataset), load_label_map(dataset), load_taxonomy())

    @property
    def root(self) -> Path:
        """The dataset's own folder."""
        return self.sources / self.manifest.id

    def lender(self) -> Published:
        """The dataset that the CT belongs to: this one, where the publisher gives CT and labels."""
        other = self.manifest.layout.image_of
        return self if other is None else Published.of(other, self.sources)

    def lent(self, case: str) -> str:
        """Case of the lender that a case of this dataset was drawn on.

        Raises
        ------
        SpecError
            If the CT is called as the lender's manifest calls none.
        """
        lender = self.lender()
        if lender is self:
            return case
        ours = [_naming(pattern).replace("*", "").replace("{case}", case) for pattern in self.manifest.layout.image]
        theirs = lender.manifest.layout
        for pattern, name in product(theirs.image, ours):
            if found := compiled(_naming(pattern), theirs.case).fullmatch(name):
                return found["case"]
        raise SpecError(f"{self.manifest.id}: {ours[0]} is no name of a CT of {lender.manifest.id}")

    def image(self, case: str) -> Path:
        """CT of a case: a file, or the folder of a series."""
        layout = self.manifest.layout
        if layout.image[0].endswith("/"):
            return self.series(case, "CT", layout.image[0])
        return self._place(layout.image, case)

    def label(self, name: str, case: str) -> Path:
        """Label volume: a file, or the folder of a stack."""
        return self._place(self.manifest.layout.labels[name], case)

    def mask(self, structure: str, case: str) -> Path:
        """Mask of a structure: a file, or the folder of a stack."""
        return self._place(self.manifest.layout.masks, case, structure)

    def series(self, case: str, modality: str, pattern: str, which: str = "") -> Path:
        """Folder of a DICOM series: where a listing of a collection puts it, or where the pattern says.

        Parameters
        ----------
        case, modality, which
            Which series; `which` tells several of one modality apart.
        pattern
            The layout's, of the CT's folder or of the study's.
        """
        names = {
            "PatientID": self.patient(case),
            "StudyInstanceUID": self.uid(case, "study"),
            "SeriesInstanceUID": self.uid(case, f"{modality}{which}"),
            "Modality": modality,
        }
        listed = [file for file in self.manifest.access.files if urlsplit(file.url or "").scheme == "idc"]
        if listed:
            to = "{PatientID}/{StudyInstanceUID}/{SeriesInstanceUID}" if listed[0].to is None else listed[0].to
            return self.root / to.format(**names)
        if pattern in self.manifest.layout.study:
            pattern = f"{pattern}*/*/"
        uids = iter([names["StudyInstanceUID"], names["SeriesInstanceUID"]])
        parts = [next(uids, "series") if part == "*" else part for part in self._filled(pattern, case).split("/")]
        return self.root / "/".join(parts)

    def patient(self, case: str) -> str:
        """PatientID: the part of the path that names the case."""
        pattern = (*self.manifest.layout.image, *self.manifest.layout.study)[0]
        return _naming(pattern).replace("*", "").replace("{case}", case)

    def uid(self, case: str, *what: str) -> str:
        """DICOM UID of something of a case: always the same."""
        return uid(self.manifest.id, case, *what)

    def _place(self, patterns: tuple[str, ...], case: str, structure: str = "") -> Path:
        """The first of several places that something which is downloaded leads to."""
        filled = [self._filled(pattern, case, structure) for pattern in patterns]
        files = self.manifest.access.files
        led = (path for path in filled if any(serves(file, path) is not None for file in files))
        return self.root / next(led, filled[0])

    @staticmethod
    def _filled(pattern: str, case: str, structure: str = "") -> str:
        """Where a file may lie at any depth, it lies at the top."""
        return pattern.replace("**/", "").replace("{case}", case).replace("{structure}", structure)


def concrete(structure: str) -> str:
    """A name that is like a name with `*`: livertumor1 for livertumor*."""
    return structure.replace("*", "1")


def _naming(pattern: str) -> str:
    """Part of a path that says which case it is."""
    return next(part for part in pattern.split("/") if "{case}" in part)
