"""Files in buckets of S3 and Google Cloud Storage."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from atlas.errors import FetchError
from atlas.fetch.sources.base import (
    MAX_LISTED,
    Address,
    Listed,
    RefusedError,
    Wanted,
    endpoint,
    missing,
    on_this_machine,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from atlas.spec.access import SourceFile

S3 = "https://s3.amazonaws.com"
GCS = "https://storage.googleapis.com"

SIGNED_FOR = timedelta(hours=6)
"""How long a signed address is good: longer than one attempt at one file takes, shorter than it is worth stealing."""

_GCS_CREDENTIALS = ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY")
_ASKED = {"retry_config": {"max_retries": 5, "retry_timeout": timedelta(minutes=2)}}


@dataclass(frozen=True)
class Object:
    """An object that a bucket lists: its key, its size in bytes and, where the listing tells it, its md5."""

    key: str
    size: int
    md5: str | None


def address(url: str) -> Address:
    """Address of one object: unsigned unless there are credentials in the environment.

    AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and STORAGE_EMULATOR_HOST name other servers. AWS_SKIP_SIGNATURE and
    GOOGLE_SKIP_SIGNATURE keep credentials unused; some public buckets turn away who shows any.
    """
    scheme, bucket, key = split(url)
    variable = credentials(scheme)
    if variable is not None:
        return Address(_signed(scheme, bucket, key, url), token=variable)
    default = "AWS_ACCESS_KEY_ID" if scheme == "s3" else _GCS_CREDENTIALS[0]
    return Address(f"{_server(scheme, bucket)}/{quote(key)}", token=default)


def listing(file: SourceFile) -> list[Listed]:
    """Objects below a prefix or like a pattern, with sizes.

    Raises
    ------
    FetchError
        If the bucket cannot be listed, or lists what cannot be a file here.
    """
    url = file.url or ""
    scheme, bucket, key = split(url)
    wanted = Wanted.of(key)
    return [
        Listed(f"{scheme}://{bucket}/{quote(found.key)}", target, found.size, found.md5)
        for found in objects(scheme, bucket, wanted.folder, url)
        if (target := wanted.target(file.to or "", found.key, url)) is not None
    ]


def objects(scheme: str, bucket: str, prefix: str, source: str, *, anonymous: bool = False) -> Iterator[Object]:
    """Objects below a prefix that ends in /. Empty ones are left out: tools make them to stand for folders.

    Raises
    ------
    FetchError
        If the bucket cannot be listed; `source` says for whom.
    """
    anonymous = anonymous or credentials(scheme) is None
    store = _store(scheme, bucket, source, anonymous=anonymous)
    import obstore

    try:
        count = 0
        for page in obstore.list(store, prefix=prefix or None):
            for found in page:
                count += 1
                if count > MAX_LISTED:
                    raise FetchError(f"{source}: lists more than {MAX_LISTED:,} files")
                if found["size"]:
                    tag = found["e_tag"] if scheme == "s3" and anonymous else None
                    yield Object(found["path"], found["size"], _md5(tag))
    except obstore.exceptions.BaseError as error:
        kind = RefusedError if re.search("status code: 40[13]", str(error)) else FetchError
        raise kind(f"{source}: cannot be listed ({_reason(error)})") from None


def credentials(scheme: str) -> str | None:
    """Name of the environment variable that holds credentials which are to be used."""
    names = ("AWS_ACCESS_KEY_ID",) if scheme == "s3" else _GCS_CREDENTIALS
    skip = os.environ.get("AWS_SKIP_SIGNATURE" if scheme == "s3" else "GOOGLE_SKIP_SIGNATURE", "")
    if skip.lower() in {"1", "true", "yes", "on"}:
        return None
    return next((name for name in names if os.environ.get(name)), None)


def split(url: str) -> tuple[str, str, str]:
    """Scheme, bucket and key of `s3://bucket/key` or `gs://bucket/key`; the key unquoted."""
    parts = urlsplit(url)
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,221}", parts.netloc) or parts.query or parts.fragment:
        raise FetchError(f"{url}: not of the form {parts.scheme}://bucket/key (in keys write ? as %3F and # as %23)")
    return parts.scheme, parts.netloc, unquote(parts.path.removeprefix("/"))


def _md5(tag: str | None) -> str | None:
    """md5 of an object out of its ETag, if it is one.

    The ETag of an object stored in one part is the md5 of its content, unless it is encrypted with a key of KMS or of
    the customer's (AWS, S3 API reference, `Object`, ETag); in several parts it has a dash and their number. Objects so
    encrypted are given to nobody without a signature (https://repost.aws/knowledge-center/s3-kms-signature-version-error)
    or without the key. So ETags are believed where they were listed anonymously, and nowhere else. About Google's
    nothing is assumed.
    """
    tag = (tag or "").strip('"')
    return tag if re.fullmatch(r"[0-9a-f]{32}", tag) else None


def _server(scheme: str, bucket: str) -> str:
    """Address of a bucket.

    Its name is part of Amazon's host, which leads to the right region by itself; a name with a dot cannot be, since
    the certificate would not match.
    """
    if scheme == "gs":
        return f"{endpoint(GCS, 'STORAGE_EMULATOR_HOST')}/{bucket}"
    server = endpoint(S3, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return f"https://{bucket}.s3.amazonaws.com" if server == S3 and "." not in bucket else f"{server}/{bucket}"


def _signed(scheme: str, bucket: str, key: str, url: str) -> str:
    store = _store(scheme, bucket, url, anonymous=False)
    import obstore

    try:
        return str(obstore.sign(store, "GET", key, SIGNED_FOR))
    except obstore.exceptions.BaseError as error:
        raise FetchError(
            f"{url}: cannot be signed with the credentials of the environment ({_reason(error)})"
        ) from None


def _store(scheme: str, bucket: str, source: str, *, anonymous: bool) -> Any:  # noqa: ANN401 - obstore has no stubs here
    try:
        from obstore.store import GCSStore, S3Store
    except ImportError:
        raise missing("cloud", f"{source}: to list a bucket, or to read it with credentials,") from None
    config: dict[str, object] = {"skip_signature": True} if anonymous else {}
    if scheme == "gs":
        server = endpoint(GCS, "STORAGE_EMULATOR_HOST")
        config |= {"base_url": server} if server != GCS else {}
        return GCSStore(bucket, config=config, client_options={"allow_http": on_this_machine(server)}, **_ASKED)
    server = endpoint(S3, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    config |= {"region": _region(bucket)} if server == S3 else {"endpoint": server, "aws_endpoint_url_s3": server}
    return S3Store(bucket, config=config, client_options={"allow_http": on_this_machine(server)}, **_ASKED)


@lru_cache(maxsize=64)
def _region(bucket: str) -> str:
    """Region of a bucket of Amazon's, which its server tells anybody (header of every answer to HEAD of the bucket)."""
    import httpx2

    try:
        answer = httpx2.head(f"{S3}/{bucket}", timeout=30)
    except httpx2.HTTPError as error:
        raise FetchError(f"s3://{bucket}: cannot be reached ({type(error).__name__})") from None
    return str(answer.headers.get("x-amz-bucket-region") or os.environ.get("AWS_REGION") or "us-east-1")


def _reason(error: Exception) -> str:
    """What the server said. Its whole answer may hold what was signed, so only its code and sentence are shown."""
    text = str(error)
    said = [m[1] for m in (re.search(f"<{tag}>(.*?)</{tag}>", text) for tag in ("Code", "Message")) if m]
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    return ": ".join(said)[:300] or (status[1].strip() if status else type(error).__name__)
