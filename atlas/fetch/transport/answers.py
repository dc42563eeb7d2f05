"""What a server's answer means. Nothing here asks or writes."""

from __future__ import annotations

import html
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from atlas.errors import FetchError
from atlas.fetch.transport.retry import Transient, asked_wait

if TYPE_CHECKING:
    from collections.abc import Mapping

AGAIN = frozenset({408, 429, 500, 502, 503, 504})
"""What may be over at the next try."""

GONE = frozenset({404, 410})

SNIFFED = 64 * 1024
"""Bytes at the start of a body in which the title of a page is looked for."""

_RANGE = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.IGNORECASE)
_END = re.compile(r"bytes\s+\*/(\d{1,18})", re.IGNORECASE)
_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?(?><!--.{0,2000}?-->\s*)*+<(?:!doctype\s+html|html)[\s>]",
    re.IGNORECASE | re.DOTALL,
)
"""Atomic groups: comments in a row must not cost exponential time."""
_TITLE = re.compile(rb"<title[^>]{0,200}>(.{0,1000}?)</title", re.IGNORECASE | re.DOTALL)
_GZIPPED = (".gz", ".tgz")


class Gone(FetchError):  # noqa: N818 - what the server calls it
    """The server has no such file."""


def check_status(status: int, headers: Mapping[str, str], name: str, token: str | None) -> None:
    """See to it that the answer is what was asked for.

    Parameters
    ----------
    status, headers
        Of the answer.
    name
        Of what was asked for, for messages.
    token
        Environment variable that would help, if any.

    Raises
    ------
    Transient
        If it may be over at the next try.
    Gone
        If the server has no such file.
    FetchError
        If asking again would not help; the message says what would.
    """
    if status in {200, 206}:
        return
    if status in AGAIN:
        raise Transient(f"the server answered {status}", asked_wait(headers.get("retry-after")))
    if status in GONE:
        raise Gone(
            f"{name}: not there any more (status {status}). The publisher may have moved it: look on the dataset's "
            "page and correct the manifest, or use a copy with --mirror."
        )
    raise FetchError(f"{name}: {_advice(status, token)}")


def _advice(status: int, token: str | None) -> str:
    if status in {401, 403}:
        if token is not None:
            return (
                f"refused (status {status}). Accept the dataset's terms on its page, and set the environment variable "
                f"{token} to a token of the same account."
            )
        return (
            f"refused (status {status}). Accept the dataset's terms on its page, put user name and password for this "
            "host into ~/.netrc if it wants them, or use a copy with --mirror."
        )
    return f"the server answered {status}; trying again would not help. Look at the address in the manifest."


def content_range(value: str | None) -> tuple[int, int, int | None] | None:
    """First and last byte and size out of a Content-Range (RFC 9110, 14.4; size None: `*`); None: makes no sense."""
    found = _RANGE.fullmatch((value or "").strip())
    if found is None:
        return None
    first, last, size = int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])
    return None if last < first or (size is not None and last >= size) else (first, last, size)


def unsatisfied_size(value: str | None) -> int | None:
    """Size of the file out of the Content-Range of a 416."""
    found = _END.fullmatch((value or "").strip())
    return int(found[1]) if found else None


def validator(headers: Mapping[str, str]) -> str | None:
    """What can stand in If-Range (RFC 9110, 13.1.5): a strong ETag, or else a Last-Modified that is strong.

    A date is strong if the answer was made at least a second later (8.8.2.2): within one second a file can change
    twice. Weak ETags may stay the same while bytes change.
    """
    etag = headers.get("etag", "")
    if len(etag) > 1 and etag[0] == '"' == etag[-1]:
        return etag
    modified = headers.get("last-modified")
    try:
        age = parsedate_to_datetime(headers.get("date", "")) - parsedate_to_datetime(modified or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return modified if age.total_seconds() >= 1 else None


def contradicts(headers: Mapping[str, str], known: str | None) -> bool:
    """Whether a 206 is, by its own headers, of another file than the validator's: some servers ignore If-Range."""
    if known is None:
        return False
    now = headers.get("etag" if known.startswith('"') else "last-modified")
    return now is not None and now != known


def content_length(headers: Mapping[str, str]) -> int | None:
    """Bytes that the body will have; None if it comes in chunks or just ends."""
    value = headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() and "transfer-encoding" not in headers else None


def ends_by_itself(headers: Mapping[str, str]) -> bool:
    """Whether a body that is cut off can be told from a whole one."""
    return content_length(headers) is not None or "chunked" in headers.get("transfer-encoding", "").lower()


def check_encoding(headers: Mapping[str, str], target: str, name: str) -> None:
    """See to it that the bytes are the file's own.

    Some servers say that a .gz file is gzip-encoded: its bytes are the file all the same, and size and checksum tell.

    Raises
    ------
    FetchError
        If the server packed the file for the way although it was asked not to.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding in {"identity", ""} or (coding in {"gzip", "x-gzip"} and target.lower().endswith(_GZIPPED)):
        return
    raise FetchError(
        f"{name}: the server packs the file with {coding[:20]!r} although asked not to, so its bytes cannot be "
        "verified. Fetch it by hand or use a copy with --mirror."
    )


def is_page(content_type: str, start: bytes, target: str) -> bool:
    """Whether a body is an HTML page where a file of another kind is expected."""
    if target.lower().endswith((".html", ".htm", ".xhtml")):
        return False
    kind = content_type.partition(";")[0].strip().lower()
    return kind in {"text/html", "application/xhtml+xml"} or _PAGE.match(start) is not None


def page_error(start: bytes, name: str) -> FetchError:
    """What to say of an HTML page; its title says most."""
    found = _TITLE.search(start)
    title = " ".join(html.unescape(found[1].decode("utf-8", "replace")).split()) if found else ""
    title = "".join(c for c in title if c.isprintable())[:200]
    called = f"the page {title!r}" if title else "an HTML page"
    return FetchError(
        f"{name}: the server sent {called} instead of the file. Where it speaks of a quota, come back after a day; "
        "where it asks to log in or to accept terms, do so in a browser, and put the file there by hand if need be."
    )
