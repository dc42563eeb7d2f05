"""atlas datasets: the table in every format, in the docs, and everything about one dataset."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from atlas.cli.datasets import formats
from atlas.cli.showdataset import readable, size_gb
from atlas.spec import Manifest, load_label_map, load_manifest, load_taxonomy, names

DOCS = Path(__file__).parents[2] / "docs" / "datasets.md"


def atlas(*arguments, columns=200):
    environment = {key: value for key, value in os.environ.items() if key != "ATLAS_PATH"}
    done = subprocess.run(
        [sys.executable, "-m", "atlas", "datasets", *arguments],
        capture_output=True,
        env={**environment, "COLUMNS": str(columns)},
        check=True,
        timeout=300,
    )
    return done.stdout


@pytest.fixture(scope="module")
def rows():
    return json.loads(atlas("--format", "json"))


def test_the_table_says_what_manifests_and_label_maps_say(rows):
    assert [row["dataset"] for row in rows] == names("manifests")
    taxonomy = load_taxonomy()
    for row in rows:
        manifest = load_manifest(row["dataset"])
        label_map = load_label_map(row["dataset"])
        assert (row["scans"], row["labelled"]) == (manifest.scans, manifest.labelled)
        assert row["licence"].endswith(" (?)") == (not manifest.licence.verified)
        assert row["commercial use"] == {True: "yes", False: "no", None: "unclear"}[manifest.licence.commercial]
        assert row["access"].split(":")[0] == manifest.access.kind
        assert row["classes"] == len({b for t in label_map.targets() for b in taxonomy.target_bits(t)}) > 0
        assert row["formats"]


def test_formats_of_the_table_agree(rows):
    csv = pd.read_csv(io.BytesIO(atlas("--format", "csv")))
    parquet = pd.read_parquet(io.BytesIO(atlas("--format", "parquet")))
    assert list(csv["dataset"]) == list(parquet["dataset"]) == [row["dataset"] for row in rows]
    pd.testing.assert_series_equal(csv["GB"], parquet["GB"])
    markdown = atlas("--format", "markdown").decode().splitlines()
    assert len(markdown) == len(rows) + 2
    assert {line.count("|") - line.count("\\|") for line in markdown} == {len(rows[0]) + 1}


def test_the_docs_have_the_same_table():
    text = DOCS.read_text(encoding="utf-8")
    table = text.partition("<!-- table")[2].partition("-->\n")[2].partition("<!-- end")[0]
    current = atlas("--format", "markdown").decode()
    assert table == current, "docs/datasets.md is not current; `make docs` writes it again"


@pytest.mark.parametrize("name", names("manifests"))
def test_show_says_everything_in_80_columns(name):
    from rich.console import Console

    from atlas.cli import showdataset

    console = Console(width=80, file=io.StringIO(), highlight=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(showdataset, "console", console)
        showdataset.show(name)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    shown = "".join("".join(line[16:].split()) for line in lines)  # without the column of headings
    manifest, label_map = load_manifest(name), load_label_map(name)
    tables = label_map.values  # noqa: PD011 - no pandas
    expected = [manifest.name, manifest.citation, manifest.licence.id, *manifest.access.steps]
    expected += [str(part) for f in manifest.access.files for part in (f.url, f.size, f.md5, f.sha256, f.to) if part]
    expected += [*manifest.layout.image, *manifest.layout.study, *manifest.layout.masks]
    expected += [pattern for patterns in manifest.layout.labels.values() for pattern in patterns]
    expected += [text for bad in manifest.known_bad for text in (*bad.cases, bad.reason)]
    expected += [o.text for o in manifest.overlaps] + [q.text for q in manifest.quirks]
    expected += [e.reason for e in label_map.cases.values()] + list(label_map.notes)
    expected += [f"{v}{'+'.join(t)}" for file in tables for v, t in tables[file].items() if t]
    expected += [f"{s}:{'+'.join(t)}" for s, t in label_map.structures.items() if t]
    missing = [text for text in expected if "".join(text.split()) not in shown]
    assert not missing


def made(**changes):
    return Manifest.model_validate(
        {
            "id": "toy",
            "name": "toy",
            "citation": "none",
            "licence": {"id": "x", "commercial": None, "redistribution": None},
            "access": {"kind": "open"},
            "scans": 1,
            "labelled": 1,
            "layout": {"image": "{case}.nii.gz", "labels": {"s": "{case}.nrrd"}},
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({"image": "{case}.nii.gz", "labels": {"s": "{case}_s.nii"}}, "NIfTI"),
        ({"image": "{case}/", "labels": {"s": "{case}.nii"}}, "DICOM + NIfTI"),
        ({"image": "d/{case}/", "labels": {"s": "g/{case}/"}, "storage": {"slices": "png"}}, "DICOM + PNG"),
        ({"image": "{case}.mhd", "masks": "{case}/{structure}/"}, "MHA + DICOM masks"),
        ({"study": "{case}/", "storage": {"objects": "rtstruct"}}, "DICOM + RTSTRUCT"),
    ],
)
def test_formats(layout, expected):
    assert formats(made(layout=layout)) == expected


def test_size_is_that_of_the_files_where_all_are_known():
    files = [{"url": "https://x.org/a.zip", "size": 2_000_000_000}, {"url": "https://x.org/b.zip"}]
    assert size_gb(made(access={"kind": "open", "files": files})) is None
    assert size_gb(made(access={"kind": "open", "files": files[:1]})) == 2.0
    assert size_gb(made(access={"kind": "open", "files": files}, size_gb=5.5)) == 5.5


def test_readable():
    assert [readable(n) for n in (1, 1000, 23_581_218_285)] == ["1 B", "1 kB", "23.6 GB"]
