"""DICOM series as the Imaging Data Commons has them: instances in a bucket, and an index with a row for each series."""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from atlas.phantom.offers import SERIES_TAGS

if TYPE_CHECKING:
    from pathlib import Path

    from atlas.phantom.offers import Offer

BUCKET = "idc-open-data"
INDEX = "idc_index.parquet"

_NAMESPACE = uuid.UUID("0d4c6c0e-5a37-5d61-8a0e-3f9d3f3f2a55")


def add_series(offer: Offer, folder: Path, site: Path) -> None:
    """Put the series of an offer into the bucket, and into the index that all collections share.

    Objects are called by UUIDs (https://learn.canceridc.dev/data/organization-of-data), so that neither path nor name
    says what they are.

    Parameters
    ----------
    offer
        Of an address like `idc://collection?Modality=CT`.
    folder
        The dataset's, with its phantoms.
    site
        See `atlas.phantom.publish.publish`.
    """
    import pydicom

    series: dict[str, list[tuple[dict[str, str], bytes]]] = defaultdict(list)
    for path in offer.paths:
        found = pydicom.dcmread(folder / path, stop_before_pixels=True, specific_tags=list(SERIES_TAGS))
        tags = {tag: str(found.get(tag)) for tag in SERIES_TAGS}
        series[tags["SeriesInstanceUID"]].append((tags, (folder / path).read_bytes()))
    rows = []
    for name, instances in series.items():
        key = str(uuid.uuid5(_NAMESPACE, name))
        place = site / "s3" / BUCKET / key
        place.mkdir(parents=True, exist_ok=True)
        for tags, content in instances:
            (place / f"{uuid.uuid5(_NAMESPACE, tags['SOPInstanceUID'])}.dcm").write_bytes(content)
        rows.append(_row(offer.file.url or "", key, instances))
    _add_rows(site / INDEX, rows)


def _row(url: str, key: str, instances: list[tuple[dict[str, str], bytes]]) -> dict[str, object]:
    tags = {name: value for name, value in instances[0][0].items() if name != "SOPInstanceUID"}
    asked = {name: value.split(",")[0] for name, value in parse_qsl(urlsplit(url).query)}
    return asked | {
        **tags,
        "collection_id": urlsplit(url).netloc,
        "analysis_result_id": None,
        "instanceCount": len(instances),
        "series_size_MB": sum(len(content) for _, content in instances) / 1e6,
        "crdc_series_uuid": key,
        "aws_bucket": BUCKET,
        "series_aws_url": f"s3://{BUCKET}/{key}/*",
    }


def _add_rows(path: Path, rows: list[dict[str, object]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    before = pq.read_table(path).to_pylist() if path.exists() else []
    by_key = {row["crdc_series_uuid"]: row for row in [*before, *rows]}
    names = sorted({name for row in by_key.values() for name in row})
    kinds = {"instanceCount": pa.int64(), "series_size_MB": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([by_key[key] for key in sorted(by_key)], schema=schema), path)
