"""What all cases of a dataset share in a build, and the identity by which a finished case is recognised."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from atlas.corpus.layout import FORMAT
from atlas.corpus.record import Identity, SourceRecord, digest
from atlas.harmonize.rules import LabelRules, compile_rules
from atlas.ingest.cases import located
from atlas.ingest.folders import files_below

if TYPE_CHECKING:
    from pathlib import Path

    from atlas.ingest.cases import CaseFiles
    from atlas.spec import LabelMap, Manifest, Recipe, Taxonomy
    from atlas.spec.label_map import Provenance
    from atlas.spec.taxonomy import AnatomicalClass

SOFTWARE = "1"
"""Raised whenever reading or harmonizing gives other voxels than before: every case is then built again."""

BLOCK = 2**20


@dataclass(frozen=True)
class Context:
    """A dataset of a build.

    Attributes
    ----------
    sources
        Folder of the dataset, as the publisher unpacks it.
    corpus
        Folder of the corpus.
    """

    manifest: Manifest
    label_map: LabelMap
    taxonomy: Taxonomy
    recipe: Recipe
    sources: Path
    corpus: Path

    @cached_property
    def rules(self) -> LabelRules:
        """The label map, compiled."""
        return compile_rules(self.label_map, self.taxonomy)

    def identity(self, source_case: str, slices: tuple[int, int] | None = None) -> Identity:
        """Everything that shapes a case, apart from its files; `slices` as for `reconcile`.

        Only what concerns the case counts: its own exceptions and the classes that its labels name, so that a
        new class at the end of the taxonomy, or an exception of another case, redoes nothing.
        """
        label_map = self.label_map
        exception = label_map.cases.get(source_case)
        named = {t for target in label_map.mentioned() for t in (target, *self.taxonomy.wholes(target))}
        meaning = {
            **label_map.model_dump(mode="json", exclude={"cases", "notes"}),
            "classes": {target: self._classes(target) for target in sorted(named)},
            "exception": exception.model_dump(mode="json") if exception else None,
        }
        layout = self.manifest.layout.model_dump(mode="json", include={"affine", "label_geometry"})
        shaping = {
            "grid": self.recipe.grid.model_dump(mode="json"),
            "resample": self.recipe.resample.model_dump(mode="json"),
            "storage": self.recipe.storage.model_dump(mode="json"),
            "layout": layout,
            "slices": slices,
            "licence": self.manifest.licence.id,
            "patient": self.patient(source_case),
            "format": FORMAT,
        }
        return Identity(label_map=digest(meaning), recipe=digest(shaping), software=SOFTWARE)

    def patient(self, source_case: str) -> str:
        """Patient of a case: the manifest's pattern, or the case itself."""
        found = re.search(self.manifest.patient, source_case) if self.manifest.patient else None
        return found.group(1) if found else source_case

    def provenance(self, found: AnatomicalClass) -> Provenance:
        """Who annotated a class, by the label map."""
        special = self.label_map.provenance_of
        return special.get(found.name) or special.get(found.pair or "") or self.label_map.provenance

    def _classes(self, target: str) -> list[dict[str, object]]:
        """What of the taxonomy shows in a case that has this target."""
        shown = {"bit", "name", "side", "parents", "colour"}
        bits = self.taxonomy.target_bits(target)
        return [self.taxonomy.classes[bit].model_dump(mode="json", include=shown) for bit in bits]


def hashed(files: CaseFiles, folder: Path) -> tuple[SourceRecord, ...]:
    """sha256 of every input file of a case; a folder counts as one file (see `_hashed_folder`)."""
    return tuple(_hashed(path, located(folder, path)) for path in files.paths())


def _hashed(name: str, path: Path) -> SourceRecord:
    if name.endswith("/"):
        return _hashed_folder(name, path)
    result, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            result.update(block)
            size += len(block)
    return SourceRecord(path=name, bytes=size, sha256=result.hexdigest())


def _hashed_folder(name: str, folder: Path) -> SourceRecord:
    """One record of a folder: all bytes below it, and sha256 over the sorted lines "<path below it> <sha256>"."""
    records = [_hashed(below, folder / below) for below in files_below(folder)]
    lines = sorted(f"{record.path} {record.sha256}\n" for record in records)
    total = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape"))
    return SourceRecord(path=name, bytes=sum(record.bytes for record in records), sha256=total.hexdigest())
