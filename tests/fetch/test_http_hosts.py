"""Whom the engine trusts: certificates, redirects, and where credentials go."""

import logging
import ssl

import pytest

from atlas.errors import FetchError
from atlas.fetch.http import get, transfer
from atlas.fetch.transport import client as clients
from atlas.fetch.transport.client import shown
from atlas.fetch.transport.retry import policy

PATH = "/data.bin"
SECRET = "c2VjcmV0"


@pytest.fixture
def netrc(monkeypatch, tmp_path):
    """Credentials for this machine."""
    path = tmp_path / "netrc"
    path.write_text(f"machine 127.0.0.1 login bearer password {SECRET}\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


def to(url, code=302):
    return lambda handler, *_: handler.say(code, b"moved", location=url)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed(site, content, make, tmp_path, code):
    site.serve("/there/data", content)
    url = site.serve(PATH, b"", to("there/data", code))
    transfer(make(url, "data", of=content), tmp_path)
    assert (tmp_path / "data").read_bytes() == content


def test_credentials_do_not_go_to_another_host(site, other, content, make, tmp_path, netrc):
    url = site.serve(PATH, b"", to(other.serve("/elsewhere", content)))
    transfer(make(url, "data"), tmp_path)
    assert site.asked[0].headers["authorization"] == f"Bearer {SECRET}"
    assert "authorization" not in other.asked[0].headers


def test_credentials_do_not_come_back_with_a_second_redirect(site, other, content, make, tmp_path, netrc):
    """Another host must not choose which of our addresses sees them."""
    site.serve("/chosen", content)
    other.serve("/elsewhere", b"", to(f"{site.root}/chosen"))
    transfer(make(site.serve(PATH, b"", to(f"{other.root}/elsewhere")), "data"), tmp_path)
    assert [("authorization" in a.headers) for a in site.asked] == [True, False]


def test_credentials_stay_within_the_host(site, content, make, tmp_path, netrc):
    site.serve("/there", content)
    transfer(make(site.serve(PATH, b"", to("/there")), "data"), tmp_path)
    assert [a.headers.get("authorization") for a in site.asked] == [f"Bearer {SECRET}"] * 2


def test_the_rest_is_asked_for_where_the_redirect_leads(site, other, faults, content, make, tmp_path):
    other.serve("/elsewhere", content, faults.cut(5000))
    transfer(make(site.serve(PATH, b"", always=to(f"{other.root}/elsewhere")), "data"), tmp_path)
    assert other.ranges() == [None, "bytes=5000-"]
    assert (tmp_path / "data").read_bytes() == content


def test_redirects_without_end(site, make, tmp_path):
    with pytest.raises(FetchError, match="more than 10 redirects"):
        transfer(make(site.serve(PATH, b"", always=to(PATH)), "data"), tmp_path)
    assert len(site.asked) == policy.redirects + 1


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x", "http://[::bad/"])
def test_redirects_to_what_is_not_the_web(site, make, tmp_path, where):
    with pytest.raises(FetchError):
        transfer(make(site.serve(PATH, b"", always=to(where)), "data"), tmp_path)
    assert len(site.asked) == 1


@pytest.mark.parametrize("mirror", ["https://", "https:///copies", "https://[::bad/", "foo://host/copies"])
def test_mirrors_that_are_no_address(make, tmp_path, mirror):
    with pytest.raises(FetchError):
        transfer(make("https://nowhere.invalid/data", "data"), tmp_path, mirror=mirror)
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_that_nobody_vouches_for(secure, content, make, tmp_path, waits):
    with pytest.raises(FetchError, match=r"certificate of the server is not valid \(self-signed certificate\)"):
        transfer(make(secure.serve(PATH, content), "data"), tmp_path)
    assert (waits, secure.asked) == ([], [])


@pytest.fixture
def trusted(authority, monkeypatch):
    """The certificate is one of those the machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    clients._client.cache_clear()


def test_a_certificate_that_is_trusted(secure, content, make, tmp_path, trusted):
    assert transfer(make(secure.serve(PATH, content), "data"), tmp_path).size == len(content)


def test_a_certificate_for_another_name(secure, content, make, tmp_path, trusted):
    url = secure.serve(PATH, content).replace("127.0.0.1", "localhost")
    with pytest.raises(FetchError, match="certificate of the server is not valid"):
        transfer(make(url, "data"), tmp_path)


def test_https_does_not_lead_to_http(secure, site, content, make, tmp_path, trusted):
    url = secure.serve(PATH, b"", to(site.serve("/plain", content) + "?token=1234"))
    with pytest.raises(FetchError, match=r"from https to http.*anybody on the way") as caught:
        transfer(make(url, "data"), tmp_path)
    assert "1234" not in str(caught.value)
    assert site.asked == []


def test_nobody_is_there(make, tmp_path, waits):
    with pytest.raises(FetchError, match=r"cannot be reached .*Given up after 8 tries"):
        transfer(make("http://127.0.0.1:9/data", "data"), tmp_path)
    assert len(waits) == 7


@pytest.mark.parametrize("fault", ["status", "page", "silence", "wrong", "range", "reset"])
def test_no_secret_is_shown_logged_or_stored(
    site, faults, content, make, tmp_path, netrc, caplog, fault, monkeypatch, request
):
    caplog.set_level(logging.DEBUG)
    bad = {
        "status": faults.status(403),
        "page": faults.body(b"<html><title>Log in</title>"),
        "silence": faults.status(503),
        "wrong": faults.body(content[::-1]),
        "range": faults.cut(3000),
        "reset": faults.cut(0, reset=True),
    }[fault]
    url = site.serve(PATH, content, faults.cut(1000), always=bad) + "?X-Amz-Signature=5ec2e7&token=5ec2e7"
    folder = tmp_path / "toy"
    with pytest.raises(FetchError) as caught:
        transfer(make(url, "data", sha256="0" * 64), folder)
    import traceback

    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    stored = "".join(p.read_text() for p in (folder / ".atlas").rglob("*.json"))
    for secret in (SECRET, "5ec2e7"):
        assert secret not in told
        assert secret not in stored
    assert SECRET in site.asked[0].headers["authorization"]


def test_a_token_that_is_no_header(site, content):
    """The library would quote it."""
    import traceback

    with pytest.raises(FetchError, match="cannot be asked for") as caught:
        get(site.serve(PATH, content), headers={"Authorization": f"Bearer {SECRET}\n"})
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_addresses_are_shown_without_what_gives_access():
    assert shown("https://me:pass@host:8080/a/b?signature=1#x") == "https://host:8080/a/b"


def test_certificates_are_checked():
    context = clients.client()._transport._pool._ssl_context
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
