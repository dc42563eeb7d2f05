"""What the publisher's own files say of a case, voxel by voxel of the scan as published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.build.context import Context, hashed
from atlas.errors import ScanError
from atlas.harmonize.grid import Grid
from atlas.harmonize.native import native_grid, reconcile_native
from atlas.harmonize.reconcile import SourceLabels
from atlas.ingest.cases import find_cases
from atlas.ingest.regions import region_of
from atlas.ingest.scan import read_image, read_layers
from atlas.spec import load_label_map, load_manifest
from atlas.train.evaluation.truth import packed_masks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from atlas.corpus import Case, Corpus
    from atlas.corpus.record import CaseRecord
    from atlas.harmonize.grid import Shape
    from atlas.harmonize.native import NativeGrid
    from atlas.harmonize.reconcile import Reconciled
    from atlas.ingest.cases import CaseFiles
    from atlas.ingest.volume import Volume


class Published:
    """The files from which the cases of a corpus were built.

    Parameters
    ----------
    corpus
        Taxonomy and recipe of the cases.
    sources
        Folder with a folder for each dataset, as for `atlas build`. Manifests and label maps come from the library.
    """

    def __init__(self, corpus: Corpus, sources: Path) -> None:
        self._corpus, self._sources = corpus, sources
        self._datasets: dict[str, tuple[Context, dict[str, CaseFiles]]] = {}

    def case(self, case: Case) -> PublishedCase:
        """Files of a case.

        Raises
        ------
        ScanError
            If files are missing or differ from those that the corpus was built from, or if the label map does.
        SpecError
            If the library does not have the dataset.
        """
        record = case.record
        context, cases = self._dataset(record.dataset)
        files = cases.get(record.source_case)
        if files is None:
            raise ScanError(f"{record.case_id}: {context.sources} does not have the case {record.source_case}")
        if files.problem is not None:
            raise ScanError(f"{record.case_id}: {files.problem}")
        slices = region_of(context.manifest.layout, context.sources, files.source_case)
        _check_files(record, files, context)
        if context.identity(files.source_case, slices).label_map != record.identity.label_map:
            raise ScanError(
                f"{record.case_id}: was built with another label map than the library has now for {record.dataset}; "
                "build the corpus again, or set ATLAS_PATH to the library of then"
            )
        return PublishedCase(case, files, context, slices)

    def _dataset(self, name: str) -> tuple[Context, dict[str, CaseFiles]]:
        if name not in self._datasets:
            manifest, label_map = load_manifest(name), load_label_map(name)
            corpus, folder = self._corpus, self._sources / name
            context = Context(manifest, label_map, corpus.taxonomy, corpus.recipe, folder, Path(corpus.location))
            self._datasets[name] = context, {files.source_case: files for files in find_cases(manifest, folder)}
        return self._datasets[name]


def _check_files(record: CaseRecord, files: CaseFiles, context: Context) -> None:
    then = {source.path: source.sha256 for source in record.sources}
    now = {source.path: source.sha256 for source in hashed(files, context.sources)}
    if other := sorted(path for path in then.keys() | now.keys() if then.get(path) != now.get(path)):
        raise ScanError(
            f"{record.case_id}: not the files that the corpus was built from: {', '.join(other)} (sha256 differs, or "
            "one of the two does not have it); build the corpus again, or give it the files of then"
        )


@dataclass(frozen=True, eq=False)
class PublishedCase:
    """Files of a case that are those the corpus was built from.

    Attributes
    ----------
    case
        In the corpus.
    files, context
        Where they are, and how they are read.
    slices
        That were annotated, where a table of the publisher says so.
    """

    case: Case
    files: CaseFiles
    context: Context
    slices: tuple[int, int] | None

    def image(self) -> Volume:
        """The CT, read."""
        return read_image(self.files, self.context.sources, self.context.manifest.layout)

    def truth(self, shape: Shape, affine: NDArray[np.float64]) -> tuple[Reconciled, NativeGrid]:
        """Masks on the scan's grid, of the classes that come from these files and are available in the corpus.

        Parameters
        ----------
        shape, affine
            Of the CT, (i, j, k) as stored.

        Raises
        ------
        LabelError
            If a label is on another grid.
        ScanError
            If a file cannot be used.
        """
        record, grid = self.case.record, native_grid(shape, affine)
        done = reconcile_native(
            self._layers(shape, affine),
            self.context.rules,
            self.files.source_case,
            grid=grid,
            canonical=packed_masks(self.case),
            canonical_grid=Grid(record.shape, record.spacing, record.origin),
            available=self._available(),
            slices=self.slices,
        )
        return done, grid

    def _layers(self, shape: Shape, affine: NDArray[np.float64]) -> Iterator[SourceLabels]:
        layout = self.context.manifest.layout
        for name, is_mask, volume, whole in read_layers(
            self.files, self.context.sources, layout, shape=shape, affine=affine
        ):
            yield SourceLabels(name, "mask" if is_mask else "values", volume.data, volume.affine, whole)

    def _available(self) -> int:
        """Bitmask of the available classes, without those that a model gave to the corpus afterwards."""
        taxonomy, result = self.case.taxonomy, 0
        for found in self.case.record.classes:
            of = taxonomy.by_name[found.name]
            published = self.context.provenance(of)
            if (found.provenance, found.model) == (published.kind, published.model):
                result |= 1 << of.bit
        return result
