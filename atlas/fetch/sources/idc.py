"""DICOM series of TCIA collections, from the public buckets of the Imaging Data Commons (IDC).

Which series a collection has stands in the index that IDC publishes as a Python package (extra `tcia`); a series is a
folder of a bucket, and its instances are the files in it (https://learn.canceridc.dev/data/organization-of-data).
"""

from __future__ import annotations

import difflib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

from atlas.errors import FetchError
from atlas.fetch.sources.base import Listed, missing, plain_name
from atlas.fetch.sources.buckets import objects, split

if TYPE_CHECKING:
    import duckdb

    from atlas.spec.access import SourceFile

INDEX = "ATLAS_IDC_INDEX"
"""Environment variable that may name another idc_index.parquet: a later or earlier version's."""

PLACE = "{PatientID}/{StudyInstanceUID}/{SeriesInstanceUID}"
"""Folder of a series where the manifest does not say `to`."""

_NAMES = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")


@dataclass(frozen=True)
class Series:
    """A row of the index: what folders may be named after, the instances, and where they lie (s3://bucket/uuid/)."""

    names: dict[str, str]
    instances: int
    url: str

    def folder(self, to: str, source: str) -> str:
        """Place below the dataset's folder."""
        return re.sub(r"\{(\w+)\}", lambda m: plain_name(self.names[m[1]], source), to.strip("/"))


def listing(file: SourceFile, connections: int) -> list[Listed]:
    """Instances of all series that an address like `idc://collection?Modality=CT,SEG` means.

    Parameters
    ----------
    file
        Its `to` names the folder of a series.
    connections
        Folders of the bucket that are listed at once.

    Raises
    ------
    FetchError
        If there is no such collection or column, if nothing is found, if the bucket does not hold what the index says.
    """
    url, to = file.url or "", PLACE if file.to is None else file.to
    unknown = set(re.findall(r"\{(.*?)\}", to)) - set(_NAMES)
    if unknown:
        raise FetchError(f"{url}: `to` names {sorted(unknown)}; it may name {', '.join(_NAMES)}")
    found = series(url)
    with ThreadPoolExecutor(connections, thread_name_prefix="idc") as pool:
        listed = pool.map(lambda one: _instances(one, one.folder(to, url), url), found)
        return [instance for instances in listed for instance in instances]


def series(url: str) -> list[Series]:
    """Series of an address, ordered by patient, study and series.

    The collection's own: what others derived from its scans (`analysis_result_id`) are datasets of their own.
    """
    parts = urlsplit(url)
    import duckdb

    with duckdb.connect() as database:
        database.read_parquet(str(index())).create_view("series")
        wanted, values = _filters(database, url)
        columns = ", ".join(f'"{name}"' for name in (*_NAMES, "instanceCount", "series_aws_url"))
        rows = database.execute(
            f"select {columns} from series where collection_id = ? and analysis_result_id is null {wanted} "
            "order by 1, 2, 3",
            [parts.netloc, *values],
        ).fetchall()
        if not rows:
            raise _nothing(database, parts.netloc, url)
    last = len(_NAMES)
    return [Series(dict(zip(_NAMES, map(str, r[:last]), strict=True)), r[last], r[last + 1]) for r in rows]


def version() -> str:
    """Version of the index, for the records: the package's, whose first number is the release of IDC."""
    if os.environ.get(INDEX):
        return Path(os.environ[INDEX]).name
    try:
        from importlib.metadata import version as of

        return of("idc-index-data")
    except ImportError:
        raise missing("tcia", "the index of the Imaging Data Commons") from None


def index() -> Path:
    """Where the index lies (parquet, a row for each series)."""
    if os.environ.get(INDEX):
        path = Path(os.environ[INDEX])
        if not path.is_file():
            raise FetchError(f"{INDEX} names {path}, which is no file")
        return path
    try:
        from idc_index_data import IDC_INDEX_PARQUET_FILEPATH
    except ImportError:
        raise missing("tcia", "a collection of the Imaging Data Commons") from None
    return Path(IDC_INDEX_PARQUET_FILEPATH)


def _filters(database: duckdb.DuckDBPyConnection, url: str) -> tuple[str, list[str]]:
    """Conditions of an address's query as SQL: any column of the index, one of the values separated by commas."""
    columns = [str(row[0]) for row in database.execute("describe series").fetchall()]
    sql, values = "", []
    for key, text in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if key not in columns:
            raise FetchError(f"{url}: the index has no column {key!r}; it has {', '.join(columns)}")
        options = text.split(",")
        sql += f' and cast("{key}" as varchar) in ({", ".join("?" * len(options))})'
        values += options
    return sql, values


def _nothing(database: duckdb.DuckDBPyConnection, collection: str, url: str) -> FetchError:
    """Why an address means nothing: no such collection, or nothing in it that is asked for."""
    known = [str(row[0]) for row in database.execute("select distinct collection_id from series").fetchall()]
    if collection in known:
        return FetchError(f"{url}: the collection has no such series of its own (version {version()} of the index)")
    near = difflib.get_close_matches(collection, known, n=3, cutoff=0.5)
    hint = f"; near it are {', '.join(near)}" if near else ""
    return FetchError(f"{url}: the index (version {version()}) has no collection {collection!r}{hint}")


def _instances(one: Series, folder: str, source: str) -> list[Listed]:
    scheme, bucket, key = split(one.url.removesuffix("*"))
    found = list(objects(scheme, bucket, key, source, anonymous=True))
    if len(found) != one.instances:
        uid = one.names["SeriesInstanceUID"]
        raise FetchError(
            f"{source}: series {uid} has {one.instances} instances by the index and {len(found)} in "
            f"s3://{bucket}/{key}; a newer index may help: pip install -U idc-index-data"
        )
    place = f"{folder}/" if folder else ""
    return [
        Listed(
            f"{scheme}://{bucket}/{quote(item.key)}",
            place + plain_name(item.key.removeprefix(key), source),
            item.size,
            item.md5,
            group=place,
        )
        for item in found
    ]
