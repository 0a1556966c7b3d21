"""A registry of images on loopback: small, honest for one repository, broken in others.

It speaks as much of https://distribution.github.io/distribution/spec/api/ as a pull needs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ERRORS = {
    "missing": (404, "MANIFEST_UNKNOWN", "manifest unknown"),
    "denied": (403, "DENIED", "requested access to the resource is denied"),
    "login": (401, "UNAUTHORIZED", "authentication required"),
    "limited": (429, "TOOMANYREQUESTS", "You have reached your pull rate limit"),
}
"""Repositories whose manifest is refused: status, code and message."""
SLOW = "slow"
"""Repository whose last layer stops in the middle, until the registry closes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that starts nothing.

    Attributes:
        manifest: Its manifest.
        blobs: Configuration and layers by digest.
    """

    manifest: bytes
    blobs: dict[str, bytes]


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def make_image(sizes: tuple[int, ...], *, seed: int) -> Image:
    """Make an image with a layer of so many random bytes each."""
    source = random.Random(seed)  # noqa: S311 - the same bytes each time
    layers = [_layer(f"file{number}", source.randbytes(size)) for number, size in enumerate(sizes)]
    packed = [gzip.compress(layer, mtime=0) for layer in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/file0"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(CONFIG, config),
        "layers": [_descriptor(LAYER, layer) for layer in packed],
    }
    blobs = {digest(blob): blob for blob in (config, *packed)}
    return Image(manifest=json.dumps(manifest).encode(), blobs=blobs)


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(blob), "digest": digest(blob)}


def _layer(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


class _Handler(BaseHTTPRequestHandler):
    """Hands out one image; the name of the repository decides how."""

    protocol_version = "HTTP/1.1"
    image: Image
    closing: threading.Event

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        words = self.path.strip("/").split("/")
        if words == ["v2"]:
            self._answer(200, "application/json", b"{}")
        elif words[-2] == "manifests" and words[1] in ERRORS:
            status, code, message = ERRORS[words[1]]
            body = {"errors": [{"code": code, "message": message}]}
            self._answer(status, "application/json", json.dumps(body).encode())
        elif words[-2] == "manifests":
            self._answer(200, MANIFEST, self.image.manifest)
        else:
            blob = self.image.blobs[words[-1]]
            last = json.loads(self.image.manifest)["layers"][-1]["digest"]
            self._answer(200, LAYER, blob, stops=words[1] == SLOW and words[-1] == last)

    def _answer(self, status: int, kind: str, body: bytes, *, stops: bool = False) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("docker-content-digest", digest(body))
        if status == 401:
            self.send_header("www-authenticate", 'Basic realm="registry"')
        self.end_headers()
        if self.command == "HEAD":
            return
        if stops:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.closing.wait()
            self.close_connection = True
        else:
            self.wfile.write(body)


@contextmanager
def serve(image: Image) -> Iterator[str]:
    """Serve the image; give `HOST:PORT`."""
    handler = type("Handler", (_Handler,), {"image": image, "closing": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        handler.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
