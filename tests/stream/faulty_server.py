"""A web server on this machine that serves a folder, and does what object stores do wrong.

The same files answer as plain HTTP (`/toy.zarr/...`), as an S3 endpoint with the bucket in the path (`/bucket/...`) and
as the JSON interface of Google Cloud Storage (`/storage/v1/b/bucket/o/...`).
"""

import hashlib
import json
import re
import shutil
import socket
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

GCS = re.compile(r"^/storage/v1/b/([^/]+)/o/(.+)$")
CASE = re.compile(r".*/cases/[^/]+/[^/]+")
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@dataclass
class Fault:
    """What happens to requests whose path matches; `times` requests of them, after `after` that pass."""

    kind: str  # drop, stall, slow down, refuse, shorten, delete case
    pattern: str
    times: int = 1 << 30
    after: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        site = self.server.site
        path = _path(self.path)
        with site.lock:
            site.asked.append((self.command, path, self.headers.get("range")))
            site.signatures.append(self.headers.get("authorization", ""))
            fault = site.next_fault(path)
        if _wants_metadata(self.path) and not fault:
            self.describe(site.root / path.lstrip("/"))
        elif fault == "slow down":
            self.answer(503, SLOW_DOWN)
        elif fault == "refuse":
            self.answer(403, DENIED)
        else:
            self.serve(site.root / path.lstrip("/"), fault)

    do_HEAD = do_GET  # noqa: N815 - what http.server calls it

    def describe(self, file):
        """What Google Cloud Storage knows of an object."""
        about = {"name": file.name, "generation": "1", "metageneration": "1", "size": "1", "bucket": "bucket"}
        self.answer(200 if file.is_file() else 404, json.dumps(about).encode())

    def serve(self, file, fault):
        if fault == "delete case":
            shutil.rmtree(CASE.match(str(file)).group(), ignore_errors=True)
        if not file.is_file():
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        content = file.read_bytes()
        etag = '"' + hashlib.md5(content).hexdigest() + '"'
        headers = {"etag": etag, "x-goog-generation": str(int(etag[1:9], 16) + 1), "accept-ranges": "bytes"}
        if self.headers.get("if-none-match") == etag:
            self.answer(304, b"", headers)
            return
        if self.headers.get("if-match", etag) != etag:
            self.answer(412, b"")
            return
        status = 200
        if bounds := self.headers.get("range"):
            first, last = _bounds(bounds, len(content))
            headers["content-range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self.answer(status, content, headers, fault)

    def answer(self, status, body, headers=None, fault=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        half = body[: len(body) // 2]
        sent = body if fault is None else half
        self.send_header("content-length", str(len(sent if fault == "shorten" else body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(sent)
        if fault == "stall":
            self.wfile.flush()
            self.server.site.release.wait(60)
        if fault in {"stall", "drop"}:
            self.hang_up()

    def hang_up(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, *_):
        pass


def _path(target):
    parts = urlsplit(target)
    gcs = GCS.match(parts.path)
    return unquote("/" + "/".join(gcs.groups()) if gcs else parts.path)


def _wants_metadata(target):
    parts = urlsplit(target)
    return bool(GCS.match(parts.path)) and "alt=media" not in parts.query


def _bounds(text, size):
    first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", text).groups()
    if not first:
        return size - int(last), size - 1
    return int(first), min(int(last or size - 1), size - 1)


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_):
        """Clients that hang up are what is tested."""


class FaultyServer:
    """Serves what lies below `root`; `asked` holds (method, path, range) of each request."""

    def __init__(self, root):
        self.root = Path(root)
        self.faults, self.asked, self.signatures = [], [], []
        self.lock, self.release = threading.Lock(), threading.Event()
        self._server = _Threads(("127.0.0.1", 0), _Handler)
        self._server.site = self
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, *args, **kwargs):
        with self.lock:
            self.faults.append(Fault(*args, **kwargs))

    def next_fault(self, path):
        for fault in self.faults:
            if fault.times and re.search(fault.pattern, path):
                if fault.after:
                    fault.after -= 1
                    return None
                fault.times -= 1
                return fault.kind
        return None

    def signed_by(self):
        """Access keys of the requests."""
        return {re.search(r"Credential=([^/]*)", text).group(1) for text in self.signatures}

    def count(self, pattern):
        with self.lock:
            return sum(bool(re.search(pattern, path)) for _, path, _ in self.asked)

    def close(self):
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
