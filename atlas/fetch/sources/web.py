"""Files on any web server: https, with user name and password or token out of ~/.netrc."""

from __future__ import annotations

import base64
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from atlas.errors import FetchError
from atlas.fetch.sources.base import Address, on_this_machine


def address(url: str) -> Address:
    """The address as it is, with the credentials that netrc holds for exactly this host."""
    parts = urlsplit(url)
    protected = parts.scheme == "https" or on_this_machine(url)
    return Address(url, _credentials(parts.hostname or "") if protected else {})


def _credentials(host: str) -> dict[str, str]:
    """Authorization from ~/.netrc, or the file that NETRC names.

    Only an entry for the host counts: netrc's `default` would give a password to whoever a manifest names. A login of
    `bearer` means that the password is a token.
    """
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    if not path.is_file():
        return {}
    try:
        entry = netrc.netrc(str(path)).hosts.get(host)
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
        # the parser's message quotes the word it stumbled over, which may be a password
        line = f", line {error.lineno}" if isinstance(error, netrc.NetrcParseError) and error.lineno else ""
        raise FetchError(f"{path}{line}: cannot be read as a netrc file") from None
    if entry is None:
        return {}
    login, _, password = entry
    if login.lower() == "bearer":
        return {"Authorization": f"Bearer {password}"}
    return {"Authorization": "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()}
