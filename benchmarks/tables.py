"""How long the catalog of a large corpus takes to answer: coverage and SQL over 50,000 cases x 150 classes.

    python benchmarks/tables.py

The catalog is random, but written with the package's own schemas, writer settings and row groups; making it is
not timed. Every question is asked in a fresh process (cold: the corpus is opened, the first answer computed), and
then again in the same process (warm). Imports are not counted; they are printed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
DATASETS, LICENCES = 25, ("CC-BY-4.0", "CC-BY-NC-SA-4.0", "CC0-1.0")
WARM = 3
"""Times a question is asked again."""

QUESTIONS = {
    "coverage by dataset": ("coverage", {"by": "dataset"}),
    "coverage by split": ("coverage", {"by": "split"}),
    "coverage by licence": ("coverage", {"by": "licence"}),
    "coverage by dataset, one class": ("coverage", {"by": "dataset", "classes": ["liver"]}),
    "cases where a class is present": (
        "sql",
        "select class, count(*) from annotations where present group by 1",
    ),
    "the largest livers, with their split": (
        "sql",
        "select c.case_id, c.split, a.volume_ml from annotations a join cases c using (case_id) "
        "where a.class = 'liver' and a.present order by a.volume_ml desc limit 100",
    ),
    "classes by licence and provenance": (
        "sql",
        "select c.licence, a.provenance, a.class, count(*) as n, sum(a.volume_ml) as ml from annotations a "
        "join cases c using (case_id) where a.present group by all order by n desc",
    ),
    "cases with two classes at once": (
        "sql",
        "select count(*) from cases where list_has_all(present, ['liver', 'liver_tumor'])",
    ),
    "one case": ("sql", "select * from annotations where case_id = 'dataset_03/case_07321'"),
    "volume by dataset of one class": (
        "sql",
        "select dataset, avg(volume_ml), stddev(volume_ml) from annotations "
        "where class = 'pancreas' and present group by 1 order by 1",
    ),
}


# The catalog ------------------------------------------------------------------------------------------------


def make_corpus(folder, cases, classes):
    """Write a corpus that has a catalog and no cases."""
    import numpy as np
    import pyarrow.parquet as pq

    from atlas.corpus import catalog, layout
    from atlas.corpus.write import write_root
    from atlas.spec import Recipe, load_taxonomy

    full = load_taxonomy()
    kept = full.model_dump(mode="json")
    kept["classes"] = with_enough(kept["classes"], classes)
    taxonomy = type(full).model_validate(kept)
    folder.mkdir(parents=True, exist_ok=True)
    write_root(folder, taxonomy, Recipe(name="benchmark", datasets=("benchmark",)), "benchmark")
    catalog.write_quarantine(folder, {"dataset_00/bad": ("dataset_00", "a reason")})
    rng = np.random.default_rng(0)
    annotates = rng.random((DATASETS, classes)) < np.clip(rng.pareto(1.2, classes) * 0.3, 0.08, 0.9)
    size = np.exp(rng.normal(3, 2, classes))
    options = {"schema": catalog.CASES}, {"schema": catalog.ANNOTATIONS}
    with (
        writer(pq, catalog, folder / layout.CASES_TABLE, **options[0]) as case_rows,
        writer(pq, catalog, folder / layout.ANNOTATIONS_TABLE, **options[1]) as class_rows,
    ):
        for first in range(0, cases, catalog.BATCH):
            numbers = np.arange(first, min(first + catalog.BATCH, cases))
            dataset = numbers * DATASETS // cases  # cases are written in the order of their ids
            available = annotates[dataset]
            present = available & (rng.random(available.shape) < 0.8)
            volume = np.where(present, size * np.exp(rng.normal(0, 0.4, present.shape)), 0.0)
            case_rows.write_table(case_table(catalog, taxonomy, numbers, dataset, available, present, rng))
            class_rows.write_table(class_table(catalog, taxonomy, numbers, dataset, available, present, volume, rng))


def writer(pq, catalog, path, schema):
    """The package's writer where it has one of its own, so that both have the same settings."""
    make = getattr(catalog, "table_writer", pq.ParquetWriter)
    return make(path, schema)


def with_enough(listed, count):
    """So many classes: those of the taxonomy, then invented ones."""
    extra = [
        {**listed[0], "bit": bit, "name": f"class_{bit}", "side": None, "mirror": None, "parents": [], "synonyms": []}
        for bit in range(len(listed), count)
    ]
    return [*listed[:count], *extra]


def case_ids(numbers, dataset):
    return [f"dataset_{d:02}/case_{n:05}" for n, d in zip(numbers, dataset, strict=True)]


def case_table(catalog, taxonomy, numbers, dataset, available, present, rng):
    import numpy as np
    import pyarrow as pa

    names = np.array(taxonomy.names, dtype=object)
    splits = np.array(["train", "val", "test"])[rng.choice(3, len(numbers), p=[0.8, 0.1, 0.1])]
    rows = []
    for row, (case_id, number) in enumerate(zip(case_ids(numbers, dataset), numbers, strict=True)):
        sha256 = rng.bytes(32).hex()
        shape = [int(n) for n in rng.integers(150, 500, 3)]
        bits = int("".join("01"[bit] for bit in available[row][::-1].astype(int)), 2)
        rows.append(
            {
                "case_id": case_id,
                "dataset": case_id.split("/")[0],
                "source_case": case_id.split("/")[1],
                "patient_id": f"case_{number:05}",
                "group_id": case_id,
                "split": str(splits[row]),
                "shape": shape,
                "spacing": 1.5,
                "native_shape": [512, 512, shape[0]],
                "native_spacing": [round(float(s), 6) for s in rng.uniform(0.6, 3, 3)],
                "native_orientation": "LPS",
                "hu_min": -1024,
                "hu_max": int(rng.integers(1000, 3071)),
                "body_bbox": [0, 0, 0, *shape],
                "available": names[available[row]].tolist(),
                "available_bits": [bits >> 32 * w & (2**32 - 1) for w in range(-(-len(names) // 32))],
                "present": names[present[row]].tolist(),
                "licence": LICENCES[dataset[row] % len(LICENCES)],
                "sources": [{"path": f"{case_id}{n}.nii.gz", "bytes": 1 << 26, "sha256": sha256} for n in range(2)],
                "fingerprint": rng.bytes(32).hex(),
                "warnings": [],
            }
        )
    return pa.Table.from_pylist(rows, schema=catalog.CASES)


def class_table(catalog, taxonomy, numbers, dataset, available, present, volume, rng):
    """One row per case and class, column by column."""
    import numpy as np
    import pyarrow as pa

    count, classes = available.shape
    here = present.ravel()

    def repeated(values):
        return pa.DictionaryArray.from_arrays(np.repeat(np.arange(count, dtype=np.int32), classes), values)

    def fixed(kind, values):
        flat = pa.array(values.ravel(), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=pa.array(~here))

    kinds = {field.name: field.type for field in catalog.ANNOTATIONS}
    low = rng.integers(0, 200, (len(here), 3))
    boxes = np.hstack([low, low + rng.integers(1, 200, low.shape)])
    provenance = np.where(available, (dataset % 3)[:, None], 0).astype(np.int32).ravel()
    columns = {
        "case_id": repeated(case_ids(numbers, dataset)),
        "dataset": repeated([f"dataset_{d:02}" for d in dataset]),
        "class": pa.DictionaryArray.from_arrays(np.tile(np.arange(classes, dtype=np.int32), count), taxonomy.names),
        "available": pa.array(available.ravel()),
        "present": pa.array(here),
        "provenance": pa.DictionaryArray.from_arrays(
            pa.array(provenance, mask=~available.ravel()), ["manual", "revised", "pseudo"]
        ),
        "voxels": pa.array((volume.ravel() / 0.003375).astype(np.int64)),
        "volume_ml": pa.array(volume.ravel().round(6)),
        "bbox": fixed(kinds["bbox"], boxes),
        "centroid_mm": fixed(kinds["centroid_mm"], rng.normal(0, 100, (len(here), 3)).round(3)),
        "components": pa.array(np.where(here, rng.integers(1, 9, len(here)), 0), kinds["components"]),
        "touches_border": pa.array(here & (rng.random(len(here)) < 0.1)),
    }
    columns["dataset"] = columns["dataset"].cast(kinds["dataset"].value_type).dictionary_encode()
    arrays = [columns[field.name].cast(field.type) for field in catalog.ANNOTATIONS]
    return pa.Table.from_arrays(arrays, schema=catalog.ANNOTATIONS)


# Measuring --------------------------------------------------------------------------------------------------


def measure_here(folder, question):
    """In the fresh process: open, ask, ask again."""
    start = time.perf_counter()
    import duckdb  # noqa: F401
    import pandas as pd  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import atlas
    from atlas.corpus.coverage import coverage  # noqa: F401

    imports = time.perf_counter() - start
    kind, content = QUESTIONS[question]

    def ask(corpus):
        return corpus.coverage(**content) if kind == "coverage" else corpus.sql(content)

    start = time.perf_counter()
    corpus = atlas.open(folder)
    rows, times = len(ask(corpus)), [time.perf_counter() - start]
    for _ in range(WARM):
        start = time.perf_counter()
        ask(corpus)
        times.append(time.perf_counter() - start)
    warm = statistics.median(times[1:])
    print(json.dumps({"imports": imports, "cold": times[0], "warm": warm, "peak": peak_bytes(), "rows": rows}))


def peak_bytes():
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measured(folder, question):
    command = [sys.executable, str(HERE), "--measure", question, "--corpus", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{question} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(folder, repeats):
    size = {path.stem: path.stat().st_size / 1e6 for path in (folder / "catalog").glob("*.parquet")}
    print(f"\nCatalog: cases {size['cases']:.0f} MB, annotations {size['annotations']:.0f} MB; {os.cpu_count()} cores")
    print("\n| question | cold s | warm s | peak GiB | rows |\n| --- | --- | --- | --- | --- |")
    slowest, imports = 0.0, []
    for question in QUESTIONS:
        runs = [measured(folder, question) for _ in range(repeats)]
        cold, warm, peak = (statistics.median(run[key] for run in runs) for key in ("cold", "warm", "peak"))
        slowest = max(slowest, cold, warm)
        imports += [run["imports"] for run in runs]
        print(f"| {question} | {cold:.2f} | {warm:.2f} | {peak / 2**30:.2f} | {runs[0]['rows']} |", flush=True)
    print(f"\nSlowest: {slowest:.2f} s (aim: under 1). Importing the libraries: {statistics.median(imports):.2f} s.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--corpus", type=Path, help="keep the corpus here, or use the one that is there")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_here(options.corpus, options.measure)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.corpus or Path(temporary) / "corpus.zarr"
        if not (folder / "catalog/annotations.parquet").exists():
            print("(making the catalog)", file=sys.stderr, flush=True)
            make_corpus(folder, options.cases, options.classes)
        report(folder, options.repeats)


if __name__ == "__main__":
    main()
