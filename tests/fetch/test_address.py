"""Where files are asked for; what is shown of tokens."""

import base64
import json
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from atlas.errors import FetchError
from atlas.fetch.address import address, missing_token
from atlas.fetch.sources import hub
from atlas.fetch.sources.base import Address
from atlas.fetch.transport.retry import policy

SECRET = "s3cr3t-t0ken"

CREDENTIALS = """
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_SKIP_SIGNATURE AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3
    AWS_REGION AWS_DEFAULT_REGION STORAGE_EMULATOR_HOST GOOGLE_APPLICATION_CREDENTIALS GOOGLE_SERVICE_ACCOUNT
    GOOGLE_SERVICE_ACCOUNT_KEY GOOGLE_SKIP_SIGNATURE HF_TOKEN HF_ENDPOINT SYNAPSE_AUTH_TOKEN ATLAS_SYNAPSE_ENDPOINT
    ATLAS_GDRIVE_ENDPOINT NETRC
"""


@pytest.fixture(autouse=True)
def _nobody(monkeypatch, tmp_path):
    """No tokens of whoever runs the tests, and no waiting."""
    for name in CREDENTIALS.split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(policy, "sleep", lambda seconds: None)


@pytest.fixture
def netrc(monkeypatch, tmp_path):
    path = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(path))
    return path


def test_nothing_secret_is_shown():
    """Headers give access, and so does the query of a signed address."""
    made = Address(f"https://a.org/f?X-Amz-Signature={SECRET}", {"Authorization": f"Bearer {SECRET}"}, "HF_TOKEN")
    for text in (repr(made), str(made), f"{made}", f"{[made]}", f"{made.shown}"):
        assert SECRET not in text
    assert made.shown == "https://a.org/f"
    assert "HF_TOKEN" in repr(made)


@pytest.mark.parametrize("url", ["", "idc://collection", "s3", "file:///etc/passwd", "ftp://a.org/b"])
def test_only_addresses_of_one_file(url):
    with pytest.raises(FetchError, match="https, http, s3, gs, hf, gdrive, synapse"):
        address(url)


# --- plain https


def test_https_as_it_is():
    made = address("https://a.org/x%20y.zip?download=1")
    assert (made.url, made.headers) == ("https://a.org/x%20y.zip?download=1", {})


def test_netrc_for_its_host_alone(netrc):
    netrc.write_text(f"machine a.org login me password {SECRET}\nmachine b.org login bearer password {SECRET}\n")
    basic = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert address("https://a.org/x").headers == {"Authorization": f"Basic {basic}"}
    assert address("https://b.org/x").headers == {"Authorization": f"Bearer {SECRET}"}
    assert address("https://sub.a.org/x").headers == {}
    assert address("https://evil.org/a.org").headers == {}


def test_netrc_default_is_for_nobody(netrc):
    netrc.write_text(f"default login me password {SECRET}\n")
    assert address("https://a.org/x").headers == {}


def test_passwords_only_under_cover(netrc):
    netrc.write_text(f"machine a.org login me password {SECRET}\nmachine localhost login me password {SECRET}\n")
    assert address("http://a.org/x").headers == {}
    assert address("http://localhost:1/x").headers


def test_broken_netrc_is_named_and_not_quoted(netrc):
    netrc.write_text(f"machine a.org login me password\n{SECRET} {SECRET} x\n")
    with pytest.raises(FetchError, match="netrc") as raised:
        address("https://a.org/x")
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


# --- buckets


@pytest.mark.parametrize(
    ("url", "https"),
    [
        ("s3://bucket/a/b.nii.gz", "https://bucket.s3.amazonaws.com/a/b.nii.gz"),
        ("s3://bucket/a%20b%3F%23%25.zip", "https://bucket.s3.amazonaws.com/a%20b%3F%23%25.zip"),
        ("s3://with.dot/a.zip", "https://s3.amazonaws.com/with.dot/a.zip"),
        ("gs://bucket/a b.zip", "https://storage.googleapis.com/bucket/a%20b.zip"),
    ],
)
def test_public_buckets(url, https):
    made = address(url)
    assert (made.url, made.headers) == (https, {})


def test_other_servers_of_buckets(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://minio.example.org/")
    assert address("s3://bucket/k").url == "https://minio.example.org/bucket/k"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000")
    assert address("s3://bucket/k").url == "http://127.0.0.1:9000/bucket/k"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:9023")
    assert address("gs://bucket/k").url == "http://localhost:9023/bucket/k"


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("AWS_ENDPOINT_URL", "s3://bucket/k"),
        ("STORAGE_EMULATOR_HOST", "gs://bucket/k"),
        ("HF_ENDPOINT", "hf://datasets/o/n/f"),
    ],
)
def test_no_open_line_to_other_machines(monkeypatch, variable, url):
    monkeypatch.setenv(variable, "http://10.0.0.1")
    with pytest.raises(FetchError, match=variable):
        address(url)


@pytest.mark.parametrize("url", ["s3://Bucket!/k", "s3://b/k", "s3://bucket/k?versionId=1", "gs://bucket/k#x"])
def test_no_bucket(url):
    with pytest.raises(FetchError, match="bucket/key"):
        address(url)


def test_credentials_sign(monkeypatch):
    """The signature is compared with botocore's, an independent implementation."""
    import botocore.auth
    import botocore.awsrequest
    import botocore.credentials

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    made = address("s3://bucket/a b.zip")
    parts, query = urlsplit(made.url), parse_qs(urlsplit(made.url).query)
    assert (parts.netloc, parts.path, made.headers) == ("127.0.0.1:9000", "/bucket/a%20b.zip", {})
    signed_at = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    with monkeypatch.context() as patch:
        for module in ("botocore.auth", "botocore.compat"):
            patch.setattr(f"{module}.get_current_datetime", lambda remove_tzinfo=True: signed_at, raising=False)
        request = botocore.awsrequest.AWSRequest("GET", "http://127.0.0.1:9000/bucket/a%20b.zip")
        key = botocore.credentials.Credentials("AKIAEXAMPLE", SECRET)
        seconds = int(query["X-Amz-Expires"][0])
        botocore.auth.S3SigV4QueryAuth(key, "s3", "us-east-1", expires=seconds).add_auth(request)
    expected = parse_qs(urlsplit(request.url).query)
    assert query == expected
    assert query["X-Amz-Signature"][0] not in repr(made)
    assert SECRET not in made.url


def test_signing_can_be_declined(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert address("s3://bucket/k").url == "https://bucket.s3.amazonaws.com/k"


def test_google_credentials_sign(monkeypatch):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "private_key": pem.decode(),
        "private_key_id": "1",
        "client_email": "me@x.org",
        "type": "service_account",
    }
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))
    made = address("gs://bucket/k.zip")
    assert made.url.startswith("https://storage.googleapis.com/bucket/k.zip?")
    assert "X-Goog-Signature" in made.url
    assert "Signature" not in repr(made)


def test_signing_needs_a_package(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(FetchError, match=r"pip install 'atlas-corpus\[cloud\]'"):
        address("s3://bucket/k")


# --- hub


def test_hub(monkeypatch):
    made = address("hf://datasets/owner/name/dir/a%20b.tar.gz")
    assert made.url == "https://huggingface.co/datasets/owner/name/resolve/main/dir/a%20b.tar.gz"
    assert (made.headers, made.token) == ({}, "HF_TOKEN")
    assert missing_token("hf://datasets/owner/name/x") == "HF_TOKEN"
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org")
    made = address("hf://datasets/owner/name@refs%2Fpr%2F1/f.zip")
    assert made.url == "https://hub.example.org/datasets/owner/name/resolve/refs%2Fpr%2F1/f.zip"
    assert made.headers == {"Authorization": f"Bearer {SECRET}"}
    assert SECRET not in repr(made)
    assert missing_token("hf://datasets/owner/name/x") is None


def test_token_that_the_hub_stored(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: SECRET)
    assert address("hf://datasets/owner/name/f").headers == {"Authorization": f"Bearer {SECRET}"}


def test_hub_package_is_not_needed_for_one_file(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert hub.token() is None
    assert address("hf://datasets/owner/name/f").url.endswith("/resolve/main/f")


@pytest.mark.parametrize("url", ["hf://models/owner/name/f", "hf://datasets/owner/f", "hf://datasets//name/f"])
def test_no_place_on_the_hub(url):
    with pytest.raises(FetchError, match="hf://datasets/owner/name"):
        address(url)


# --- drive


def test_drive(monkeypatch):
    made = address("gdrive://1Ab_-9?resourcekey=0-xY")
    parts = urlsplit(made.url)
    assert (parts.netloc, parts.path) == ("drive.usercontent.google.com", "/download")
    expected = {"id": ["1Ab_-9"], "export": ["download"], "confirm": ["t"], "resourcekey": ["0-xY"]}
    assert parse_qs(parts.query) == expected
    assert "resourcekey" not in address("gdrive://1Ab").url
    monkeypatch.setenv("ATLAS_GDRIVE_ENDPOINT", "http://127.0.0.1:1")
    assert address("gdrive://1Ab").url.startswith("http://127.0.0.1:1/download?id=1Ab&")


@pytest.mark.parametrize("url", ["gdrive://a.b", "gdrive://ab?resourcekey=x%26y"])
def test_no_drive_id(url):
    with pytest.raises(FetchError, match="gdrive://id"):
        address(url)


# --- Synapse


@pytest.fixture
def synapse(httpserver, monkeypatch):
    """A server that asks for the token; syn1 is a folder with RawData.zip, which is syn22."""
    monkeypatch.setenv("ATLAS_SYNAPSE_ENDPOINT", httpserver.url_for("/").rstrip("/"))
    monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", SECRET)
    key = {"Authorization": f"Bearer {SECRET}"}
    child = {"parentId": "syn1", "entityName": "RawData.zip"}
    httpserver.expect_request("/repo/v1/entity/child", method="POST", json=child, headers=key).respond_with_json(
        {"id": "syn22"}
    )
    signed = f"https://bucket.s3.amazonaws.com/raw?X-Amz-Signature={SECRET}"
    httpserver.expect_request(
        "/repo/v1/entity/syn22/file", query_string="redirect=false", headers=key
    ).respond_with_data(f"{signed}\n")
    return httpserver


def test_synapse(synapse):
    made = address("synapse://syn1/RawData.zip")
    assert made.url.startswith("https://bucket.s3.amazonaws.com/raw?")
    assert made.headers == {}
    assert SECRET not in repr(made)
    assert address("synapse://syn22").url == made.url


def test_synapse_version(synapse):
    synapse.expect_request("/repo/v1/entity/syn22/version/3/file").respond_with_data("https://b.org/v3")
    assert address("synapse://syn22.3").url == "https://b.org/v3"


def test_synapse_without_token(monkeypatch):
    assert missing_token("synapse://syn1") == "SYNAPSE_AUTH_TOKEN"
    with pytest.raises(FetchError, match=r"SYNAPSE_AUTH_TOKEN.*synapse\.org/PersonalAccessTokens"):
        address("synapse://syn1")


def test_synapse_says_why_it_refuses(synapse):
    reason = "There are unmet access requirements"
    synapse.expect_request("/repo/v1/entity/syn5/file").respond_with_json({"reason": reason}, status=403)
    with pytest.raises(FetchError, match=f"403: {reason}") as raised:
        address("synapse://syn5")
    assert SECRET not in str(raised.value)


def test_synapse_busy(synapse):
    synapse.expect_ordered_request("/repo/v1/entity/syn7/file").respond_with_data("", status=503)
    synapse.expect_ordered_request("/repo/v1/entity/syn7/file").respond_with_data("https://b.org/x")
    assert address("synapse://syn7").url == "https://b.org/x"


@pytest.mark.parametrize("answer", ["", "http://b.org/x", "<html>", "file:///etc/passwd"])
def test_synapse_answers_nonsense(synapse, answer):
    synapse.expect_request("/repo/v1/entity/syn8/file").respond_with_data(answer)
    with pytest.raises(FetchError, match="address of a file"):
        address("synapse://syn8")


@pytest.mark.parametrize("url", ["synapse://abc", "synapse://syn1x/a", "synapse://syn1?x=1"])
def test_no_synapse_id(url, synapse):
    with pytest.raises(FetchError, match="synapse://syn123"):
        address(url)
