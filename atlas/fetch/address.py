"""Under which https address a file lies, whatever its source; tokens are read here, when the file is asked for."""

from __future__ import annotations

from urllib.parse import urlsplit

from atlas.errors import FetchError
from atlas.fetch.sources import buckets, drive, hub, synapse, web
from atlas.fetch.sources.base import Address

__all__ = ["Address", "address", "missing_token"]

_SOURCES = {
    "https": web.address,
    "http": web.address,
    "s3": buckets.address,
    "gs": buckets.address,
    "hf": hub.address,
    "gdrive": drive.address,
    "synapse": synapse.address,
}


def address(url: str) -> Address:
    """Where to ask for the file of a download, and with which headers.

    Call it before every attempt: signed addresses expire. Tokens come from the environment, from netrc or from what
    their own program stored; they are in the result alone, which shows none of them.

    Parameters
    ----------
    url
        Of one file, as in the manifest or from a listing.

    Raises
    ------
    FetchError
        If the address cannot be read, if a token is needed and not set, if the source refuses the file.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _SOURCES:
        raise FetchError(f"{url or 'no address'}: not an address of one file; those start with {', '.join(_SOURCES)}")
    return _SOURCES[scheme](url)


def missing_token(url: str) -> str | None:
    """Environment variable that a source's files need and that is not set, as far as one can tell without asking."""
    scheme = urlsplit(url).scheme
    if scheme == "hf" and hub.token() is None:
        return hub.TOKEN
    if scheme == "synapse" and synapse.token() is None:
        return synapse.TOKEN
    return None
