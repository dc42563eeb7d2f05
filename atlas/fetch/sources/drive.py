"""Files on Google Drive that anybody with the link may read."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlencode, urlsplit

from atlas.errors import FetchError
from atlas.fetch.sources.base import Address, endpoint

DOWNLOAD = "https://drive.usercontent.google.com"
"""Where Drive's own button `download anyway` leads; `confirm=t` answers its question about large files."""

_ID = re.compile(r"[A-Za-z0-9_-]+")


def address(url: str) -> Address:
    """Address of `gdrive://id[?resourcekey=...]`. ATLAS_GDRIVE_ENDPOINT names another server (an institute's, tests).

    A file whose daily quota is used up is answered with a page of HTML and status 200: the size tells.
    """
    parts = urlsplit(url)
    key = parse_qs(parts.query).get("resourcekey", [""])[0]
    if not _ID.fullmatch(parts.netloc) or (key and not _ID.fullmatch(key)):
        raise FetchError(f"{url}: not of the form gdrive://id[?resourcekey=key]")
    query = {"id": parts.netloc, "export": "download", "confirm": "t"}
    if key:
        query["resourcekey"] = key
    return Address(f"{endpoint(DOWNLOAD, 'ATLAS_GDRIVE_ENDPOINT')}/download?{urlencode(query)}")
