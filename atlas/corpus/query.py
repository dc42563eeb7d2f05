"""The catalog as SQL tables, and nothing but the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import fsspec
import pyarrow.dataset as pads

from atlas.corpus import layout
from atlas.errors import CorpusError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TABLES = {
    "cases": layout.CASES_TABLE,
    "annotations": layout.ANNOTATIONS_TABLE,
    "quarantine": layout.QUARANTINE_TABLE,
}


def connect(location: str) -> DuckDBPyConnection:
    """Database with the tables of a corpus.

    The tables are read through Arrow, so that the database itself needs, and has, no access to files or to the
    network: a query that somebody sent cannot read or write anything else.

    Raises
    ------
    CorpusError
        If the catalog is missing.
    """
    connection = duckdb.connect(
        ":memory:", config={"enable_external_access": False, "autoinstall_known_extensions": False}
    )
    for table, path in TABLES.items():
        filesystem, place = fsspec.core.url_to_fs(f"{location}/{path}")
        try:
            source = pads.dataset(place, filesystem=filesystem, format="parquet")
        except (FileNotFoundError, OSError, ValueError) as error:
            raise CorpusError(
                f"{location}/{path}: cannot be read ({type(error).__name__}); "
                "if it is missing, make it with: atlas verify CORPUS --rebuild-catalog"
            ) from error
        connection.register(table, source)
    connection.execute("set lock_configuration = true")
    return connection
