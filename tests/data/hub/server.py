"""A stand-in for the Hub on addresses of this machine: it serves small folders and refuses.

The answers are those of huggingface.co, as its client library reads them (`X-Error-Code`,
`X-Error-Message`, `X-Repo-Commit`, `ETag`, `ratelimit`); see `Repository` for who gets what.

`python -m tests.data.hub.server PORT [ORG/NAME=FOLDER...]` runs it by hand.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import sys
import threading
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The only commit of every repository, which is its `main`."""
MEMBER = "hf_stand_in_member"
"""Token of somebody who may read gated repositories."""
STRANGER = "hf_stand_in_stranger"
"""Token of somebody who has not accepted any licence."""
GATED, LIMITED, DOWN = "org/gated", "org/limited", "org/down"
_PIECE = 65_536
_HUGE = 2**30
"""Files above it are sparse: a header, and a hole for weights that nobody reads."""
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<rev>[^/]+))?")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository of models and how it is guarded.

    Attributes:
        folder: Its files, `None` for a repository that only refuses.
        gated: Whether files are only for a token of `MEMBER`; the model's page is public.
        status: Answer to everything, 200 for a proper one.
        bytes_per_s: How fast files are sent; 0 as fast as can be.
    """

    folder: Path | None = None
    gated: bool = False
    status: int = 200
    bytes_per_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is no success."""

    status: int
    message: str
    code: str = ""
    headers: tuple[tuple[str, str], ...] = ()


_REFUSING = {
    GATED: Repository(gated=True),
    LIMITED: Repository(status=429),
    DOWN: Repository(status=503),
}
_BY_STATUS = {
    429: Refusal(
        status=429,
        message="We had to rate limit your IP. To continue using our service, create a HF account.",
        headers=(("ratelimit", '"resolvers";r=0;t=0'),),
    ),
    503: Refusal(status=503, message="Service Unavailable"),
}


class Hub:
    """The stand-in as a context; inside it listens, at its end all of it is gone.

    Args:
        repositories: What it serves, besides `GATED`, `LIMITED` and `DOWN`, which only refuse.
        hosts: Addresses of this machine to listen on, all on the same port.
        port: Port, 0 for a free one.
        certificate: File with a certificate and its key, for https.

    Attributes:
        requests: Method, path and status of each request so far.
    """

    def __init__(
        self,
        repositories: Mapping[str, Repository] | None = None,
        *,
        hosts: Sequence[str] = ("127.0.0.1",),
        port: int = 0,
        certificate: Path | None = None,
    ) -> None:
        self.requests: list[tuple[str, str, int]] = []
        self._repositories = {**_REFUSING, **(repositories or {})}
        self._hosts = tuple(hosts)
        self._port = port
        self._certificate = certificate
        self._servers: list[ThreadingHTTPServer] = []
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        handler = type("HubHandler", (_Handler,), {"hub": self})
        try:
            for host in self._hosts:
                server = ThreadingHTTPServer((host, self._port), handler)
                self._servers.append(server)
                self._encrypt(server)
                self._port = server.server_address[1]
                threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _encrypt(self, server: ThreadingHTTPServer) -> None:
        if self._certificate is None:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    def url(self, host: str = "") -> str:
        """Return the value for `HF_ENDPOINT`, on the first address by default."""
        scheme = "http" if self._certificate is None else "https"
        return f"{scheme}://{host or self._hosts[0]}:{self._port}"

    def find(self, name: str, *, token: str, wants_file: bool) -> Repository | Refusal:
        """Return what a client with this token may see of a repository, or why not."""
        if token not in ("", MEMBER, STRANGER):
            return Refusal(status=401, message="Invalid credentials in Authorization header")
        repository = self._repositories.get(name)
        if repository is None and token:
            return Refusal(status=404, code="RepoNotFound", message="Repository not found")
        if repository is None:
            # Whether it exists is nobody's business without a token.
            message = "Invalid username or password."
            return Refusal(status=401, code="RepoNotFound", message=message)
        if repository.status in _BY_STATUS:
            return _BY_STATUS[repository.status]
        if repository.gated and wants_file and token != MEMBER:
            return _locked(name, known=bool(token))
        return repository

    def pause(self, seconds: float) -> bool:
        """Wait between two pieces of a slow file; tells whether the stand-in is about to end."""
        return self._stopping.wait(seconds)


def _locked(name: str, *, known: bool) -> Refusal:
    message = f"Access to model {name} is restricted"
    if known:
        message += (
            " and you are not in the authorized list. "
            f"Visit https://huggingface.co/{name} to ask for access."
        )
        return Refusal(status=403, code="GatedRepo", message=message)
    message += ". You must have access to it and be authenticated to access it. Please log in."
    return Refusal(status=401, code="GatedRepo", message=message)


@cache
def _digest(file: Path) -> str:
    """Return a name of the content; that of a huge file is made from its head and its size."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size > _HUGE:
            return hashlib.sha256(stream.read(_PIECE) + str(size).encode()).hexdigest()
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api, file = _API.fullmatch(path), _FILE.fullmatch(path)
        match = api or file
        if match is None:
            self._refuse(Refusal(status=404, message="Not Found"))
            return
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        found = self.hub.find(match["repo"], token=token, wants_file=api is None)
        if isinstance(found, Refusal):
            self._refuse(found)
        elif match["rev"] not in (None, "main", COMMIT):
            message = f"Invalid rev id: {match['rev']}"
            self._refuse(Refusal(status=404, code="RevisionNotFound", message=message))
        elif api is not None:
            self._send_json(_describe(api, found))
        elif file is not None:
            self._send_file(found, file["file"])

    do_HEAD = do_GET  # noqa: N815 - the name that the base class looks for

    def _refuse(self, refusal: Refusal) -> None:
        headers = dict(refusal.headers)
        headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
        # The Hub's 503 comes from its proxy, which knows nothing of these headers.
        headers |= {"X-Error-Message": refusal.message} if refusal.status < 500 else {}
        self._head(refusal.status, len(refusal.message), headers)
        self._body([refusal.message.encode()])

    def _send_json(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self._head(200, len(body), {"Content-Type": "application/json", "X-Repo-Commit": COMMIT})
        self._body([body])

    def _send_file(self, repository: Repository, name: str) -> None:
        file = None if repository.folder is None else repository.folder / name
        if file is None or not file.is_file():
            self._refuse(Refusal(status=404, code="EntryNotFound", message="Entry not found"))
            return
        size = file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        first = int(asked[1]) if asked else 0
        last = min(int(asked[2]), size - 1) if asked and asked[2] else size - 1
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{_digest(file.resolve())}"',
            "Accept-Ranges": "bytes",
        }
        headers |= {"Content-Range": f"bytes {first}-{last}/{size}"} if asked else {}
        self._head(206 if asked else 200, last - first + 1, headers)
        with file.open("rb") as stream:
            stream.seek(first)
            self._body(_pieces(stream, last - first + 1), bytes_per_s=repository.bytes_per_s)

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.hub.requests.append((self.command, self.path, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _body(self, pieces: Any, *, bytes_per_s: int = 0) -> None:
        if self.command == "HEAD":
            return
        try:
            for piece in pieces:
                self.wfile.write(piece)
                if bytes_per_s and self.hub.pause(len(piece) / bytes_per_s):
                    self.close_connection = True
                    return
        except ConnectionError:  # the client has had enough
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Say nothing: `Hub.requests` holds what was asked."""


def _pieces(stream: Any, length: int) -> Any:
    while length > 0:
        piece = stream.read(min(_PIECE, length))
        if not piece:
            return
        length -= len(piece)
        yield piece


def _describe(asked: re.Match[str], repository: Repository) -> Any:
    """Return the model's page, or its list of files."""
    files = sorted(repository.folder.rglob("*")) if repository.folder is not None else []
    base = repository.folder or Path()
    names = {str(file.relative_to(base)): file for file in files if file.is_file()}
    if asked["what"] == "tree":
        return [
            {"type": "file", "oid": _digest(f.resolve())[:40], "size": f.stat().st_size, "path": n}
            for n, f in names.items()
        ]
    return {
        "id": asked["repo"],
        "modelId": asked["repo"],
        "config": _told(names.get("config.json")),
        "sha": COMMIT,
        "private": False,
        "gated": "manual" if repository.gated else False,
        "tags": [],
        "pipeline_tag": "text-generation",
        "siblings": [{"rfilename": name} for name in names],
    }


def _told(file: Path | None) -> Any:
    """Return what a model's page tells of its config; nothing of one that cannot be read."""
    try:
        config = json.loads(file.read_bytes()) if file is not None else {}
        return {key: config[key] for key in ("architectures", "model_type") if key in config}
    except (ValueError, TypeError):
        return {}


def main(words: list[str]) -> int:
    """Listen until the input ends."""
    port, *named = words
    pairs = (word.partition("=") for word in named)
    repositories = {name: Repository(folder=Path(folder)) for name, _, folder in pairs}
    with Hub(repositories, port=int(port)) as hub:
        print(hub.url(), flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
