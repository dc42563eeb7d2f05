"""Sending a request: one connection pool a process, redirects, and failures in words.

Certificates are always checked. What gives access (the headers of an Address, the query of a signed address) goes to
the host it is for and to no other, and appears in no message and no log.
"""

from __future__ import annotations

import functools
import logging
import os
import ssl
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from atlas.errors import FetchError
from atlas.fetch.transport.retry import Transient, policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import httpx2

_MAKING = threading.Lock()
"""functools.cache alone makes two where two threads ask at once."""


def client() -> httpx2.Client:
    """Connections of this process."""
    with _MAKING:
        return _client(os.getpid())


@functools.cache
def _client(_process: int) -> httpx2.Client:
    """One for each process: sockets must not be shared after a fork."""
    import httpx2

    for name in ("httpx2", "httpcore2"):
        # they log whole addresses and headers, and so signatures and tokens
        logging.getLogger(name).setLevel(logging.WARNING)
    return httpx2.Client(
        headers={"User-Agent": "atlas-corpus", "Accept": "*/*", "Accept-Encoding": "identity"},
        limits=httpx2.Limits(max_keepalive_connections=16, keepalive_expiry=30),
    )


def shown(url: str) -> str:
    """An address as it may be shown: without user name, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise FetchError(f"{url.partition('?')[0].rpartition('@')[2]}: is no address") from error
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


@contextmanager
def asked(
    url: str, *, private: Mapping[str, str], plain: Mapping[str, str] | None = None, content: bytes | None = None
) -> Iterator[httpx2.Response]:
    """Ask, and follow redirects; the body is yet to be read.

    Parameters
    ----------
    url
        https, or http.
    private
        Headers for the host of `url` only.
    plain
        Headers for whoever answers in the end.
    content
        Posted, if not None; then no redirect is followed.

    Raises
    ------
    Transient
        If the connection fails, here or while the body is read: that may be over at the next try.
    FetchError
        If the certificate is not valid, or a redirect leads where it may not.
    """
    import httpx2

    response = None
    try:
        response = _followed(url, dict(private), dict(plain or {}), content)
        yield response
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _translated(error, url) from None  # the library quotes headers and addresses
    finally:
        if response is not None:
            response.close()


def _followed(url: str, private: dict[str, str], plain: dict[str, str], content: bytes | None) -> httpx2.Response:
    import httpx2

    where = httpx2.URL(url)
    if not where.scheme or not where.host:
        raise FetchError(f"{shown(url)}: is no address of the web")
    home = where.origin
    patience = httpx2.Timeout(policy.read, connect=policy.connect, pool=None)
    for _ in range(policy.redirects + 1):
        headers = {**plain, **private}
        method = "GET" if content is None else "POST"
        request = client().build_request(method, where, headers=headers, content=content, timeout=patience)
        response = client().send(request, stream=True, follow_redirects=False)
        if not response.has_redirect_location or content is not None:
            return response
        response.close()
        following = where.join(response.headers["location"])
        _check_redirect(where, following)
        if following.origin != home:
            private = {}  # for good, even if a later redirect leads back
        where = following
    raise FetchError(f"{shown(url)}: more than {policy.redirects} redirects. Look at the address in the manifest.")


def _check_redirect(where: httpx2.URL, following: httpx2.URL) -> None:
    if following.scheme not in {"http", "https"} or not following.host:
        raise FetchError(f"{shown(str(where))}: redirects to {following.scheme}:, which is not the web; not followed.")
    if where.scheme == "https" and following.scheme == "http":
        raise FetchError(
            f"{shown(str(where))}: redirects from https to {shown(str(following))}, where anybody on the way could "
            "change the file; not followed. Look on the dataset's page for another address, or use a --mirror."
        )


def _translated(error: Exception, url: str) -> Exception:
    """What a failure of the connection means."""
    import httpx2

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message or "it does not verify"
            return FetchError(
                f"{shown(url)}: the certificate of the server is not valid ({why}); nothing was fetched. If your "
                "institute's proxy is behind this, name its certificate authority with SSL_CERT_FILE."
            )
        cause = cause.__cause__ or cause.__context__
    ours = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)
    if isinstance(error, httpx2.TransportError) and not isinstance(error, ours):
        return Transient(_words(error))
    return FetchError(f"{shown(url)}: cannot be asked for ({type(error).__name__}).")


def _words(error: Exception) -> str:
    """What happened, without what the library quotes of the address."""
    import httpx2

    if isinstance(error, httpx2.ConnectTimeout):
        return "the server cannot be reached (no answer)"
    if isinstance(error, httpx2.TimeoutException):
        return "the server fell silent"
    if isinstance(error, httpx2.ProxyError):
        return "the proxy refused the connection"
    if isinstance(error, httpx2.ConnectError):
        return f"the server cannot be reached ({error})"
    return "the connection broke off"
