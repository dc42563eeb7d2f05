"""A corpus as a whole: cases by id, its tables, and questions about it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import fsspec
import zarr
from pydantic import ValidationError
from zarr.storage import FsspecStore, LocalStore

from atlas.corpus import layout
from atlas.corpus.case import Case, open_case
from atlas.corpus.query import ask, connect, storage_options
from atlas.errors import AtlasError, CorpusError
from atlas.spec.recipe import Recipe
from atlas.spec.taxonomy import Taxonomy

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    from zarr.abc.store import Store


def open_corpus(location: str | Path) -> Corpus:
    """Open a corpus for reading.

    Parameters
    ----------
    location
        Folder, or URL (s3://, gs://, https://; each needs its fsspec package).

    Raises
    ------
    CorpusError
        If there is no corpus, or one of a format that this version does not read.
    """
    return Corpus(str(location))


class Corpus:
    """Many cases on one grid, in one taxonomy. See `open_corpus`."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self._store = _store(self.location)
        try:
            attributes = dict(zarr.open_group(self._store, mode="r").attrs["atlas"])  # type: ignore[arg-type]
        except (FileNotFoundError, KeyError, ValueError, OSError) as error:
            raise CorpusError(f"{location}: no atlas corpus there") from error
        if str(attributes.get("format", "")).split(".")[0] != layout.FORMAT.split(".")[0]:
            raise CorpusError(
                f"{location}: format {attributes.get('format')}; this version of atlas reads {layout.FORMAT}"
            )
        try:
            self.taxonomy = Taxonomy.model_validate(attributes["taxonomy"])
            self.recipe = Recipe.model_validate(attributes["recipe"])
        except (KeyError, ValidationError, AtlasError) as error:
            raise CorpusError(f"{location}: the corpus's description is damaged: {error}") from error

    def __repr__(self) -> str:
        return f"<Corpus {self.location}: {len(self)} cases>"

    def __len__(self) -> int:
        return int(self.sql("select count(*) as n from cases")["n"].iloc[0])

    def __getitem__(self, case_id: str) -> Case:
        """Case by id, <dataset>/<source case>.

        Raises
        ------
        CorpusError
            If there is none of that id.
        """
        layout.check_case_id(case_id)
        return open_case(self._store, case_id, self.taxonomy)

    @cached_property
    def cases(self) -> pd.DataFrame:
        """catalog/cases: one row per case."""
        return self.sql("select * from cases order by case_id")

    @cached_property
    def annotations(self) -> pd.DataFrame:
        """catalog/annotations: one row per case and class of the taxonomy."""
        return self.sql("select * from annotations")

    @cached_property
    def quarantine(self) -> pd.DataFrame:
        """Cases that the build left out, with reasons."""
        return self.sql("select * from quarantine order by case_id")

    def coverage(
        self,
        by: Literal["dataset", "split", "licence", "group"] = "dataset",
        classes: list[str] | None = None,
    ) -> pd.DataFrame:
        """Who labels what: see `atlas.corpus.coverage.coverage`."""
        from atlas.corpus.coverage import coverage

        return coverage(self, by=by, classes=classes)

    def sql(self, query: str, parameters: list[Any] | None = None) -> pd.DataFrame:
        """Ask the tables `cases`, `annotations` and `quarantine` in SQL (DuckDB).

        The query can read these tables and nothing else: no other file, no network.

        Raises
        ------
        CorpusError
            If the query is wrong, or the catalog is missing.
        """
        return ask(self._connection, query, parameters)

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        return connect(self.location)


def _store(location: str) -> Store:
    if "://" not in location:
        if not Path(location).is_dir():
            raise CorpusError(f"{location}: no such folder")
        return LocalStore(location, read_only=True)
    try:
        return FsspecStore.from_url(location, storage_options=storage_options(location), read_only=True)
    except (ImportError, ValueError) as error:
        known = ", ".join(sorted(fsspec.available_protocols()))
        raise CorpusError(f"{location}: cannot be opened ({error}); known protocols: {known}") from error
