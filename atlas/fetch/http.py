"""Fetching one file: tried again, gone on with where it was, verified before it gets its name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from atlas.errors import FetchError
from atlas.fetch.places import place
from atlas.fetch.records import Record, confirmed, record, verify, write_record
from atlas.fetch.transport import answers
from atlas.fetch.transport.bodies import Copy, Web
from atlas.fetch.transport.client import asked, shown
from atlas.fetch.transport.fill import fill
from atlas.fetch.transport.part import Part, locked
from atlas.fetch.transport.retry import Patience, Transient, policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from atlas.fetch.download import Download, Progress
    from atlas.fetch.transport.bodies import Supply

_ANSWER = 64 * 2**20
"""Bytes that a small answer may have."""


@dataclass(frozen=True)
class Fetched:
    """A verified file.

    Attributes
    ----------
    target
        Place below the dataset's folder.
    size, sha256
        Of its content.
    transferred
        Bytes that came over the wire in this call; 0 if it was there.
    """

    target: str
    size: int
    sha256: str
    transferred: int


def transfer(
    download: Download, folder: Path, *, mirror: str | None = None, progress: Progress | None = None
) -> Fetched:
    """Fetch one file into its place below a folder.

    It may be interrupted at any moment, and goes on from there the next time. A file that is there already is accepted
    if it was verified before and did not change since, and else verified.

    Parameters
    ----------
    download
        The file.
    folder
        Of its dataset.
    mirror
        Address or folder that holds copies as <dataset>/<target>; asked first. What it does not have comes from the
        publisher.
    progress
        Told now and then how many bytes there are.

    Returns
    -------
    Fetched
        What is there now.

    Raises
    ------
    FetchError
        If it cannot be had, or is not what the manifest says. Nothing wrong is left at its place.
    """
    try:
        there = _there(download, folder, progress)
        if there is not None:
            return there
        supplies = list(_supplies(download, folder, mirror))
        with locked(download, folder) as part:
            there = _there(download, folder, progress)  # another process may have been quicker
            return there or _fetched(download, folder, part, supplies, progress)
    except FetchError:
        raise
    except OSError as error:
        raise FetchError(f"{place(download, folder)}: cannot be read or written ({error.strerror or error})") from error


def get(
    url: str, *, headers: Mapping[str, str] | None = None, post: bytes | None = None, token: str | None = None
) -> bytes:
    """A small answer of a server, as patiently as files are fetched.

    Parameters
    ----------
    url
        https address.
    headers
        For its host only.
    post
        Posted, if not None.
    token
        Environment variable that would help if access is refused.

    Raises
    ------
    FetchError
        If there is none.
    """
    patience = Patience(shown(url))
    while True:
        try:
            with asked(url, private=headers or {}, content=post) as response:
                answers.check_status(response.status_code, response.headers, shown(url), token)
                return _read(response.iter_bytes(), shown(url))
        except Transient as problem:
            patience.wait(problem, 0)


def get_json(
    url: str, *, headers: Mapping[str, str] | None = None, post: object = None, token: str | None = None
) -> Any:  # noqa: ANN401 - whatever the server says; callers check it
    """The same as `get`, of JSON: `post`, if not None, is sent as such.

    Raises
    ------
    FetchError
        If there is no answer, or it is not JSON.
    """
    kind = {"Content-Type": "application/json"} if post is not None else {}
    content = json.dumps(post).encode() if post is not None else None
    found = get(url, headers={**kind, **(headers or {})}, post=content, token=token)
    try:
        return json.loads(found)
    except (ValueError, RecursionError) as error:
        if answers.is_page("", found[:512], ""):
            raise answers.page_error(found[: answers.SNIFFED], shown(url)) from None
        raise FetchError(f"{shown(url)}: the answer is not JSON") from error


def _read(chunks: Iterator[bytes], name: str) -> bytes:
    found = bytearray()
    for chunk in chunks:
        found += chunk
        if len(found) > _ANSWER:
            raise FetchError(f"{name}: the answer is longer than {_ANSWER:,} bytes")
    return bytes(found)


def _there(download: Download, folder: Path, progress: Progress | None) -> Fetched | None:
    """The file if it is at its place already, verified."""
    path, known = place(download, folder), confirmed(download, folder)
    if known is not None:
        return Fetched(known.target, known.size, known.sha256, 0)
    if not path.exists():
        return None
    if not path.is_file():
        raise FetchError(f"{path}: there is something else where the file belongs. Remove it and run it again.")
    old = record(folder, download.target)
    wanted = download.sha256 or (old.sha256 if old is not None and not download.md5 else None)
    with path.open("rb") as file:
        start = file.read(answers.SNIFFED)
    if answers.is_page("", start, download.target):
        raise FetchError(f"{answers.page_error(start, str(path))} Remove this file.")
    mtime = path.stat().st_mtime_ns
    try:
        sha256 = verify(
            path, size=download.size, md5=download.md5, sha256=wanted, progress=progress, name=download.target
        )
    except FetchError as error:
        raise FetchError(f"{error}. Remove this file and run it again.") from error
    url, unpacked = (old.url, old.unpacked) if old is not None and old.sha256 == sha256 else ("", False)
    return _recorded(download, folder, sha256, url, mtime, unpacked=unpacked)


def _recorded(
    download: Download, folder: Path, sha256: str, url: str, mtime: int, *, unpacked: bool = False
) -> Fetched:
    size = place(download, folder).stat().st_size
    now = policy.now().isoformat(timespec="seconds")
    write_record(folder, Record(download.target, url, size, sha256, download.md5, mtime, unpacked, now))
    return Fetched(download.target, size, sha256, 0)


def _supplies(download: Download, folder: Path, mirror: str | None) -> Iterator[Supply]:
    """Where to ask, in order."""
    if mirror is not None:
        inside = f"{download.dataset}/{download.target}"
        if "://" in mirror:
            yield Web(_protected(f"{mirror.rstrip('/')}/{quote(inside)}", download), download)
        else:
            yield Copy(Path(mirror).expanduser() / inside, download)
    if download.url:
        yield Web(download.url, download)
    elif mirror is None:
        raise FetchError(
            f"{place(download, folder)}: not there. Nobody serves this file to programs: see "
            f"`atlas datasets show {download.dataset}` for how to get it, and put it there."
        )


def _protected(url: str, download: Download) -> str:
    """The address of a copy, if nobody on the way can change the copy unnoticed."""
    plain = url.startswith("http://") and not url.startswith(("http://127.0.0.1", "http://localhost", "http://[::1]"))
    if plain and not (download.sha256 or download.md5):
        raise FetchError(
            f"{shown(url)}: http:// can be tampered with on the way, and the manifest has no checksum of "
            f"{download.target}. Use a mirror by https:// or a folder."
        )
    return url


def _fetched(
    download: Download, folder: Path, part: Part, supplies: list[Supply], progress: Progress | None
) -> Fetched:
    for supply in supplies:
        try:
            fill(part, supply, download, progress)
        except answers.Gone:
            if supply is supplies[-1]:
                raise
            continue
        sha256 = part.keep()
        mtime = part.target.stat().st_mtime_ns
        done = _recorded(download, folder, sha256, supply.name, mtime)
        return Fetched(done.target, done.size, done.sha256, part.received)
    raise AssertionError("there is always somewhere to ask")  # pragma: no cover
