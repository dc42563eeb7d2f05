"""The text of a first manifest, label map and recipe. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from atlas.draft.naming import Names
    from atlas.draft.survey import Findings, Tally
    from atlas.spec.files import Layout

_WIDTH = 100


def quoted(text: str) -> str:
    """A YAML string."""
    return f"'{text.replace(chr(39), chr(39) * 2)}'" if text.isprintable() else json.dumps(text)


def manifest_text(name: str, layout: Layout, found: Findings) -> str:
    """Manifest with everything that could be seen; what only the user knows is marked."""
    scans = len(found.cases) + len(found.unlabelled)
    lines = [
        "# A draft of `atlas datasets new`. Complete it: what stands here was seen in the folder, the rest is yours.",
        f"id: {name}",
        f"name: {quoted(name)}  # what people call it",
        "citation: unpublished  # or the paper",
        "licence: {id: unknown, commercial: null, redistribution: null, verified: false}  # who may use it, for what",
        "access: {kind: request, note: own data; nothing to download}",
        f"scans: {scans}",
        f"labelled: {len(found.cases)}",
        "layout:",
        f"  case: {quoted(layout.case)}  # which strings {{case}} may stand for",
        *_patterns("image", layout.image, "  "),
        *_patterns("study", layout.study, "  "),
    ]
    if layout.labels:
        lines.append("  labels:")
        for label, patterns in layout.labels.items():
            lines += _patterns(label, patterns, "    ")
    lines += _patterns("masks", layout.masks, "  ")
    extra = layout.model_dump(
        mode="json", include={"index", "affine", "label_geometry", "regions"}, exclude_defaults=True
    )
    lines += [f"  {key}: {json.dumps(value)}" for key, value in extra.items()]
    lines.append(
        "# patient: '(.*)_'  # if a patient has several scans: its first group is the patient in a case's name"
    )
    if found.unlabelled:
        lines += ["unlabelled:  # have a CT and no labels; they are left out", *_items(found.unlabelled)]
    return "\n".join(lines) + "\n"


def _patterns(key: str, patterns: Sequence[str], indent: str) -> list[str]:
    if len(patterns) <= 1:
        return [f"{indent}{key}: {quoted(pattern)}" for pattern in patterns]
    return [f"{indent}{key}:", *(f"{indent}  - {quoted(pattern)}" for pattern in patterns)]


def _items(texts: Iterable[str]) -> list[str]:
    return [f"  - {quoted(text)}" for text in texts]


def label_map_text(
    name: str,
    layout: Layout,
    found: Findings,
    names: Names,
    *,
    legend: Mapping[int, str],
    elsewhere: Mapping[str, Mapping[int, str]] | None = None,
) -> str:
    """Label map with what was found. A class stands there only where a name is exactly that of a class.

    Parameters
    ----------
    legend
        Value -> name, as a file beside the scans has it.
    elsewhere
        Label file -> value -> what it means in the dataset whose layout was taken: a hint, since the values of this
        folder need not mean the same.
    """
    lines = [
        "# A draft of `atlas datasets new`. Say for every label which class of the taxonomy it is: liver, or",
        "# kidney_left/right where the side is to be found out; null is no class of ours, unknown an ignore value.",
        "# Every class named here counts as annotated in every case, so that an empty mask means: not there.",
        f"dataset: {name}",
    ]
    if layout.labels:
        lines.append("values:")
        for label in layout.labels:
            seen = found.values.get(label, {})
            lines.append(f"  {label}:" if any(seen) else f"  {label}: {{}}  # no label was found in the sample")
            hints = (elsewhere or {}).get(label, {})
            for value, tally in sorted(seen.items()):
                if value:
                    meaning = _meaning(legend.get(value), names, hints.get(value))
                    lines.append(f"    {value}: {meaning}; {_seen(tally, found.sampled)}")
    if layout.masks or layout.study:
        lines.append("structures:")
        for structure, tally in found.structures.items():
            lines.append(f"  {quoted(structure)}: {_structure(structure, names)}; {_seen(tally, found.sampled)}")
    return "\n".join(lines) + "\n"


def _structure(structure: str, names: Names) -> str:
    target = names.target(structure)
    return f"{target}  # by its name" if target else f"null  # which class? {_nearest(structure, names)}"


def _meaning(called: str | None, names: Names, hint: str | None) -> str:
    other = f" (there: {hint})" if hint else ""
    if called is None:
        return f"null  # which class?{other}"
    target = names.target(called)
    if target:
        return f'{target}  # called "{called}" in the legend{other}'
    return f'null  # which class? called "{called}" in the legend{other}; {_nearest(called, names)}'


def _nearest(name: str, names: Names) -> str:
    close = names.nearest(name)
    return f"nearest: {', '.join(close)}" if close else "no class has a similar name"


def _seen(tally: Tally, sampled: int) -> str:
    if not tally.cases:
        return f"empty in all of {sampled} cases read"
    return f"{tally.voxels:,} voxels in {tally.cases} of {sampled} cases, {tally.where()}"


def recipe_text(name: str) -> str:
    """Recipe that builds the dataset alone."""
    return (
        "# A draft of `atlas datasets new`. Other datasets may be added to the list.\n"
        f"name: {name}\ndatasets: [{name}]\ngrid: {{spacing: 1.5}}  # mm\n"
    )
