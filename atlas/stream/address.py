"""Where a corpus lies, in tensorstore's words: folders, web servers, and buckets with the settings other tools read."""

from __future__ import annotations

import configparser
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

RETRIES: Json = {"max_retries": 6, "initial_delay": "500ms", "max_delay": "8s"}
"""Dropped connections, stalled transfers, 429 and 5xx: about 20 seconds of waiting in all."""

STALLED = {
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "15",
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "20",
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1024",
}
"""A transfer below 1 KiB a second for 20 seconds is given up and tried again. tensorstore has no other way to say so
than its environment, which it reads once in a process; a person's own values are left alone."""


@dataclass(frozen=True)
class Address:
    """How tensorstore reaches a corpus.

    Attributes
    ----------
    kvstore
        Key-value store whose keys begin at the corpus.
    context
        Resources of it: credentials and retries.
    environment
        Variables to set before the first request, unless they are set.
    """

    kvstore: Json
    context: Json = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def address_of(location: str, environ: Mapping[str, str]) -> Address:
    """How to reach a corpus.

    S3: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION, else `endpoint_url` and `region` of the
    profile (AWS_PROFILE) in AWS_CONFIG_FILE, as in the AWS reference guide, "Settings reference"; credentials from the
    environment, else the AWS default chain, else none. Google Cloud Storage: the default credentials;
    STORAGE_EMULATOR_HOST.

    Parameters
    ----------
    location
        Folder, or URL (s3://, gs://, https://, http://).
    environ
        Environment variables.

    Raises
    ------
    CorpusError
        If it is none of these.
    """
    scheme, separator, rest = location.partition("://")
    if not separator:
        return Address({"driver": "file", "path": f"{Path(location).absolute()}/"})
    if scheme in {"http", "https"}:
        page, mark, query = location.partition("?")
        return Address(
            {"driver": "http", "base_url": f"{page.rstrip('/')}/{mark}{query}"},  # its keys are added as they are
            {"http_request_retries": RETRIES},
            STALLED | _certificates(environ, "SSL_CERT_FILE"),
        )
    bucket, _, prefix = rest.partition("/")
    path = {"bucket": bucket, "path": f"{prefix}/" if prefix else ""}
    if scheme == "s3" and bucket:
        return Address(
            {"driver": "s3", **path, **_endpoint(environ)},
            {"s3_request_retries": RETRIES, "aws_credentials": _credentials(environ)},
            STALLED | _certificates(environ, "AWS_CA_BUNDLE"),
        )
    if scheme in {"gs", "gcs"} and bucket:
        return Address(
            {"driver": "gcs", **path},
            {"gcs_request_retries": RETRIES},
            STALLED | _certificates(environ, "SSL_CERT_FILE") | _emulator(environ),
        )
    raise CorpusError(
        f"{location}: patches are read from a folder, s3://bucket/..., gs://bucket/..., https:// or http://"
    )


def _endpoint(environ: Mapping[str, str]) -> Json:
    """Another server than Amazon's. Without one tensorstore asks Amazon for the region of the bucket."""
    ignored = environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
    profile = _profile(environ)
    url = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or profile.get("endpoint_url")
    if ignored or not url:
        return {}
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or profile.get("region")
    return {"endpoint": url.rstrip("/"), "aws_region": region or "us-east-1"}


def _credentials(environ: Mapping[str, str]) -> Json:
    if environ.get("AWS_ACCESS_KEY_ID"):
        return {"type": "environment"}
    if environ.get("FSSPEC_S3_ANON", "").lower() in {"1", "true"}:  # how one says it to atlas.open
        return {"type": "anonymous"}
    profile = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE")
    return {"type": "default"} | ({"profile": profile} if profile else {})


def _profile(environ: Mapping[str, str]) -> Mapping[str, str]:
    name = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    config = configparser.RawConfigParser()
    try:
        config.read(Path(environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser(), encoding="utf-8")
    except (configparser.Error, ValueError, OSError, RuntimeError):
        return {}
    section = name if name == "default" and config.has_section(name) else f"profile {name}"
    return dict(config[section]) if config.has_section(section) else {}


def _emulator(environ: Mapping[str, str]) -> dict[str, str]:
    host = environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
    if not host:
        return {}
    return {"TENSORSTORE_GCS_HTTP_URL": host if "://" in host else f"http://{host}"}


def _certificates(environ: Mapping[str, str], name: str) -> dict[str, str]:
    return {"TENSORSTORE_CA_BUNDLE": environ[name]} if environ.get(name) else {}
