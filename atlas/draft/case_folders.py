"""A folder a case: with a CT and a label volume, or with a CT and a mask for each structure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atlas.draft.roles import Place, Roles, label_names, looked_at, merged, spread, stem
from atlas.errors import ScanError

if TYPE_CHECKING:
    from atlas.draft.roles import IsCt

_MOST_LABELS = 4
"""Label volumes of a case; more are masks."""
_MASK_WORDS = r"(?:masks?|segs?|segmentations?|labels?|roi)"
_SHOWN = 4


@dataclass
class Folders:
    """Files by what is left of their path when the case is taken out.

    Attributes
    ----------
    files
        What a file is called within its case (`seg/{case}_ct.nii.gz`) -> case -> path.
    before
        Path -> folders above the case.
    """

    files: dict[str, dict[str, str]] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)

    @property
    def cases(self) -> set[str]:
        """Cases with two files that other cases have as well."""
        count: dict[str, int] = {}
        for by_case in self.files.values():
            for case in by_case:
                count[case] = count.get(case, 0) + 1
        several = len(count) > 1
        shared: dict[str, int] = {}
        for by_case in self.files.values():
            if len(by_case) > several:
                for case in by_case:
                    shared[case] = shared.get(case, 0) + 1
        return {case for case, files in shared.items() if files > 1}

    def pattern(self, rest: str, path: str) -> str:
        """Path pattern of a file."""
        return f"{self.before[path]}{{case}}/{rest}"


def at_depth(paths: list[str], depth: int) -> Folders:
    """Take the folder at a depth for the case."""
    result = Folders()
    for path in paths:
        parts = path.split("/")
        if len(parts) > depth + 1:
            case, rest = parts[depth], "/".join(parts[depth + 1 :])
            rest = re.sub(rf"(?<![A-Za-z0-9]){re.escape(case)}(?![A-Za-z0-9])", "{case}", rest)
            result.files.setdefault(rest, {}).setdefault(case, path)
            result.before[path] = "".join(f"{part}/" for part in parts[:depth])
    return result


def _best(paths: list[str]) -> Folders:
    """The depth at which most folders look alike; the deepest of those that hold most files."""
    depths = [at_depth(paths, depth) for depth in range(max(path.count("/") for path in paths))]
    order = [(len(found.cases), len(found.before), depth) for depth, found in enumerate(depths)]
    if not order or max(order)[0] == 0:
        raise ScanError(
            f"no folders that hold files of the same names, one folder a case; there are: "
            f"{', '.join(spread(sorted(paths), _SHOWN))}"
        )
    best = depths[max(order)[2]]
    if above := merged(best.before.values()):
        best.before = dict.fromkeys(best.before, above)
    return best


def _split(paths: list[str], is_ct: IsCt) -> tuple[Folders, list[str], list[str]]:
    """Folders, names of the CT and names of everything else."""
    found = _best(paths)
    cases = found.cases
    alike = {
        rest: answers
        for rest, by_case in found.files.items()
        if (answers := looked_at([by_case[c] for c in sorted(by_case) if c in cases], is_ct))
    }
    mixed = [rest for rest, answers in alike.items() if len(answers) > 1]
    if mixed:
        seen = alike[mixed[0]]
        raise ScanError(f"{seen[True]} is a CT and {seen[False]} holds labels, although they have the same name")
    cts = sorted(rest for rest, answers in alike.items() if True in answers)
    if not cts:
        raise ScanError(f"there is no CT in the folders of the cases; they hold {', '.join(sorted(alike)[:_SHOWN])}")
    double = [
        (c, one, other)
        for one in cts
        for other in cts
        if one < other
        for c in found.files[one]
        if c in found.files[other]
    ]
    if double:
        case, one, other = double[0]
        raise ScanError(
            f"{case} has two CTs ({one} and {other}); which one the labels belong to cannot be told, so leave one of "
            "them in the folder"
        )
    return found, cts, sorted(rest for rest, answers in alike.items() if False in answers)


def folders(paths: list[str], is_ct: IsCt) -> Roles:
    """Roles of all files, where each case is a folder with a CT and one or more label volumes.

    Raises
    ------
    ScanError
        If no folders look alike, or they hold no CT, two CTs or no labels.
    """
    found, cts, others = _split(paths, is_ct)
    with_ct = {case for rest in cts for case in found.files[rest]}
    labels = [rest for rest in others if len(found.files[rest].keys() & with_ct) > len(with_ct) / 2]
    if not labels:
        raise ScanError(f"most cases hold no label volume beside {' or '.join(cts)}")
    if len(labels) > _MOST_LABELS:
        raise ScanError(
            f"the cases hold {len(labels)} label files each ({', '.join(labels[:_SHOWN])}, ...); "
            "is there a mask for each structure? Then say --like masks"
        )
    files = _places(found, [*cts, *labels])
    return Roles(
        _patterns(found, cts),
        dict(zip(label_names(labels), (_patterns(found, [rest]) for rest in labels), strict=True)),
        (),
        files,
    )


def masks(paths: list[str], is_ct: IsCt) -> Roles:
    """Roles of all files, where each case is a folder with a CT and a mask for each structure.

    Raises
    ------
    ScanError
        If no folders look alike, or they hold no CT, two CTs or no masks.
    """
    found, cts, others = _split(paths, is_ct)
    if not others:
        raise ScanError(f"the cases hold no masks beside {' or '.join(cts)}")
    general = _with_structure(others)
    files = _places(found, cts)
    for rest in others:
        for case, path in found.files[rest].items():
            files[path] = Place(case, found.pattern(general[rest], path))
    patterns = {files[path].pattern for rest in others for path in found.files[rest].values()}
    return Roles(_patterns(found, cts), {}, tuple(sorted(patterns)), files)


def _with_structure(names: list[str]) -> dict[str, str]:
    """Names of masks -> the same with {structure} for what the masks of a folder differ in."""
    result = {}
    words: dict[tuple[str, str, str], set[tuple[str, str]]] = {}
    for name in names:
        folder, before, structure, after = _named(name)
        found = re.match(rf"({_MASK_WORDS}[-_. ]+)", structure, re.IGNORECASE)
        ends = re.search(rf"([-_. ]+{_MASK_WORDS})$", structure, re.IGNORECASE)
        words.setdefault((folder, before, after), set()).add(
            (found[1] if found else "", ends[1] if ends and len(ends[1]) < len(structure) else "")
        )
    for name in names:
        folder, before, _, after = _named(name)
        common = words[folder, before, after]
        starts, ends_with = next(iter(common)) if len(common) == 1 else ("", "")
        result[name] = f"{folder}{before}{starts}{{structure}}{ends_with}{after}"
    return result


def _named(rest: str) -> tuple[str, str, str, str]:
    """Folder, what the name begins with (the case), the structure, and what the name ends in."""
    folder, slash, name = rest.rpartition("/")
    text, suffix = stem(name)
    found = re.fullmatch(r"((?:\{case\}[-_. ]*)?)(.*?)((?:[-_. ]*\{case\})?)", text)
    before, structure, after = (found[1], found[2], found[3]) if found else ("", text, "")
    if not structure or "{" in structure:
        raise ScanError(f"{rest}: a mask must be called like the structure that it shows")
    return folder + slash, before, structure, after + suffix


def _patterns(found: Folders, names: list[str]) -> tuple[str, ...]:
    return tuple(sorted({found.pattern(rest, path) for rest in names for path in found.files[rest].values()}))


def _places(found: Folders, names: list[str]) -> dict[str, Place]:
    return {path: Place(case, found.pattern(rest, path)) for rest in names for case, path in found.files[rest].items()}
