"""Files of datasets on the Hugging Face Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from atlas.errors import FetchError
from atlas.fetch.sources.base import MAX_LISTED, Address, Listed, RefusedError, Wanted, endpoint, missing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from atlas.spec.access import SourceFile

HUB = "https://huggingface.co"

TOKEN = "HF_TOKEN"


@dataclass(frozen=True)
class _Place:
    repository: str
    revision: str
    path: str

    @classmethod
    def of(cls, url: str) -> _Place:
        """Parts of `hf://datasets/owner/name[@revision]/path`."""
        parts = urlsplit(url)
        pieces = parts.path.removeprefix("/").split("/", 2)
        if parts.netloc != "datasets" or len(pieces) != 3 or not all(pieces[:2]) or parts.query:  # noqa: PLR2004
            raise FetchError(f"{url}: not of the form hf://datasets/owner/name[@revision]/path")
        name, _, revision = pieces[1].partition("@")
        return cls(f"{pieces[0]}/{name}", unquote(revision) or "main", unquote(pieces[2]))


def token() -> str | None:
    """HF_TOKEN, or what `hf auth login` stored, if that package is installed."""
    if os.environ.get(TOKEN):
        return os.environ[TOKEN]
    try:
        from huggingface_hub import get_token
    except ImportError:
        return None
    return get_token()


def address(url: str) -> Address:
    """Address of one file. HF_ENDPOINT names another server, as it does for huggingface_hub."""
    place, secret = _Place.of(url), token()
    where = f"{place.repository}/resolve/{quote(place.revision, safe='')}/{quote(place.path)}"
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return Address(f"{endpoint(HUB, 'HF_ENDPOINT')}/datasets/{where}", headers, TOKEN)


def listing(file: SourceFile) -> list[Listed]:
    """Files below a folder or like a pattern of a dataset, with sizes, and sha256 where they lie in LFS.

    Raises
    ------
    FetchError
        If the hub cannot be asked, or does not let this person see the dataset.
    """
    url = file.url or ""
    place = _Place.of(url)
    wanted = Wanted.of(place.path)
    base = url[: len("hf://datasets/")] + "/".join(urlsplit(url).path.removeprefix("/").split("/", 2)[:2])
    return [
        Listed(f"{base}/{quote(entry.path)}", target, entry.size, sha256=entry.lfs.sha256 if entry.lfs else None)
        for entry in _tree(place, wanted.folder, url)
        if (target := wanted.target(file.to or "", entry.path, url)) is not None
    ]


def _tree(place: _Place, folder: str, url: str) -> Iterable[Any]:
    try:
        from huggingface_hub import HfApi, RepoFile
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    except ImportError:
        raise missing("hub", f"{url}: to list files of the Hugging Face Hub") from None
    api = HfApi(endpoint=endpoint(HUB, "HF_ENDPOINT"), token=token() or False)
    try:
        tree = api.list_repo_tree(
            place.repository, folder.rstrip("/") or None, recursive=True, revision=place.revision, repo_type="dataset"
        )
        entries = list(islice(tree, MAX_LISTED + 1))
    except (GatedRepoError, RepositoryNotFoundError):
        raise RefusedError(
            f"{url}: no such dataset, or one that you have no access to; accept its terms at "
            f"{HUB}/datasets/{place.repository} and set {TOKEN} to a token from {HUB}/settings/tokens"
        ) from None
    except Exception as error:  # its HTTP library changed between versions, and so do the errors that come through
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"the server answered {status}" if status else type(error).__name__
        raise FetchError(f"{url}: cannot be listed ({reason})") from None
    return [entry for entry in entries if isinstance(entry, RepoFile)]
