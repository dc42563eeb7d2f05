"""Build a corpus from the real scans, through the public interface, and compare it with what the sources say.

Usage: python tests/realdata/make.py SOURCE_DIR BUILD_DIR

Writes BUILD_DIR/realdata.zarr (occupancy), realdata-nearest.zarr, realdata-merged.zarr (pairs merged at the source
and split again), and below BUILD_DIR/realdata: sources/, report.csv, sides.csv, kits.csv, and overlays/ and
patches.png to look at.
Exit status 0: everything holds. 1: something does not; sentences say what.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import compare
import overlay
import pandas as pd
import patches
import prepare

import atlas

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).resolve().parent
CORPORA = {"realdata": "realdata", "realdata_nearest": "realdata-nearest", "realdata_merged": "realdata-merged"}
"""Recipe -> corpus."""

QUARANTINED = {
    "odd_nifti/shear": "degrees away from square",
    "odd_dicom/unlabelled": "no label file 'bone'",
    "odd_dicom/tilt_uneven": "stacked 18.50 degrees off their normal",
    "odd_dicom/tilt": "stacked 14.00 degrees off their normal",
    "odd_dicom/one_place": "mixes acquisitions or phases (12, 13, 14, 15): 3 slices lie where another lies",
    "odd_dicom/gap": "slices are missing: 10 mm between",
    "odd_dicom/tilt_gap": "stacked 15.50 degrees off",
    "odd_dicom/single": "is a single slice",
}
"""Cases that must not get into a corpus -> words of the reason."""

WORKERS = 2
DONE, PARTLY = 0, 3
"""Exit statuses of `atlas build`: everything built; some cases in quarantine."""


def run(*words: object) -> int:
    """Run the command atlas of this environment, with the specifications beside this file."""
    command = [sys.executable, "-m", "atlas", *map(str, words)]
    return subprocess.run(command, env=os.environ | {"ATLAS_PATH": str(HERE)}, check=False).returncode


@contextmanager
def timed(what: str):
    """Say how long something took."""
    start = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - start:.0f} s", flush=True)


def build(sources: Path, target: Path, datasets: Iterable[str] = ()) -> list[str]:
    """Build the corpora, of all datasets or of some; what went otherwise than expected."""
    wrong = []
    for recipe, name in CORPORA.items():
        corpus = target / f"{name}.zarr"
        with timed(f"atlas build {recipe}"):
            only = [] if recipe == "realdata_merged" else [w for name in datasets for w in ("--only", name)]
            status = run(
                "build", recipe, "--sources", sources, "--out", corpus, "--workers", WORKERS, "--offline", *only
            )
        expected = {} if recipe == "realdata_merged" else QUARANTINED
        if status != (PARTLY if expected else DONE):
            wrong.append(f"atlas build {recipe}: exit status {status}")
            continue
        reasons = dict(atlas.open(corpus).quarantine[["case_id", "reason"]].itertuples(index=False))
        wrong += [f"{case}: quarantined: {reason}" for case, reason in reasons.items() if case not in expected]
        wrong += [
            f"{c}: not quarantined for its {why!r}" for c, why in expected.items() if why not in reasons.get(c, "")
        ]
    return wrong


def examine(target: Path, case: prepare.Case) -> tuple[list[dict], dict | None, list[dict]]:
    """Compare one case and draw it: rows of structures, of the CT if it is a real one, of merged pairs."""
    paths = [target / f"{name}.zarr" for name in CORPORA.values()]
    overlay.draw(paths[0], case.case_id, target / "realdata/overlays")
    ct = None if case.made else compare.compare_ct(case, paths[0])
    merged = compare.compare_merged(case, paths[0], paths[2]) if case.dataset in prepare.SIDED else []
    return compare.compare_case(case, *paths[:2]), ct, merged


def kits(corpus: Path) -> pd.DataFrame:
    """What became of the kidneys of every KiTS case, and why where it was not obvious."""
    opened = atlas.open(corpus)
    rows = []
    for case_id in sorted(opened.cases.case_id[opened.cases.dataset.str.startswith("kits")]):
        record = opened[case_id].record
        sizes = {c.name: round(c.volume_ml, 1) for c in record.classes}
        parts = {c.name: c.components for c in record.classes}
        rows.append(
            {"case": case_id}
            | {f"{side}_ml": sizes.get(f"kidney_{side}") for side in ("left", "right")}
            | {f"{side}_parts": parts.get(f"kidney_{side}") for side in ("left", "right")}
            | {"tumor_ml": sizes.get("kidney_tumor"), "warnings": "; ".join(record.warnings)}
        )
    return pd.DataFrame(rows)


def report(table: pd.DataFrame, cts: pd.DataFrame, merged: pd.DataFrame) -> list[str]:
    """Print the comparison, the worst first; what does not hold."""
    measured = compare.comparable_surfaces(table)
    ratio = (measured.surface_mm / measured.surface_nearest_mm).sort_values(ascending=False)
    over = table[table.native_ml > compare.VOLUME_LIMITS[1][0]]
    columns = ["case", "structure", "native_ml", "ml", "volume_error"]
    show("nearest, Dice with an independent computation", table.sort_values("dice")[["case", "structure", "dice"]], 5)
    show("occupancy, volume", over.loc[over.volume_error.abs().sort_values(ascending=False).index, columns], 10)
    show("occupancy, volumes beyond the limits, and why", compare.exceptions(table), None)
    show(
        f"surface: {measured.surface_mm.mean():.3f} mm with occupancy, {measured.surface_nearest_mm.mean():.3f} with "
        f"nearest, mean of {len(measured)} structures",
        measured.loc[ratio.index, ["case", "structure", "surface_mm", "surface_nearest_mm"]],
        10,
    )
    show("CT, largest difference from linear interpolation (HU)", cts.sort_values("ct_error", ascending=False), None)
    show("merged and split again, Dice of each side", merged.sort_values("dice"), 15)
    wrong = compare.faults(table)
    wrong += [f"{r.case}: CT off by {r.ct_error:.3f} HU" for r in cts.itertuples() if r.ct_error > compare.CT_HU]
    wrong += [
        f"{r.case} {r.structure}: Dice {r.dice:.4f} after merging and splitting ({r.warnings})"
        for r in merged.itertuples()
        if r.dice < compare.MERGED_DICE
    ]
    return wrong


def show(title: str, table: pd.DataFrame, rows: int | None) -> None:
    """Print the first rows of a table."""
    print(f"\n{title}\n{table.head(rows or len(table)).to_string(index=False, float_format='{:.4g}'.format)}")


def main(real: Path, target: Path) -> int:
    """Everything, in order."""
    if not real.is_dir():
        print(f"no real scans at {real}")
        return 1
    sources = target / "realdata/sources"
    with timed("laying out the sources and making CT"):
        cases = prepare.lay_out(real, sources)
        prepare.make_cts(cases)
        prepare.merge_sides(cases, sources)
    wrong = build(sources, target)
    if wrong:
        print(*wrong, sep="\n")
        return 1
    main_corpus = target / "realdata.zarr"
    wrong += [f"atlas {word} failed" for word in ("coverage", "verify") if run(word, main_corpus)]
    kept = [case for case in cases if case.case_id not in QUARANTINED]
    with timed("comparing and drawing"), ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        results = list(pool.map(partial(examine, target), kept))
    table = pd.DataFrame([row for rows, _, _ in results for row in rows])
    cts = pd.DataFrame([ct for _, ct, _ in results if ct])
    merged = pd.DataFrame([row for _, _, rows in results for row in rows])
    table.to_csv(target / "realdata/report.csv", index=False)
    merged.to_csv(target / "realdata/sides.csv", index=False)
    wrong += report(table, cts, merged)
    with timed("streaming patches"):
        wrong += patches.compare_stream(main_corpus, 100)
        patches.draw(main_corpus, target / "realdata/patches.png", "ts_example")
    kidneys = kits(main_corpus)
    kidneys.to_csv(target / "realdata/kits.csv", index=False)
    show("KiTS, kidneys split", kidneys, None)
    print("", *(wrong or ["everything holds"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
