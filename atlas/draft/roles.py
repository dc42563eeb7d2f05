"""From files whose role is known to a layout: path patterns, and what {case} may stand for.

Pure: paths in, patterns out. Whether a file is a CT is asked of a function.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from atlas.errors import ScanError
from atlas.spec.files import Layout
from atlas.spec.patterns import compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    IsCt = Callable[[str], bool | None]
    """Whether a file is a CT (True) or labels (False); None where it cannot be read. ScanError where it is neither."""

SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
"""What volumes end in, longest first."""

ANY_CASE = "[^/]+"
LABELS = "segmentation"
"""Name of the label file where a case has one."""

_LOOKED_AT = 3
"""Files of one role that are read to tell what it is."""
_TRIED = 12
_MOST_LISTED = 300
_MOST_NAMED = 3
_LONGEST = 48
_SEPARATORS = "-_. "


class Place(NamedTuple):
    """Which case a file belongs to, and the pattern that says so."""

    case: str
    pattern: str


@dataclass(frozen=True)
class Roles:
    """Patterns of a dataset, and the file of each case that each of them stands for."""

    image: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    masks: tuple[str, ...]
    files: Mapping[str, Place]

    def layout(self) -> Layout:
        """Layout whose patterns put every file of these roles into its place.

        Raises
        ------
        ScanError
            If no simple expression for {case} tells the files apart.
        """
        for case in self._expressions():
            if not self._misplaced(case):
                return Layout(case=case, image=self.image, labels=dict(self.labels), masks=self.masks)
        raise ScanError(
            f"{', '.join(self._patterns())} run into one another; put CTs and labels in folders of their own"
        )

    def _patterns(self) -> list[str]:
        return [*self.image, *(p for patterns in self.labels.values() for p in patterns), *self.masks]

    def _misplaced(self, case: str) -> bool:
        """Whether a file comes into the wrong place."""
        expressions = [(pattern, compiled(pattern, case)) for pattern in self._patterns()]
        for path, wanted in self.files.items():
            found = next(((m["case"], p) for p, e in expressions if (m := e.fullmatch(path))), None)
            if found != wanted:
                return True
        return False

    def _expressions(self) -> list[str]:
        """What {case} may stand for, the most general first."""
        cases = sorted({place.case for place in self.files.values()})
        patterns = self._patterns()
        ends = [(a.partition("{case}"), b.partition("{case}")) for a in patterns for b in patterns if a != b]
        before = {b[0][len(a[0]) :] for a, b in ends if b[0].startswith(a[0]) and "/" not in b[0][len(a[0]) :]}
        after = {b[2][: -len(a[2]) or None] for a, b in ends if b[2].endswith(a[2]) and b[2] != a[2]}
        ahead = "".join(f"(?!{re.escape(text)})" for text in sorted(before - {""}))
        behind = "".join(f"(?<!{re.escape(text)})" for text in sorted(after) if "/" not in text and "{" not in text)
        result = [ANY_CASE, f"{ahead}{ANY_CASE}{behind}"]
        shapes = {_shape(case) for case in cases}
        if len(shapes) == 1:
            result.append(shapes.pop())
        if len(cases) <= _MOST_LISTED:
            result.append("|".join(re.escape(case) for case in cases))
        return result


def _shape(case: str) -> str:
    """The same with any number in the place of each number."""
    return "".join(r"\d+" if part.isdigit() else re.escape(part) for part in re.findall(r"\d+|\D+", case))


def plain(path: str) -> bool:
    """Whether a pattern can stand for a path: it may hold nothing that is special in patterns."""
    return path.isprintable() and not set(path) & set("{}*?\\")


def stem(name: str) -> tuple[str, str]:
    """File name without what volumes end in, and that ending."""
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)], name[len(name) - len(suffix) :]


def spread(items: Sequence[str], most: int) -> list[str]:
    """At most so many of a list, from all over it, the first one first."""
    if len(items) <= most:
        return list(items)
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]


def looked_at(paths: Sequence[str], is_ct: IsCt) -> dict[bool, str]:
    """What files of one role are, by reading a few: CTs (True), labels (False), or nothing that can be read."""
    answers: dict[bool, str] = {}
    looked = 0
    for path in spread(paths, _TRIED):
        answer = is_ct(path)
        if answer is not None:
            answers.setdefault(answer, path)
            looked += 1
        if looked == _LOOKED_AT:
            break
    return answers


def label_names(patterns: Sequence[str]) -> list[str]:
    """A name for each label file of a case, from what its pattern has of its own."""
    if len(patterns) == 1:
        return [LABELS]
    names: list[str] = []
    for pattern in patterns:
        words = re.findall(r"[A-Za-z][A-Za-z0-9]*", stem(pattern)[0].replace("{case}", "/"))
        name = words[-1].lower()[:_LONGEST] if words else LABELS
        while name in names:
            name += "_2"
        names.append(name)
    return names


def merged(above: Iterable[str]) -> str | None:
    """One pattern (`site/*/`) for folders of one depth; None where they are few enough to be named one by one."""
    places = sorted(set(above))
    if len(places) <= _MOST_NAMED:
        return None
    columns = zip(*(place.split("/") for place in places), strict=True)
    return "/".join(parts[0] if len(set(parts)) == 1 else "*" for parts in columns)


def trimmed(text: str) -> str:
    """Without separators at its ends."""
    return text.strip(_SEPARATORS)
