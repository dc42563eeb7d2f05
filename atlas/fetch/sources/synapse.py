"""Files on Synapse (Sage Bionetworks), which gives them to registered people only.

The services are described at https://rest-docs.synapse.org/rest/: POST /entity/child, GET /entity/{id}/filehandles,
GET /entity/{id}/file.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from atlas.errors import FetchError
from atlas.fetch.sources.base import Address, Listed, RefusedError, endpoint, on_this_machine
from atlas.fetch.transport.answers import check_status
from atlas.fetch.transport.client import asked
from atlas.fetch.transport.retry import Patience, Transient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from atlas.spec.access import SourceFile

SERVER = "https://repo-prod.prod.sagebase.org"

TOKEN = "SYNAPSE_AUTH_TOKEN"

_LONGEST = 2**20
"""Bytes of an answer; all of them are small."""

_REFUSED = (401, 403)
_ID = re.compile(r"syn\d+(\.\d+)?")


def address(url: str) -> Address:
    """Signed address of the content of `synapse://syn123[.version][/name...]`; it is good for some minutes.

    ATLAS_SYNAPSE_ENDPOINT names another server (tests).

    Raises
    ------
    FetchError
        Without a token, or if Synapse does not give this person the file: its reason is in the message.
    """
    signed = _ask(url, f"{_entity(url)}/file?redirect=false").strip()
    parts = urlsplit(signed)
    if not parts.hostname or (parts.scheme != "https" and not on_this_machine(signed)):
        raise FetchError(f"{url}: Synapse did not answer with the address of a file")
    return Address(signed, token=TOKEN)


def listing(file: SourceFile) -> list[Listed]:
    """The one file, with the size and md5 that Synapse keeps.

    Raises
    ------
    FetchError
        As `address`.
    """
    url = file.url or ""
    answer = _object(url, _ask(url, f"{_entity(url)}/filehandles"))
    # a file may come with previews of it, which are handles too
    handles = [h for h in answer.get("list") or [] if isinstance(h, dict) and not h.get("isPreview")]
    handles = [h for h in handles if not str(h.get("concreteType", "")).endswith("PreviewFileHandle")]
    size = handles[0].get("contentSize") if len(handles) == 1 else None
    md5 = str(handles[0].get("contentMd5") or "").lower() if len(handles) == 1 else ""
    return [
        Listed(
            url,
            file.target,
            size if type(size) is int and size > 0 else None,
            md5 if re.fullmatch(r"[0-9a-f]{32}", md5) else None,
        )
    ]


def token() -> str | None:
    """The token, if the environment holds one."""
    return os.environ.get(TOKEN) or None


def _entity(url: str) -> str:
    """Path of the service that tells about the entity of an address; names are looked up in their folders."""
    parts = urlsplit(url)
    if not _ID.fullmatch(parts.netloc) or parts.query:
        raise FetchError(f"{url}: not of the form synapse://syn123[/name]")
    entity = parts.netloc
    for name in filter(None, unquote(parts.path).split("/")):
        entity = str(_object(url, _ask(url, "/entity/child", {"parentId": entity, "entityName": name})).get("id"))
        if not _ID.fullmatch(entity):
            raise FetchError(f"{url}: Synapse knows no {name!r} there")
    number, _, version = entity.partition(".")
    return f"/entity/{number}" + (f"/version/{version}" if version else "")


def _ask(url: str, path: str, body: dict[str, str] | None = None) -> str:
    """Answer to GET, or to POST of `body`; tried again while the server is busy or out of reach."""
    secret = token()
    if secret is None:
        raise FetchError(
            f"{url}: Synapse gives files to registered people only; set {TOKEN} to a token (with the scopes view and "
            "download) from https://www.synapse.org/PersonalAccessTokens:"
        )
    patience = Patience(url)
    while True:
        try:
            return _once(url, path, body, secret)
        except Transient as problem:
            patience.wait(problem, 0)


def _once(url: str, path: str, body: dict[str, str] | None, secret: str) -> str:
    server = endpoint(SERVER, "ATLAS_SYNAPSE_ENDPOINT")
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    with asked(f"{server}/repo/v1{path}", private=headers, content=content) as response:
        text = _read(response.iter_bytes(), url)
        if response.status_code in _REFUSED:
            raise RefusedError(f"{url}: Synapse answers {response.status_code}{_reason(text)}")
        check_status(response.status_code, response.headers, url, TOKEN)
    return text


def _read(chunks: Iterator[bytes], url: str) -> str:
    found = b""
    for chunk in chunks:
        found += chunk
        if len(found) > _LONGEST:
            raise FetchError(f"{url}: Synapse's answer is longer than {_LONGEST:,} bytes")
    return found.decode("utf-8", "replace")


def _reason(text: str) -> str:
    """Why Synapse refuses: to log in, or to accept the terms of the project, are different things to do."""
    try:
        reason = json.loads(text)["reason"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {str(reason)[:300]}"


def _object(url: str, text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise FetchError(f"{url}: Synapse's answer cannot be read")
    return answer
