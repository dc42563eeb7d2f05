"""A stream over 20,000 cases: seconds until the first batch, and how much memory it holds.

    python benchmarks/stream_memory.py [--cases 20000] [--patches 2000]

The catalog has a row for every case and class; the case folders are links to three real ones (those of
`benchmarks/stream.py`), each opened by its own name. Every figure is that of a fresh process; memory is the high-water
mark of all of the process, libraries included.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

START = time.perf_counter()
DATASETS = 20
MASKS = 32
HERE = Path(__file__).resolve().parent


# The corpus -----------------------------------------------------------------------------------------------------


def make_corpus(source, corpus, cases):
    """Write a catalog of so many cases, and links to the cases of `source` for all of them."""
    import pyarrow.parquet as pq

    import atlas
    from atlas.corpus import catalog, layout
    from atlas.corpus.write import write_root

    opened = atlas.open(str(source))
    stores = sorted(opened.cases.case_id)
    records = [opened[case_id].record for case_id in stores]
    write_root(corpus, opened.taxonomy, opened.recipe, "benchmark")
    catalog.write_quarantine(corpus, {})
    for dataset in range(DATASETS):
        place = corpus / f"cases/dataset_{dataset:02}"
        place.mkdir(parents=True)
        (place / "zarr.json").write_text(json.dumps(layout.group()))
    splits = opened.recipe.splits
    with (
        pq.ParquetWriter(corpus / layout.CASES_TABLE, catalog.CASES) as case_rows,
        pq.ParquetWriter(corpus / layout.ANNOTATIONS_TABLE, catalog.ANNOTATIONS) as class_rows,
    ):
        for first in range(0, cases, catalog.BATCH):
            batch = []
            for number in range(first, min(first + catalog.BATCH, cases)):
                dataset, source_case = f"dataset_{number * DATASETS // cases:02}", f"case_{number:05}"
                named = {"case_id": f"{dataset}/{source_case}", "dataset": dataset}
                named |= {"source_case": source_case, "patient_id": source_case}
                batch.append(records[number % len(records)].model_copy(update=named))
                target = source / layout.case_path(stores[number % len(stores)])
                (corpus / layout.case_path(named["case_id"])).symlink_to(target, target_is_directory=True)
            case_rows.write_table(catalog.case_table(batch, opened.taxonomy, splits))
            class_rows.write_table(catalog.annotation_table(batch, opened.taxonomy))


# In a fresh process -----------------------------------------------------------------------------------------------


def hold(corpus, device, patches, patch, batch_size):
    """Stream so many patches; print what it took."""
    import torch
    from stream_measure import peak_bytes

    import atlas

    torch.set_num_threads(1)
    atlas.stream  # noqa: B018 - imports what streaming needs
    imported, before = time.perf_counter(), peak_bytes()
    opened = atlas.open(corpus)
    classes = {"classes": opened.taxonomy.names[:MASKS]} if device else {}
    batches = iter(atlas.stream(opened, batch_size=batch_size, patch_size=patch, device=device, seed=0, **classes))
    seen, cases = 0, set()
    while seen < patches:
        batch = next(batches)
        if not seen:
            first, early = time.perf_counter(), peak_bytes()
        cases.update(batch.case_id)
        seen += len(batch)
    figures = {
        "imports": imported - START,
        "first": first - imported,
        "patches": seen,
        "cases": len(cases),
        "libraries": before,
        "early": early,
        "peak": peak_bytes(),
    }
    print(json.dumps(figures))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--patches", type=int, default=2_000)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument(
        "--work", type=Path, default=HERE.parent / "build/benchmark-stream", help="where files are kept"
    )
    parser.add_argument("--hold", nargs=2, metavar=("CORPUS", "DEVICE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        corpus, device = options.hold
        hold(corpus, None if device == "none" else device, options.patches, options.patch, options.batch)
    else:
        report(options)


def report(options):
    from stream import generated_volumes, once

    source = generated_volumes(options.work.resolve()) / "corpus.zarr"
    corpus = options.work.resolve() / f"of-{options.cases}.zarr"
    once(corpus, f"a catalog of {options.cases:,} cases", lambda: make_corpus(source, corpus, options.cases))
    print(f"\n### {options.cases:,} cases, batches of {options.batch} patches of {options.patch}^3\n")
    columns = ["", "first batch after s", "of that, imports", "patches", "cases read"]
    columns += ["MiB after imports", "after the first batch", "at most"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for text, device in (("packed", "none"), (f"unpacked to {MASKS} masks on the CPU", "cpu")):
        found = fresh(options, corpus, device)
        total = found["imports"] + found["first"]
        memory = [f"{found[key] / 2**20:.0f}" for key in ("libraries", "early", "peak")]
        row = [text, f"{total:.2f}", f"{found['imports']:.2f}", str(found["patches"]), str(found["cases"]), *memory]
        print(f"| {' | '.join(row)} |", flush=True)


def fresh(options, corpus, device):
    numbers = {name: str(getattr(options, name)) for name in ("patches", "patch", "batch")}
    words = [word for name, value in numbers.items() for word in (f"--{name}", value)]
    command = [sys.executable, str(HERE / "stream_memory.py"), *words, "--hold", str(corpus), device]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
