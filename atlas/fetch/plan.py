"""What is to be done to have a dataset's files: what is there, what is fetched, what a person has to put there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.fetch.address import missing_token
from atlas.fetch.listing import check_places, downloads, each, single
from atlas.fetch.places import part_path, place
from atlas.fetch.records import record, state
from atlas.fetch.sources.base import RefusedError
from atlas.fetch.unpack import is_unpacked
from atlas.spec.patterns import matcher

if TYPE_CHECKING:
    from atlas.fetch.download import Download
    from atlas.spec import Manifest
    from atlas.spec.access import SourceFile
    from atlas.spec.files import Layout
    from atlas.spec.manifest import Licence


@dataclass(frozen=True)
class Plan:
    """What is to be done for one dataset.

    Attributes
    ----------
    dataset, licence
        Its id and its terms.
    todo
        Files to be fetched, or there and to be verified; archives to be unpacked.
    done
        Files that were fetched, verified and unpacked. Of an archive the contents count; it may be gone itself.
    placed
        Archives that are not needed: a person put their contents there.
    by_hand
        Files that a person has to put there.
    steps
        How to come by these, in order.
    bytes_to_fetch
        What is still missing of the files whose size is known.
    bytes_to_unpack
        What the archives among these, and among the files on disk, will hold, about.
    unknown_sizes
        Files to be fetched whose size nobody tells before.
    """

    dataset: str
    licence: Licence
    todo: tuple[Download, ...] = ()
    done: tuple[Download, ...] = ()
    placed: tuple[Download, ...] = ()
    by_hand: tuple[SourceFile, ...] = ()
    steps: tuple[str, ...] = ()
    bytes_to_fetch: int = 0
    bytes_to_unpack: int = 0
    unknown_sizes: int = 0


def plan(manifest: Manifest, folder: Path) -> Plan:
    """Find out what is missing of a dataset. Asks sources that list; fetches nothing and writes nothing.

    Parameters
    ----------
    manifest
        The dataset.
    folder
        Its folder, which need not exist.

    Raises
    ------
    FetchError
        If a source cannot be asked.
    """
    wishes = [wish for file in manifest.access.files for wish in _wishes(file, manifest)]
    check_places([wish.download for wish in wishes if not wish.pending])
    found = _sort(wishes, manifest, folder)
    hints = dict.fromkeys(wish.hint for wish in found["by_hand"] if wish.hint)
    todo = tuple(wish.download for wish in found["todo"])
    missing = [_missing(download, folder) for download in todo]
    return Plan(
        dataset=manifest.id,
        licence=manifest.licence,
        todo=todo,
        done=tuple(wish.download for wish in found["done"]),
        placed=tuple(wish.download for wish in found["placed"]),
        by_hand=tuple({id(wish.file): wish.file for wish in found["by_hand"]}.values()),
        steps=(*manifest.access.steps, *hints),
        bytes_to_fetch=sum(size for size in missing if size is not None),
        bytes_to_unpack=sum(_contents(download, folder) for download in todo if download.archive),
        unknown_sizes=missing.count(None),
    )


@dataclass(frozen=True)
class _Wish:
    """A file that the dataset should have.

    `file` is the manifest's entry. `own` is whether atlas can fetch it; otherwise a person has to, and `hint` says what
    would change that. `pending` is whether the entry stands for files that could not be listed.
    """

    file: SourceFile
    download: Download
    own: bool = True
    pending: bool = False
    hint: str = ""


def _wishes(file: SourceFile, manifest: Manifest) -> list[_Wish]:
    if file.url is None:
        return [_Wish(file, single(one, manifest), own=False) for one in each(file)]
    if manifest.access.kind == "open":
        return [_Wish(file, download) for download in downloads(file, manifest)]
    token = missing_token(file.url)
    if token is not None:
        return _left(file, manifest, f"Or set the environment variable {token} to your token: then atlas fetches it.")
    try:
        return [_Wish(file, download) for download in downloads(file, manifest)]
    except RefusedError as error:
        return _left(file, manifest, f"So far the source refuses: {error}")


def _left(file: SourceFile, manifest: Manifest, hint: str) -> list[_Wish]:
    """A file that a source has and does not give yet. Where a person put it, it is verified like any other."""
    return [_Wish(file, single(one, manifest), own=False, pending=one.many, hint=hint) for one in each(file)]


def _sort(wishes: list[_Wish], manifest: Manifest, folder: Path) -> dict[str, list[_Wish]]:
    there = _There(folder, wishes, manifest)
    result: dict[str, list[_Wish]] = {"todo": [], "done": [], "placed": [], "by_hand": []}
    for wish in wishes:
        result[_verdict(wish, folder, there)].append(wish)
    return result


def _verdict(wish: _Wish, folder: Path, there: _There) -> str:
    download = wish.download
    if wish.pending:
        return "placed" if there.holds(wish) else "by_hand"
    if _done(download, folder):
        return "done"
    if place(download, folder).exists():
        return "todo"
    if download.archive and there.holds(wish):
        return "placed"
    return "todo" if wish.own else "by_hand"


def _done(download: Download, folder: Path) -> bool:
    if download.archive is not None:
        return is_unpacked(download, folder)
    return state(download, folder) == "fetched"


def _untouched(download: Download, folder: Path) -> bool:
    """Whether nothing of a file is there and none of it was ever."""
    return state(download, folder) == "missing" and record(folder, download.target) is None


@dataclass
class _There:
    """What a person put into the dataset's folder: files that atlas neither fetched nor unpacked."""

    folder: Path
    wishes: list[_Wish]
    manifest: Manifest
    _known: dict[tuple[str, ...], bool] = field(default_factory=dict)

    def holds(self, wish: _Wish) -> bool:
        """Whether contents of this archive (or folder) are among them. Not all have to be."""
        patterns = self._patterns(wish)
        if patterns not in self._known:
            like = matcher(patterns)
            self._known[patterns] = any(like(path) for path in self._strangers)
        return self._known[patterns]

    def _patterns(self, wish: _Wish) -> tuple[str, ...]:
        """What an archive holds. Without `holds`, what the layout reads, if all of it comes out of this archive."""
        said = wish.download.archive.holds if wish.download.archive else wish.file.holds
        if said:
            return said
        return _layout_patterns(self.manifest.layout) if len(self.wishes) == 1 else ()

    @cached_property
    def _strangers(self) -> list[str]:
        """Files that are no download, and that no archive explains which is here or was."""
        targets = {wish.download.target for wish in self.wishes if not wish.pending}
        at_work = [w.download for w in self.wishes if not w.pending and not _untouched(w.download, self.folder)]
        archives = [download.archive for download in at_work if download.archive]
        explained = matcher(p for a in archives for p in a.holds or (f"{a.into.strip('/')}/**/*".lstrip("/"),))
        return [p for p in _files(self.folder) if p not in targets and not p.endswith(".part") and not explained(p)]


def _layout_patterns(layout: Layout) -> tuple[str, ...]:
    """Patterns of the files that the layout reads, cases and structures unsaid."""
    patterns = [
        *layout.image,
        *layout.study,
        *layout.masks,
        *(p for several in layout.labels.values() for p in several),
    ]
    plain = [re.sub(r"\{\w+\}", "*", pattern) for pattern in patterns]
    return tuple(pattern + "**/*" if pattern.endswith("/") else pattern for pattern in plain)


def _files(folder: Path) -> list[str]:
    """Paths below a folder, without hidden ones; links to folders are not followed."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(where).relative_to(folder)
        found += [(below / name).as_posix() for name in names if not name.startswith(".")]
    return found


def _missing(download: Download, folder: Path) -> int | None:
    """Bytes of a file that are not on disk yet; None if its size is not known."""
    path = place(download, folder)
    if path.exists():
        return 0
    if download.size is None:
        return None
    part = part_path(path)
    return max(0, download.size - (part.stat().st_size if part.exists() else 0))


def _contents(download: Download, folder: Path) -> int:
    """Bytes that an archive's contents take, about: volumes are compressed already, so as many as the archive."""
    path = place(download, folder)
    return path.stat().st_size if path.exists() else download.size or 0
