"""Tables that publishers add to their files: lists of cases, and of annotated slices."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from atlas.phantom.places import Published

APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        "


def write_index(here: Published, pattern: str, cases: list[str]) -> None:
    """dataset.json of the Medical Segmentation Decathlon, and the Mac files that its archives hold."""
    index, label = here.root / pattern, next(iter(here.manifest.layout.labels))
    pairs = [{"image": here.image(case), "label": here.label(label, case)} for case in cases]
    for path in [path for pair in pairs for path in pair.values()]:
        path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)
    values = here.label_map.values[label]
    content = {
        "name": here.manifest.name,
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(v): " ".join(t) or "other" for v, t in sorted(values.items())}},
        "numTraining": len(pairs),
        "numTest": 0,
        "training": [{kind: f"./{path.relative_to(index.parent)}" for kind, path in pair.items()} for pair in pairs],
        "test": [],
    }
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_regions(here: Published, slices: Mapping[str, tuple[int, int]]) -> None:
    """Write the table of annotated slices.

    Where only some of its lines are about this dataset, the others name the same cases with other slices, as those of
    another dataset with the same numbers do.

    Parameters
    ----------
    slices
        By case: [lo, hi) along the third stored axis, counted upwards from the lowest slice.
    """
    regions = here.manifest.layout.regions
    if regions is None:
        return
    first, end = regions.rows or (0, len(slices))
    width = 1 + max(regions.case, *regions.slices)

    def line(case: str, lo: int, hi: int) -> list[str]:
        cells = ["0"] * width
        cells[regions.slices[0]], cells[regions.slices[1]] = str(lo), str(hi)
        cells[regions.case] = case
        return cells

    own = [line(case, *span) for case, span in slices.items()]
    others = [line(case, 0, 1) for case in slices]
    before = [others[number % len(others)] for number in range(first)]
    unused = [line(f"unused {number}", 0, 1) for number in range(end - first - len(own))]
    text = io.StringIO(newline="")
    table = [[f"column {number}" for number in range(width)], *before, *own, *unused]
    csv.writer(text).writerows([*table, *(others if regions.rows else [])])
    path = here.root / regions.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
