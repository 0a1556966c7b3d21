"""Knocks at the URL of a server that somebody else runs."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_vllm.adapters.facts.host import HERE, Roots
from pytest_vllm.domain.facts.client import ClientFacts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KNOCK_S = 1.0
_PORTS = {"http": 80, "https": 443}
_MODULE = b"vllm.entrypoints.openai.api_server"
_VLLM_PORT = b"8000"


def gather_client(url: str, *, limit_s: float = KNOCK_S, roots: Roots = HERE) -> ClientFacts:
    """Connect once. Never raises.

    Args:
        url: Base URL of the server.
        limit_s: Limit for the connection.
        roots: Where processes are seen.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80)
    errors = _knock(host, port, limit_s)
    refused = any(error.errno == errno.ECONNREFUSED for error in errors)
    first = next(
        (e for e in errors if e.errno == errno.ECONNREFUSED), errors[0] if errors else None
    )
    problem = "" if first is None else first.strerror or str(first) or type(first).__name__
    return ClientFacts(
        url=url,
        host=host,
        port=port,
        loopback=_is_loopback(host),
        refused=refused,
        problem=problem,
        server_here=bool(problem) and _sees_server(roots.proc, port),
    )


def _knock(host: str, port: int, limit_s: float) -> tuple[OSError, ...]:
    """Connect to any address of the host; return what went wrong at each of them."""
    try:
        socket.create_connection((host, port), timeout=limit_s, all_errors=True).close()
    except OSError as error:  # the name cannot be resolved
        return (error,)
    except ExceptionGroup as group:
        return tuple(error for error in group.exceptions if isinstance(error, OSError))
    return ()


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _sees_server(proc: Path, port: int) -> bool:
    """Tell whether a vLLM server that will take this port runs here; it may still be loading."""
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        names = [word.rpartition(b"/")[2] for word in words[:3]]
        serves = (b"vllm" in names and b"serve" in words) or _MODULE in words
        if serves and _port_of(words) in ("", str(port)):
            return True
    return False


def _port_of(words: Sequence[bytes]) -> str:
    """Return the port that a server will take, empty when a file says it."""
    port = b"" if b"--config" in words else _VLLM_PORT
    for word, following in zip(words, [*words[1:], b""], strict=True):
        if word == b"--port":
            port = following
        elif word.startswith(b"--port="):
            port = word.partition(b"=")[2]
    return port.decode("utf-8", "replace")
