"""The catalog as SQL tables, and nothing but the catalog."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import fsspec
import pyarrow.parquet as pq

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
    """Database with the tables of a corpus; it can reach no other file and no network.

    Raises
    ------
    CorpusError
        If the catalog is missing.
    """
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    for table, path in TABLES.items():
        if "://" in location:
            connection.register(table, pq.read_table(_fetched(f"{location}/{path}")))
        else:
            local = _existing(Path(location) / path)
            quoted = str(local).replace("'", "''")
            connection.execute(f"create view {table} as select * from read_parquet('{quoted}')")
    if "://" not in location:
        folder = str(Path(location).resolve() / "catalog") + "/"
        connection.execute("set allowed_directories = [$1]".replace("$1", f"'{folder.replace(chr(39), chr(39) * 2)}'"))
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CorpusError(f"{path}: the catalog is missing; make it with: atlas verify CORPUS --rebuild-catalog")
    return path.resolve()


def _fetched(url: str) -> io.BytesIO:
    try:
        with fsspec.open(url, "rb") as file:
            return io.BytesIO(file.read())
    except FileNotFoundError as error:
        raise CorpusError(f"{url}: the catalog is missing; make it with: atlas verify --rebuild-catalog") from error
