"""A publisher for phantoms: packs them as the manifest says that the real files come, for a server on this machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from atlas.phantom.collection import add_series
from atlas.phantom.offers import JUNK, Offer, offers
from atlas.phantom.pack import pack
from atlas.phantom.served import listed, source_path
from atlas.phantom.tables import APPLE_DOUBLE
from atlas.spec import Manifest, load_manifest
from atlas.spec.access import ARCHIVES
from atlas.spec.patterns import matcher

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from atlas.spec.access import SourceFile

BY_HAND = "by_hand"
PASSWORD = "phantom"
UNREAD = b"Nothing here is read.\n"
"""What files hold that no case needs."""


@dataclass(frozen=True)
class Publication:
    """What a publisher has made of a dataset's phantoms.

    Attributes
    ----------
    manifest
        As before, but with addresses on the local server, and sizes and checksums of what lies there. Addresses of
        buckets, hubs and other services stay; clients are told by the environment where to find these.
    by_hand
        Files that no address leads to: what a person gets, by place below the dataset's folder.
    """

    manifest: Manifest
    by_hand: dict[str, Path] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The manifest for a folder on ATLAS_PATH (JSON, which is YAML)."""
        return json.dumps(self.manifest.model_dump(mode="json", exclude_defaults=True), indent=1)


def publish(dataset: str, sources: Path, site: Path, server: str, *, password: str = PASSWORD) -> Publication:
    """Pack the phantoms of a dataset.

    Below `site`, a file of `https://host/path` lies at <dataset>/https/host/path, one of s3://bucket/key at
    s3/bucket/key, and so on for gs, hf (without the revision), gdrive and synapse. Series of a collection lie in
    s3/idc-open-data, and idc_index.parquet lists them. What a person has to put in place lies in by_hand/<dataset>.

    Parameters
    ----------
    dataset : str
        Id of a manifest.
    sources : Path
        The folder of all datasets, with this one's phantoms.
    site : Path
        Where to write; several datasets may share it.
    server : str
        Base address that `site` will be served at: http://127.0.0.1:8000.
    password : str
        Of archives that are encrypted.

    Raises
    ------
    SpecError
        If the manifest names nothing that would hold some file of a phantom, or an archive of an unknown kind.
    """
    manifest, folder = load_manifest(dataset), sources / dataset
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    dealt = offers(manifest, folder, paths)
    by_hand: dict[str, Path] = {}
    contents: dict[int, bytes] = {}
    for offer in dealt:
        if offer.collection:
            add_series(offer, folder, site)
        elif offer.file.many:
            _listed(offer, folder, site)
        elif offer.paths or offer.case is None:
            contents[offer.entry] = content = _content(offer, folder, password)
            place = _save(site / _place(offer.file, dataset), content)
            if offer.file.url is None:
                by_hand[offer.file.target] = place
    files = tuple(
        _published(file, [offer for offer in dealt if offer.entry == entry], contents.get(entry), server, dataset)
        for entry, file in enumerate(manifest.access.files)
        if not _empty(file, [offer for offer in dealt if offer.entry == entry])
    )
    access = manifest.access.model_copy(update={"files": files})
    return Publication(manifest.model_copy(update={"access": access}), by_hand)


def _empty(file: SourceFile, dealt: list[Offer]) -> bool:
    """Whether an entry of the manifest stands for no file of the phantoms."""
    return bool(file.each or file.many) and not any(offer.paths for offer in dealt)


def _published(file: SourceFile, dealt: list[Offer], content: bytes | None, server: str, dataset: str) -> SourceFile:
    """An entry of the manifest, about what was published."""
    url = file.url
    if url is not None and urlsplit(url).scheme in ("http", "https"):
        url = f"{server}/{dataset}/{url.replace('://', '/', 1)}"
    if file.each:
        cases = tuple(offer.case for offer in dealt if offer.case is not None and offer.paths)
        return file.model_copy(update={"url": url, "each": cases, "size": None, "md5": None, "sha256": None})
    if file.many or content is None:
        return file
    known = {
        "size": len(content),
        "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    said = {name: value for name, value in known.items() if getattr(file, name) is not None}
    return file.model_copy(update={"url": url, **said})


def _place(file: SourceFile, dataset: str) -> str:
    """Where a file lies below the site."""
    if file.url is None:
        return f"{BY_HAND}/{dataset}/{file.target}"
    parts = urlsplit(file.url)
    if parts.scheme == "hf":
        return f"hf/{repository(file.url)}/{source_path(file.url)}"
    # datasets may share a file, but phantoms of one know nothing of the others
    own = f"{dataset}/" if parts.scheme in ("http", "https") else ""
    return f"{own}{parts.scheme}/{parts.netloc}{unquote(parts.path)}"


def repository(url: str) -> str:
    """Repository of a hub's address, without revision: datasets/owner/name."""
    owner, name = urlsplit(url).path.removeprefix("/").split("/", 2)[:2]
    return f"datasets/{owner}/{name.partition('@')[0]}"


def _listed(offer: Offer, folder: Path, site: Path) -> None:
    """Lay out the files of a bucket or hub that has to be listed."""
    parts = urlsplit(offer.file.url or "")
    base = f"hf/{repository(offer.file.url or '')}" if parts.scheme == "hf" else f"{parts.scheme}/{parts.netloc}"
    for path in offer.paths:
        _save(site / base / (listed(offer.file, path) or path), (folder / path).read_bytes())


def _content(offer: Offer, folder: Path, password: str) -> bytes:
    file = offer.file
    if not file.archive:
        return (folder / offer.paths[0]).read_bytes() if offer.paths else UNREAD
    into = f"{file.into.strip('/')}/" if file.into else ""
    members: dict[str, bytes] = {}
    within: dict[str, dict[str, bytes]] = {}
    for path in offer.paths:
        outer, inner = _nested(path, file.nested)
        content = (folder / path).read_bytes()
        if outer is None:
            members[path.removeprefix(into)] = content
        else:
            within.setdefault(outer.removeprefix(into), {})[inner] = content
    members |= {name: pack(name, inside) for name, inside in within.items()}
    return pack(file.target, _with_junk(members, file), password if file.encrypted else None)


def _nested(path: str, patterns: tuple[str, ...]) -> tuple[str | None, str]:
    """Archive within the archive that holds a file, called as the folder that it holds; and the file's name in it."""
    parts = path.split("/")
    for depth in range(1, len(parts)):
        for kind in ARCHIVES:
            archive = "/".join(parts[:depth]) + kind
            if matcher(patterns)(archive):
                return archive, "/".join(parts[depth - 1 :])
    return None, path


def _with_junk(members: Mapping[str, bytes], file: SourceFile) -> dict[str, bytes]:
    """Add what publishers leave in archives: files of a Mac; a note, where only part of an archive is wanted."""
    out = dict(members)
    if file.holds or not members:
        out = {"readme.txt": UNREAD, **out}
    if members and file.target.endswith(".zip"):
        first = PurePosixPath(next(iter(members)))
        out[f"__MACOSX/{first.with_name(JUNK + first.name)}"] = APPLE_DOUBLE
    elif members and not any(PurePosixPath(name).name.startswith(JUNK) for name in members):
        first = PurePosixPath(next(iter(members)))
        out = {str(first.with_name(JUNK + first.name)): APPLE_DOUBLE, **out}
    return out


def _save(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
