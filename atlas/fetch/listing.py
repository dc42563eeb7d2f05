"""Which single files a manifest's addresses stand for, with their sizes and checksums where the source tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from atlas.errors import FetchError
from atlas.fetch.download import Download, Unpacking
from atlas.fetch.sources import buckets, hub, idc, synapse
from atlas.fetch.sources.base import MAX_LISTED, Listed
from atlas.spec.access import ARCHIVES

if TYPE_CHECKING:
    from atlas.spec import Manifest
    from atlas.spec.access import SourceFile


def downloads(file: SourceFile, manifest: Manifest) -> list[Download]:
    """What has to be fetched for a file of a manifest: one download for each case, or for each file of a listing.

    Sources that list are asked over the network; the others are not. What the manifest says about a single file counts
    more than what its source says.

    Raises
    ------
    FetchError
        If a source cannot be asked, if nothing is found, if two files want one place.
    """
    result: list[Download] = []
    for one in each(file):
        found = _listed(one, manifest.access.connections)
        if not found:
            raise FetchError(f"{manifest.id}: {one.url} stands for no file at all")
        result += [_download(item, one, manifest) for item in found]
    if len(result) > MAX_LISTED:
        raise FetchError(f"{manifest.id}: {file.url} stands for more than {MAX_LISTED:,} files")
    check_places(result)
    return result


def single(file: SourceFile, manifest: Manifest) -> Download:
    """A file as the manifest knows it, without asking anybody; url "" if only a person can put it there."""
    return _download(Listed(file.url or "", file.target), file, manifest)


def each(file: SourceFile) -> list[SourceFile]:
    """The file of every case, where `each` names cases; else the file itself."""
    if not file.cases:
        return [file]
    return [_of_case(file, case) for case in file.cases]


def check_places(found: list[Download]) -> None:
    """No two files may come to lie in one place.

    Raises
    ------
    FetchError
        Naming the first two that do.
    """
    taken: dict[str, str] = {}
    for download in found:
        if download.target in taken:
            first = taken[download.target]
            raise FetchError(f"{download.dataset}: both {first} and {download.url} would be {download.target}")
        taken[download.target] = download.url


def _of_case(file: SourceFile, case: str) -> SourceFile:
    def filled(text: str | None) -> str | None:
        return text.replace("{case}", case) if text else text

    holds = tuple(pattern.replace("{case}", case) for pattern in file.holds)
    return file.model_copy(
        update={"url": filled(file.url), "to": filled(file.to), "each": (), "holds": holds},
    )


def _listed(file: SourceFile, connections: int) -> list[Listed]:
    scheme = urlsplit(file.url or "").scheme
    if scheme == "idc":
        return idc.listing(file, connections)
    if file.many:
        return hub.listing(file) if scheme == "hf" else buckets.listing(file)
    if scheme == "synapse" and synapse.token() and not (file.size and (file.md5 or file.sha256)):
        return synapse.listing(file)
    return [Listed(file.url or "", file.target)]


def _download(found: Listed, file: SourceFile, manifest: Manifest) -> Download:
    said = file if not file.many else None
    unpacking = None
    if found.target.lower().endswith(ARCHIVES):
        password = f"ATLAS_PASSWORD_{manifest.id.upper()}" if file.encrypted else None
        unpacking = Unpacking(file.into, file.holds, file.nested, password)
    return Download(
        dataset=manifest.id,
        url=found.url,
        target=found.target,
        size=(said and said.size) or found.size,
        md5=(said and said.md5) or found.md5,
        sha256=(said and said.sha256) or found.sha256,
        archive=unpacking,
        whole_cases=file.whole_cases,
        connections=manifest.access.connections,
        group=found.group or _folder_of(found, file, manifest),
    )


def _folder_of(found: Listed, file: SourceFile, manifest: Manifest) -> str:
    """Folder whose files belong together: where the layout reads folders of slices, one slice is nothing."""
    layout = manifest.layout
    patterns = (*layout.image, *layout.study, *(p for several in layout.labels.values() for p in several))
    if not file.many or "/" not in found.target or not any(p.endswith("/") for p in patterns):
        return ""
    return found.target.rpartition("/")[0] + "/"
