"""Tries the way to a model hub; runs inside the image, so it needs nothing but Python 3.8.

Reads its question from the environment and prints one line of JSON.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

_DNS_S = 4.2
"""Longest wait for a name; a container's own resolver is told to give up a little earlier."""
_ONE_DNS_S = 1.5
_HEADER = 12
_BUSY = 429
_SERVER_ERROR = 500
_PAUSE_S = 0.5
_ADDRESSES = 4


class Attempt:
    """One attempt and what has come of it so far."""

    def __init__(self, question: dict[str, Any]) -> None:
        self.question = question
        self.end = time.monotonic() + float(question["limit_s"])
        self.answer: dict[str, Any] = {
            "stage": "dns",
            "resolved": False,
            "problem": "",
            "status": None,
            "error_code": "",
            "error_message": "",
            "working_dns": "",
            "proxy": False,
            "token": bool(_token()),
        }

    def left_s(self) -> float:
        """Return the seconds that are left, a little in any case."""
        return max(0.5, self.end - time.monotonic())

    def say(self, problem: str = "") -> NoReturn:
        """Print the answer and end, whatever other threads wait for."""
        self.answer["problem"] = problem
        sys.stdout.write(f"\n{self.question['mark']}{json.dumps(self.answer)}\n")
        sys.stdout.flush()
        os._exit(0)

    def run(self) -> NoReturn:
        """Go through all stages: name, connection, TLS, answer."""
        hub = urlsplit(self.question["hub"])
        proxy = _proxy(hub)
        first = proxy or hub
        self.answer["proxy"] = proxy is not None
        host = first.hostname or ""
        port = first.port or (443 if first.scheme == "https" else 80)
        addresses = self.resolve(host, port)
        self.answer.update(stage="connect", resolved=True)
        self.connect(host, addresses)
        try:
            self.ask(hub, first, port)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.say(f"{type(error).__name__}: {error}")
        self.say()

    def resolve(self, host: str, port: int) -> list[Any]:
        """Resolve a name as vLLM will; give up early when all servers that were given are dead."""
        found: list[Any] = []
        problems: list[str] = []

        def look() -> None:
            try:
                found.extend(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
            except OSError as error:
                problems.append(str(error))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        given, waiting = _each(self.question["dns"], lambda server: _ask_dns(server, host))
        others, more = _each(self.question["others"], lambda server: _ask_dns(server, host))
        end = time.monotonic() + _DNS_S
        while thread.is_alive() and time.monotonic() < end and not _all_dead(given, self.question):
            thread.join(0.05)
        if found:
            return found
        for each in (*waiting, *more):
            each.join(min(_ONE_DNS_S, self.left_s()))
        works = [name for name in self.question["others"] if others.get(name) == "found"]
        self.answer["working_dns"] = works[0] if works else ""
        dead = f"nobody listens at {', '.join(sorted(given))}"
        silent = f"no DNS server answered within {_DNS_S:g} s"
        why = dead if _all_dead(given, self.question) else problems[0] if problems else silent
        return self.say(f"{host} cannot be resolved: {why}")

    def connect(self, host: str, addresses: list[Any]) -> None:
        """Open a connection to one of the addresses and close it again."""
        problem = ""
        for family, kind, number, _, address in addresses[:_ADDRESSES]:
            with socket.socket(family, kind, number) as door:
                door.settimeout(min(3.0, self.left_s() / 2))
                try:
                    door.connect(address)
                except OSError as error:
                    known = errno.errorcode.get(error.errno or 0, "timed out")
                    said = error.strerror or str(error)
                    problem = f"{address[0]} port {address[1]}: {said} ({known})"
                else:
                    return
        self.say(f"{host} cannot be reached: {problem}")

    def ask(self, hub: SplitResult, first: SplitResult, port: int) -> None:
        """Ask for the model's config; a hub that is busy is asked twice."""
        host, secure, by_proxy = first.hostname or "", hub.scheme == "https", first is not hub
        connection: http.client.HTTPConnection
        if secure:
            self.answer["stage"] = "tls"
            connection = http.client.HTTPSConnection(
                host, port, timeout=self.left_s(), context=_trust()
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self.left_s())
        if by_proxy and secure:
            connection.set_tunnel(hub.hostname or "", hub.port or 443)
        connection.connect()
        self.answer["stage"] = "http"
        path = hub.path.rstrip("/") + self.question["path"]
        if by_proxy and not secure:
            path = f"{hub.scheme}://{hub.netloc}{path}"
        reply = _head(connection, path, hub.netloc)
        if reply.status == _BUSY or reply.status >= _SERVER_ERROR:
            time.sleep(_PAUSE_S)
            connection.close()
            reply = _head(connection, path, hub.netloc)
        self.answer.update(
            stage="answered",
            status=reply.status,
            error_code=reply.headers.get("X-Error-Code") or "",
            error_message=reply.headers.get("X-Error-Message") or "",
        )


def _all_dead(given: dict[str, str], question: dict[str, Any]) -> bool:
    """Tell whether nobody listens at any of the DNS servers that were given."""
    servers = question["dns"]
    return bool(servers) and all(given.get(server) == "refused" for server in servers)


def _each(
    servers: list[str], work: Callable[[str], str]
) -> tuple[dict[str, str], list[threading.Thread]]:
    """Do the work for every server at the same time; the results come in by and by."""
    found: dict[str, str] = {}
    threads = []
    for server in servers:

        def run(server: str = server) -> None:
            found[server] = work(server)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
    return found, threads


def _ask_dns(server: str, name: str) -> str:
    """Send one question; return `found`, `refused` (nobody listens), `failed` or `silent`."""
    labels = [part.encode("idna") for part in name.rstrip(".").split(".")]
    packed = b"".join(bytes([len(label)]) + label for label in labels)
    packet = struct.pack(">6H", 0x5056, 0x0100, 1, 0, 0, 0) + packed + struct.pack(">B2H", 0, 1, 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as door:
        door.settimeout(_ONE_DNS_S)
        try:
            door.connect((server, 53))
            door.send(packet)
            reply = door.recv(4096)
        except (socket.timeout, TimeoutError):  # noqa: UP041 - two kinds before Python 3.10
            return "silent"
        except OSError:
            return "refused"
    if len(reply) < _HEADER:
        return "failed"
    flags, _, answers = struct.unpack(">3H", reply[2:8])
    return "found" if flags & 15 == 0 and answers else "failed"


def _proxy(hub: SplitResult) -> SplitResult | None:
    """Return the proxy that the environment names for the hub."""
    named = urllib.request.getproxies().get(hub.scheme)
    if not named or urllib.request.proxy_bypass(hub.hostname or ""):
        return None
    return urlsplit(named if "://" in named else f"http://{named}")


def _trust() -> ssl.SSLContext:
    """Trust whom vLLM's client trusts: named certificates, else certifi's, else the system's."""
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    if not named:
        try:
            from certifi import where  # noqa: PLC0415 - it may not be there
        except ImportError:
            pass
        else:
            named = where()
    return ssl.create_default_context(cafile=named or None)


def _token() -> str:
    """Return the token that vLLM's client would send: a variable's, else the one of a login."""
    named = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if named:
        return named.strip()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{base}/huggingface"
    file = os.environ.get("HF_TOKEN_PATH") or f"{home}/token"
    try:
        with open(os.path.expanduser(file), encoding="utf-8") as stream:  # noqa: PTH111, PTH123
            return stream.read().strip()
    except (OSError, ValueError):
        return ""


def _head(connection: http.client.HTTPConnection, path: str, host: str) -> http.client.HTTPResponse:
    """Send the question and read the answer to its end."""
    headers = {"Host": host, "User-Agent": "pytest-vllm", "Accept-Encoding": "identity"}
    token = _token()
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection.request("HEAD", path, headers=headers)
    reply = connection.getresponse()
    reply.read()
    return reply


if __name__ == "__main__":
    Attempt(json.loads(os.environ["PYTEST_VLLM_QUESTION"])).run()
