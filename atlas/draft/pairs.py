"""A CT and a label volume a case, told apart by folder, prefix or suffix of the file name."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING, NamedTuple

from atlas.draft.roles import Place, Roles, label_names, looked_at, spread, stem, trimmed
from atlas.errors import ScanError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from atlas.draft.roles import IsCt

_ANCHORS = 12
"""Files whose counterpart is looked for."""
_PLACES = 8
"""Groups of folders (training, test, sites) that a dataset may have."""
_ENOUGH = 0.4
"""Cases, as a part of all files, that make a further search needless."""
_NEARLY = 0.75
_WAYS = 12
_PAIR = 2
"""Two files are a case without another one to compare with."""


class Affix(NamedTuple):
    """What stands before and after the case in the paths of one role."""

    before: str
    after: str

    @property
    def pattern(self) -> str:
        """Path pattern of the role."""
        return f"{self.before}{{case}}{self.after}"

    def path(self, case: str) -> str:
        """Path of a case's file."""
        return f"{self.before}{case}{self.after}"

    def cases(self, paths: Iterable[str]) -> set[str]:
        """Cases of all files of this role."""
        least = len(self.before) + len(self.after)
        ends = len(self.before), -len(self.after) or None
        found = {
            p[ends[0] : ends[1]]
            for p in paths
            if len(p) > least and p.startswith(self.before) and p.endswith(self.after)
        }
        return {case for case in found if "/" not in case and trimmed(case) == case}


def pairs(paths: list[str], is_ct: IsCt) -> Roles:
    """Roles of all files, where each case has a CT and one or more label volumes.

    Raises
    ------
    ScanError
        If no two groups of files go together, or they are not a CT and labels.
    """
    image: list[str] = []
    labels: dict[str, list[str]] = {}
    files: dict[str, Place] = {}
    left = set(paths)
    for place in range(_PLACES):
        found = _first(_groups(left, least=1 if len(paths) == _PAIR else 2), left, is_ct, first=place == 0)
        if found is None:
            break
        cases, ct, others = found
        names = label_names([affix.pattern for affix in others])
        if place and set(names) != set(labels):
            break
        image.append(ct.pattern)
        for name, affix in zip(names, others, strict=True):
            labels.setdefault(name, []).append(affix.pattern)
        files |= {a.path(c): Place(c, a.pattern) for c in cases for a in (ct, *others)}
        left -= set(files)
    if not image:
        examples = ", ".join(spread(sorted(paths), 4))
        raise ScanError(
            f"no CTs and labels whose paths differ only in a folder, a prefix or a suffix; there are: {examples}"
        )
    return Roles(tuple(image), {name: tuple(p) for name, p in labels.items()}, (), files)


def _groups(paths: set[str], least: int) -> list[list[Affix]]:
    """Ways to see roles in paths, an affix each; the one that explains most cases first."""
    ordered = sorted(paths)
    best: dict[Affix, _Seen] = {}
    for anchor in spread(ordered, _ANCHORS):
        for one, seen in _seen_from(anchor, ordered, paths).items():
            best.setdefault(one, seen)
        if max((seen.score[0] for seen in best.values()), default=0) >= _ENOUGH * len(paths):
            break
    most = max((seen.score[0] for seen in best.values()), default=0)
    worthy = [(one, seen) for one, seen in best.items() if seen.score[0] >= max(least, _NEARLY * most)]
    worthy.sort(key=lambda item: (*(-part for part in item[1].score), item[0]))
    return [[one, *seen.partners()] for one, seen in worthy[:_WAYS]]


class _Seen:
    """Partners of one role: for every path the way to see it that explains most cases."""

    def __init__(self) -> None:
        self.by_path: dict[str, tuple[tuple[int, int, int], Affix]] = {}

    @property
    def score(self) -> tuple[int, int, int]:
        """Cases explained, whether words are left whole, length of the case."""
        return max(score for score, _ in self.by_path.values())

    def partners(self) -> list[Affix]:
        """Roles that at least half of the cases have."""
        enough = self.score[0] / 2
        return sorted({affix for score, affix in self.by_path.values() if score[0] > enough})


def _seen_from(anchor: str, ordered: list[str], paths: set[str]) -> dict[Affix, _Seen]:
    """What the other paths make of one."""
    cases_of: dict[Affix, set[str]] = {}
    result: dict[Affix, _Seen] = {}
    for path in ordered:
        for case, one, other, clean in _splits(anchor, path):
            if one not in cases_of:
                cases_of[one] = one.cases(ordered)
            score = sum(other.path(c) in paths for c in cases_of[one]), clean, len(case)
            by_path = result.setdefault(one, _Seen()).by_path
            if path not in by_path or score > by_path[path][0]:
                by_path[path] = score, other
    return result


def _splits(one: str, other: str) -> Iterator[tuple[str, Affix, Affix, int]]:
    """Ways to see the same case in two paths: the case, both affixes, and how natural the cut is."""
    if one == other:
        return
    (folder_a, a), (folder_b, b) = (_parted(path) for path in (one, other))
    (stem_a, end_a), (stem_b, end_b) = stem(a), stem(b)
    for block in SequenceMatcher(None, stem_a, stem_b, autojunk=False).get_matching_blocks():
        if not block.size:
            continue
        for start, stop, clean in _cuts(stem_a, stem_b, block.a, block.b, block.size):
            case = stem_a[block.a + start : block.a + stop]
            before_a, before_b = stem_a[: block.a + start], stem_b[: block.b + start]
            after_a, after_b = stem_a[block.a + stop :], stem_b[block.b + stop :]
            first = Affix(folder_a + before_a, after_a + end_a)
            second = Affix(folder_b + before_b, after_b + end_b)
            if first != second:
                yield case, first, second, clean


def _parted(path: str) -> tuple[str, str]:
    folder, slash, name = path.rpartition("/")
    return folder + slash, name


def _cuts(a: str, b: str, at_a: int, at_b: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Where a common piece may begin and end: never within a number, and best between words."""
    text = a[at_a : at_a + size]
    inner = [i for i in range(size + 1) if not (_splits_number(a, at_a + i) or _splits_number(b, at_b + i))]
    words = [i for i in inner if _between_words(a, at_a + i) and _between_words(b, at_b + i)]
    seen = set()
    for clean, allowed in ((1, words), (0, inner)):
        if not allowed:
            continue
        start, stop = allowed[0], allowed[-1]
        piece = text[start:stop]
        start += len(piece) - len(piece.lstrip("-_. "))
        stop -= len(piece) - len(piece.rstrip("-_. "))
        if start < stop and (start, stop) not in seen:
            seen.add((start, stop))
            yield start, stop, clean


def _splits_number(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isdigit() and text[at].isdigit()


def _between_words(text: str, at: int) -> bool:
    """Whether a word, a number or a name begins or ends here."""
    if at in (0, len(text)):
        return True
    left, right = text[at - 1], text[at]
    kinds = [(c.isalpha(), c.isdigit()) for c in (left, right)]
    return kinds[0] != kinds[1] or not left.isalnum() or (left.islower() and right.isupper())


def _first(
    groups: list[list[Affix]], paths: set[str], is_ct: IsCt, *, first: bool
) -> tuple[list[str], Affix, list[Affix]] | None:
    """Cases, CT and label files of the first group in which every role is one or the other."""
    for group in groups:
        cases = sorted(set.intersection(*({c for c in group[0].cases(paths) if a.path(c) in paths} for a in group)))
        shown = {a: looked_at([a.path(c) for c in cases], is_ct) for a in group} if cases else {}
        if not shown or any(len(answers) != 1 for answers in shown.values()):
            continue  # cases and roles were taken for each other, or no file of a role can be read
        cts = sorted(a for a in group if True in shown[a])
        others = sorted(a for a in group if False in shown[a])
        if len(cts) == 1 and others:
            return cases, cts[0], others
        if first:
            raise ScanError(_no_pair(cts, others))
    return None


def _no_pair(cts: list[Affix], others: list[Affix]) -> str:
    names = " and ".join(affix.pattern for affix in cts or others)
    if not cts:
        return f"there is no CT among {names}; all of them hold labels"
    if not others:
        return f"there are no labels among {names}; all of them are CTs"
    return (
        f"every case has {len(cts)} CTs ({names}); which one the labels belong to cannot be told, so leave one of them "
        "in the folder"
    )
