"""A publisher on this machine: serves a folder as `atlas.phantom.publish` lays it out, by the protocols of all sources.

Web servers, Google Drive, Synapse and the Hugging Face Hub are one small HTTP server; S3 is moto.
"""

import hashlib
import json
import logging
import re
import threading
import time
import zlib
from collections import Counter
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

TOKEN = "made-up-token"
"""What Synapse and the hub ask for."""

ACCOUNT = "123456789012"
"""moto's."""

PIECE = 16 * 1024
"""Bytes at a time of a slow answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with self.server.watch(self):
            self.answer()

    def answer(self):
        parts = urlsplit(self.path)
        for pattern, answer in ROUTES:
            if found := re.fullmatch(pattern, unquote(parts.path)):
                return answer(self, *found.groups(), query=parse_qs(parts.query))
        return self.say(404)

    do_HEAD = do_GET  # noqa: N815 - what http.server calls it

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/repo/v1/entity/child" or not self.known():
            return self.say(404)
        entity = self.server.entity(asked["parentId"], asked["entityName"])
        return self.say(200, json.dumps({"id": entity}).encode())

    def log_message(self, *_):
        pass

    def known(self):
        """Whether the one who asks has a token."""
        return self.headers.get("authorization") == f"Bearer {TOKEN}"

    def say(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self, path):
        """A file, or the part of it that Range asks for (RFC 9110 14.2), if it is still the same (13.1.5)."""
        place = self.server.root / path
        if not place.is_file() or self.server.root not in place.resolve().parents:
            return self.say(404)
        content = place.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if not asked or self.headers.get("if-range", tag) != tag:
            return self.say(200, content, etag=tag, accept_ranges="bytes")
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first > last:
            return self.say(416, content_range=f"bytes */{len(content)}")
        part = content[first : last + 1]
        return self.say(206, part, etag=tag, content_range=f"bytes {first}-{last}/{len(content)}")


def _web(handler, path, query):
    return handler.file(path)


def _drive(handler, query):
    return handler.file(f"gdrive/{query['id'][0]}")


def _resolve(handler, repository, path, query):
    return handler.file(f"hf/{repository}/{path}") if handler.known() else handler.say(401)


def _tree(handler, repository, under, query):
    """All files of a repository (https://huggingface.co/docs/hub/api), those of more than 1 kB in LFS."""
    base = handler.server.root / "hf" / repository
    entries = []
    for path in sorted(p for p in (base / (under or "")).rglob("*") if p.is_file()):
        content = path.read_bytes()
        entry = {"type": "file", "oid": "0", "size": len(content), "path": path.relative_to(base).as_posix()}
        if len(content) > 1000:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
        entries.append(entry)
    return handler.say(200 if handler.known() else 401, json.dumps(entries).encode(), content_type="application/json")


def _handles(handler, entity, query):
    if not handler.known():
        return handler.say(401)
    content = (handler.server.root / "synapse" / handler.server.places.get(entity, entity)).read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    return handler.say(200, json.dumps({"list": [{"contentSize": len(content), "contentMd5": md5}]}).encode())


def _signed(handler, entity, query):
    place = f"{handler.server.url}/synapse/{quote(handler.server.places.get(entity, entity))}"
    return handler.say(200, place.encode()) if handler.known() else handler.say(401)


ROUTES = (
    ("/((?:[^/]+/https?|synapse)/.*)", _web),
    ("/download", _drive),
    ("/(datasets/[^/]+/[^/]+)/resolve/[^/]+/(.*)", _resolve),
    ("/api/(datasets/[^/]+/[^/]+)/tree/[^/]+(?:/(.*))?", _tree),
    (r"/repo/v1/entity/(syn\d+)/filehandles", _handles),
    (r"/repo/v1/entity/(syn\d+)/file", _signed),
)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, root):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = Path(root).resolve()
        self.places = {}
        self.watch = lambda _: nullcontext()

    def handle_error(self, *_):
        """A client that is killed breaks off."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def entity(self, parent, name):
        """Id of a child of an entity of Synapse, which the server makes up as it is asked for."""
        place = f"{self.places.get(parent, parent)}/{name}"
        entity = f"syn{10**9 + zlib.crc32(place.encode())}"
        self.places[entity] = place
        return entity


class Watch:
    """Notes what is asked for, and how much at once of a host; `gate(path)` may hold an answer back.

    An answer whose path holds `slow` breaks into small pieces with pauses, until it is set to None.
    """

    def __init__(self, gate=lambda path: None):
        self.gate = gate
        self.slow = None
        self.asked = []
        self.now, self.most = Counter(), Counter()
        self.lock = threading.Lock()

    @contextmanager
    def __call__(self, handler):
        host = handler.headers["host"].partition(":")[0]
        with self.lock:
            self.asked.append((handler.path, handler.headers.get("range")))
            self.now[host] += 1
            self.most[host] = max(self.most[host], self.now[host])
        try:
            self.gate(handler.path)
            if self.slow and self.slow in handler.path:
                handler.wfile = _Drip(handler.wfile, self)
            yield
        finally:
            with self.lock:
                self.now[host] -= 1

    @property
    def paths(self):
        return [path for path, _ in self.asked]


class _Drip:
    """A stream that writes slowly."""

    def __init__(self, stream, watch):
        self.stream, self.watch = stream, watch

    def write(self, data):
        for start in range(0, len(data), PIECE):
            self.stream.write(data[start : start + PIECE])
            time.sleep(0.05 if self.watch.slow else 0)
        return len(data)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def until(condition, seconds=60):
    """Wait for something; returns whether it came about."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(found)


@contextmanager
def serving(root, watch=None):
    """Serve a folder; gives the base address. `watch(handler)` is a context that every request is answered in."""
    server = _Server(root)
    server.watch = watch or server.watch
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def buckets(root):
    """Serve the folders of `root/s3` as public buckets of an S3 server; gives its address. Fill them before."""
    from moto.s3.models import get_canned_acl, s3_backends
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    backend, public = s3_backends[ACCOUNT]["aws"], get_canned_acl("public-read")
    backend.reset()
    for bucket in sorted((Path(root) / "s3").iterdir()):
        backend.create_bucket(bucket.name, "us-east-1")
        for path in sorted(p for p in bucket.rglob("*") if p.is_file()):
            key = backend.put_object(bucket.name, path.relative_to(bucket).as_posix(), path.read_bytes())
            key.set_acl(public)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
        backend.reset()


def environment(site, web, s3, datasets, password):
    """Environment variables that lead clients here instead of to the services, and make them known there."""
    return {
        "AWS_ENDPOINT_URL": s3,
        "AWS_SKIP_SIGNATURE": "true",
        "HF_ENDPOINT": web,
        "HF_TOKEN": TOKEN,
        "ATLAS_GDRIVE_ENDPOINT": web,
        "ATLAS_SYNAPSE_ENDPOINT": web,
        "SYNAPSE_AUTH_TOKEN": TOKEN,
        "ATLAS_IDC_INDEX": str(Path(site) / "idc_index.parquet"),
        **{f"ATLAS_PASSWORD_{name.upper()}": password for name in datasets},
    }
