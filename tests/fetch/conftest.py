"""A web server on this machine that does what servers do wrong, and a clock that costs no time."""

import contextlib
import datetime as dt
import hashlib
import ipaddress
import os
import random
import socket
import ssl
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

from atlas.fetch.download import Download
from atlas.fetch.transport import client as clients
from atlas.fetch.transport.retry import policy


@dataclass
class Asked:
    """A request that came."""

    path: str
    query: str
    headers: dict


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.rfile.read(int(self.headers.get("content-length", 0)))
        lower = {k.lower(): v for k, v in self.headers.items()}
        site = self.server.site
        with site.lock:
            site.asked.append(Asked(path, parts.query, lower))
            waiting = site.faults.get(path, [])
            fault = waiting.pop(0) if waiting else site.always.get(path)
        (fault or whole())(self, site.files.get(path), lower)

    do_POST = do_GET  # noqa: N815 - what http.server calls it

    def log_message(self, *_):
        pass

    def say(self, status, body=b"", *, cut=None, reset=False, length=None, chunked=False, **headers):
        """Answer; `cut`: break off after so many bytes of the body; `reset`: by RST rather than FIN."""
        self.send_response_only(status)
        for name, value in {"date": self.date_time_string(), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        if chunked:
            self.send_header("transfer-encoding", "chunked")
        elif length is not False:
            self.send_header("content-length", str(len(body) if length is None else length))
        self.end_headers()
        sent = body if cut is None else body[:cut]
        self._send(sent, chunked=chunked, finish=cut is None)
        if cut is not None or length is not None:
            self.hang_up(reset=reset)

    def _send(self, body, *, chunked, finish):
        if not chunked:
            self.wfile.write(body)
            return
        for i in range(0, len(body), 1000):
            piece = body[i : i + 1000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if finish:
            self.wfile.write(b"0\r\n\r\n")

    def hang_up(self, *, reset=False):
        self.wfile.flush()
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_):
        """Clients that hang up, and certificates that they refuse, are what is tested."""


class Site:
    """One server: files by path, faults to come (one for each request), and what was asked."""

    def __init__(self, tls=None):
        self.files, self.etags = {}, {}
        self.faults, self.always = {}, {}
        self.asked = []
        self.lock = threading.Lock()
        self._server = _Threads(("127.0.0.1", 0), _Handler)
        self._server.site = self
        self.scheme = "http"
        if tls is not None:
            self.scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def root(self):
        return f"{self.scheme}://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def serve(self, path, content, *faults, etag='"one"', always=None):
        """Put a file; the first requests for it meet the faults. Returns its address."""
        self.files[path], self.etags[path] = content, etag
        self.faults[path] = list(faults)
        if always is not None:
            self.always[path] = always
        return self.root + path

    def ranges(self):
        return [a.headers.get("range") for a in self.asked]


def whole(**say):
    """The file as a good server gives it: Range and If-Range, ETag."""

    def answer(handler, content, headers):
        if content is None:
            handler.say(404, b"nothing here")
            return
        etag = handler.server.site.etags.get(urlsplit(handler.path).path)
        start = _start(headers, etag)
        if start is None:
            handler.say(200, content, etag=etag, accept_ranges="bytes", **say)
        elif start >= len(content):
            handler.say(416, content_range=f"bytes */{len(content)}")
        else:
            where = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.say(206, content[start:], etag=etag, content_range=where, **say)

    return answer


def _start(headers, etag):
    if "range" not in headers or headers.get("if-range", etag) != etag:
        return None
    return int(headers["range"].removeprefix("bytes=").removesuffix("-"))


def cut(after, *, reset=False, **say):
    """Break off after so many bytes of the body."""
    return whole(cut=after, reset=reset, **say)


def status(code, body=b"", **headers):
    """Only a status."""
    return lambda handler, *_: handler.say(code, body, **headers)


def body(content, code=200, **say):
    """Another body, whatever was asked for."""
    return lambda handler, *_: handler.say(code, content, **say)


def silence(event):
    """Half of the file, and then nothing until the event is set."""

    def answer(handler, content, headers):
        start = _start(headers, '"one"') or 0
        half = (len(content) + start) // 2
        handler.send_response_only(206 if start else 200)
        handler.send_header("etag", '"one"')
        handler.send_header("content-length", str(len(content) - start))
        if start:
            handler.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(content[start:half])
        handler.wfile.flush()
        event.wait(60)
        handler.hang_up()

    return answer


@pytest.fixture
def faults():
    """What a server may do instead of what it should."""
    return SimpleNamespace(whole=whole, cut=cut, status=status, body=body, silence=silence)


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Durations that would have been slept; connections are closed in the end."""
    slept = []
    monkeypatch.setattr(policy, "sleep", slept.append)
    monkeypatch.setattr(policy, "random", lambda: 1.0)
    monkeypatch.setattr(policy, "progress", 1)
    monkeypatch.setattr(policy, "spare", 0)
    monkeypatch.setenv("NETRC", os.devnull)
    yield slept
    clients.client().close()
    clients._client.cache_clear()


@pytest.fixture
def site():
    with contextlib.closing(Site()) as server:
        yield server


@pytest.fixture
def other():
    """A second server: to browsers another origin."""
    with contextlib.closing(Site()) as server:
        yield server


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A certificate for 127.0.0.1 that nobody vouches for, and its key, in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(certificate.public_bytes(pem) + private)
    return path


@pytest.fixture
def secure(authority):
    """A server with https."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    with contextlib.closing(Site(context)) as server:
        yield server


@pytest.fixture
def content():
    """Bytes that no text and no archive looks like."""
    return random.Random(3).randbytes(20_000)


@pytest.fixture
def make():
    """Describe a download; with `of` its size and sha256 are those of these bytes."""

    def download(url, target="data.nii.gz", *, of=None, **known):
        if of is not None:
            known = {"size": len(of), "sha256": hashlib.sha256(of).hexdigest(), **known}
        return Download("toy", url, target, **known)

    return download
