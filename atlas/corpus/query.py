"""The catalog as SQL tables, and nothing but the catalog."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import duckdb
import fsspec

from atlas.corpus import layout
from atlas.errors import CorpusError

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection

TABLES = {
    "cases": layout.CASES_TABLE,
    "annotations": layout.ANNOTATIONS_TABLE,
    "quarantine": layout.QUARANTINE_TABLE,
}


_process: list[int] = []
"""The process whose threads DuckDB has."""


def _check_process() -> None:
    """Refuse to ask in a process forked from one that asked: without DuckDB's threads an answer may never come."""
    if _process and _process[0] != os.getpid():
        raise CorpusError(
            'the tables of a corpus were read before this process was forked; start processes by "forkserver" or '
            '"spawn", or read the tables (open streams and datasets) before the fork or only after it'
        )
    _process[:] = [os.getpid()]


def connect(location: str) -> DuckDBPyConnection:
    """Database with the tables of a corpus, which can open their files and no other, and no network.

    It could still write to these files: use `ask`.

    Raises
    ------
    CorpusError
        If the catalog is missing, or the process was forked from one that read a catalog.
    """
    _check_process()
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    filesystem, folder = fsspec.core.url_to_fs(location, **storage_options(location))
    if "file" not in filesystem.protocol:
        folder = filesystem.unstrip_protocol(folder)
        if "https" in filesystem.protocol:
            filesystem = _pages()
        connection.register_filesystem(filesystem)
    allowed = []
    for table, path in TABLES.items():
        allowed.append(_quoted(f"{folder}/{path}"))
        try:
            # DuckDB's own reader, not Arrow's: it skips what a query does not want, above all inside lists
            connection.execute(f"create view {table} as select * from read_parquet({allowed[-1]})")
        except (duckdb.Error, OSError, ValueError) as error:
            raise CorpusError(
                f"{location}/{path}: cannot be read ({type(error).__name__}); "
                "if it is missing, make it with: atlas verify CORPUS --rebuild-catalog"
            ) from error
    connection.execute(f"set allowed_paths = [{', '.join(allowed)}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def storage_options(location: str) -> dict[str, Any]:
    """What fsspec must be told to reach a corpus: buckets that anyone may read need no credentials."""
    if not location.startswith("s3://"):
        return {}
    import botocore.session

    return {"anon": True} if botocore.session.get_session().get_credentials() is None else {}


def _pages() -> Any:  # noqa: ANN401
    """Web pages with the one thing that DuckDB asks for and fsspec does not know of them: when they changed."""
    from fsspec.implementations.http import HTTPFileSystem

    class Pages(HTTPFileSystem):  # type: ignore[misc]
        def modified(self, path: str) -> datetime:  # noqa: ARG002
            return datetime(2000, 1, 1, tzinfo=UTC)  # not while they are read

    return Pages()


def ask(connection: DuckDBPyConnection, query: str, parameters: list[Any] | None = None) -> pd.DataFrame:
    """Answer of one query, which can read the tables and change nothing.

    Raises
    ------
    CorpusError
        If the query is wrong, or is not a query; and as `connect`.
    """
    _check_process()
    try:
        # COPY could write over the tables' own files, and hides in EXPLAIN ANALYZE and in a PIVOT of several steps
        kinds = {statement.type for statement in connection.extract_statements(query)}
        if kinds != {duckdb.StatementType.SELECT}:
            raise CorpusError("the query failed: only SELECT is answered")
        return connection.execute(query, parameters).df()
    except duckdb.Error as error:
        raise CorpusError(f"the query failed: {error}") from None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
