"""Files of a model on the Hub, or parts of them; what it refuses, as errors that a user can mend.

The answers of a Hub: https://huggingface.co/docs/hub/api and, for errors, the headers that
huggingface_hub reads (`X-Error-Code`).
"""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, urlsplit
from urllib.request import getproxies

import httpx

from pytest_vllm.adapters.http import is_loopback
from pytest_vllm.adapters.known_models import similar
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

_HUB = "https://huggingface.co"
_CONNECT_S = 5.0
"""For a name to be resolved, and again for a connection."""
_READ_S = 10.0
"""Without an answer; `HF_HUB_DOWNLOAD_TIMEOUT` may say otherwise, as for huggingface_hub."""
_LIMIT_S = 60.0
"""For everything; a model of 163 files takes some seconds."""
_LARGEST_JSON = 200_000_000
_PIECE = 65_536
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt")
_OK, _PARTIAL = 200, 206
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _LIMITED = 401, 403, 404, 429


class MissingFileError(Exception):
    """The repository has no such file."""


class NoPartsError(Exception):
    """The Hub sends whole files only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A file, or a part of it.

    Attributes:
        body: What was sent.
        total_bytes: Size of the whole file, 0 when the Hub does not say.
    """

    body: bytes
    total_bytes: int


class HubRepository:
    """Files of one revision of a model.

    Args:
        name: ID on the Hub.
        env: Our environment.
        revision: Branch, tag or commit.

    Raises:
        TargetError: `HF_ENDPOINT` is no URL.
    """

    def __init__(self, name: str, env: Mapping[str, str], revision: str) -> None:
        self._name = name
        self._revision = revision
        self._env = env
        self._hub = _endpoint(env)
        token = _token(env)
        patience = _patience(env)
        self._connect_s = min(patience, _CONNECT_S)
        self._ends = time.monotonic() + _LIMIT_S
        self._known = bool(token)
        # httpx sends the token to no other host when the Hub redirects to its storage.
        self._client = httpx.Client(
            headers={
                "user-agent": "pytest-vllm",
                "accept-encoding": "identity",
                **({"authorization": f"Bearer {token}"} if token else {}),
            },
            follow_redirects=True,
            trust_env=not is_loopback(self._hub),
            timeout=httpx.Timeout(patience, connect=self._connect_s),
        )

    def __enter__(self) -> Self:
        """Raise `HostError` when the Hub's name leads nowhere."""
        self._look_up()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._client.close()

    def _look_up(self) -> None:
        """Resolve the Hub's name within a limit, which neither httpx nor the C library has.

        Behind a proxy it is the proxy that resolves it.
        """
        parts = urlsplit(self._hub)
        if parts.scheme in getproxies() or not parts.hostname:
            return
        found: list[OSError | None] = []

        def resolve() -> None:
            try:
                socket.getaddrinfo(parts.hostname, None)
                found.append(None)
            except OSError as error:
                found.append(error)

        thread = threading.Thread(target=resolve, daemon=True)
        thread.start()
        thread.join(self._connect_s)
        error = found[0] if found else TimeoutError(f"no answer from DNS in {self._connect_s:g} s")
        if error is not None:
            raise self._unreachable(error)

    def get(self, file: str) -> bytes:
        """Return a whole file of text."""
        return self._get(self._url(file)).body

    def part(self, file: str, *, first: int, last: int) -> Piece:
        """Return the bytes of a file from the first to the last, or fewer where it ends."""
        return self._get(self._url(file), first=first, last=last)

    def other_weights(self) -> int | None:
        """Return the size of weights that are no safetensors, `None` when there are none."""
        url = f"{self._hub}/api/models/{self._name}/tree/{quote(self._revision, safe='')}"
        try:
            entries = json.loads(self._get(url).body)
        except (MissingFileError, ValueError):
            return None
        for suffix in _OTHER_WEIGHTS:
            sizes = [
                int(entry["size"])
                for entry in entries
                if isinstance(entry, dict) and str(entry.get("path", "")).endswith(suffix)
            ]
            if sizes:
                return sum(sizes)
        return None

    def _url(self, file: str) -> str:
        return f"{self._hub}/{self._name}/resolve/{quote(self._revision, safe='')}/{file}"

    def _get(self, url: str, *, first: int = 0, last: int | None = None) -> Piece:
        """Send one request; a part of a file is asked for with its last byte."""
        headers = {} if last is None else {"range": f"bytes={first}-{last}"}
        limit = _LARGEST_JSON if last is None else last - first + 1
        try:
            with self._client.stream("GET", url, headers=headers) as answer:
                if answer.status_code not in (_OK, _PARTIAL):
                    self._read(answer, _PIECE)
                    raise self._refused(answer, url)
                if first and answer.status_code == _OK:
                    raise NoPartsError(f"{self._hub} sends no parts of files")
                return Piece(body=self._read(answer, limit), total_bytes=_size(answer))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None

    def _read(self, answer: httpx.Response, limit: int) -> bytes:
        """Read a body; the connection of one that has more than the limit is closed."""
        body = bytearray()
        for piece in answer.iter_bytes(_PIECE):
            body += piece
            if time.monotonic() > self._ends:
                raise HostError(f"{self._hub} took more than {_LIMIT_S:.0f} s")
            if len(body) > limit:
                break
        return bytes(body[:limit])

    def _refused(self, answer: httpx.Response, url: str) -> Exception:
        code, status = answer.headers.get("x-error-code", ""), answer.status_code
        if code == "EntryNotFound" or (status == _NOT_FOUND and not code):
            return MissingFileError(url)
        if code == "RevisionNotFound":
            return TargetError(
                f"{self._name} has no revision {self._revision!r}",
                advice="correct --revision or leave it out",
            )
        if code == "GatedRepo" or status == _FORBIDDEN:
            step = "wait until access is granted" if self._known else "set HF_TOKEN"
            return TargetError(
                f"{self._name} is gated, and {self._hub} does not show its files to "
                + ("the owner of this token" if self._known else "everybody"),
                advice=f"accept its licence on {self._hub}/{self._name} and {step}, or name a "
                "folder with its config.json",
            )
        if status == _UNAUTHORIZED and not code and self._known:
            return TargetError(f"{self._hub} refuses the token", advice="correct HF_TOKEN")
        if status in (_UNAUTHORIZED, _NOT_FOUND):
            hidden = "" if self._known else ", or it is private"
            return TargetError(
                f"{self._hub} has no model {self._name}{similar(self._name, self._env)}{hidden}",
                advice="correct the ID"
                + ("" if self._known else ", or set HF_TOKEN for a private one"),
            )
        said = "it limits requests" if status == _LIMITED else f"HTTP {status}"
        return HostError(
            f"{self._hub} did not answer for {self._name}: {said}",
            advice="try again later, or name a folder with its config.json",
        )

    def _unreachable(self, error: Exception) -> HostError:
        why = one_line(str(error) or type(error).__name__, 200)
        return HostError(
            f"{self._hub} cannot be reached: {why}",
            advice="name a folder or a config.json, or mend the way to the Hub "
            "(HF_ENDPOINT, HTTPS_PROXY)",
        )


def _endpoint(env: Mapping[str, str]) -> str:
    text = (env.get("HF_ENDPOINT") or _HUB).rstrip("/")
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise TargetError(
            f"HF_ENDPOINT={text!r} is no URL of a Hub",
            advice=f"write it as HF_ENDPOINT={_HUB}, or unset it",
        )
    return text


def _patience(env: Mapping[str, str]) -> float:
    text = env.get("HF_HUB_DOWNLOAD_TIMEOUT", "")
    return float(text) if text.isdecimal() and int(text) else _READ_S


def _size(answer: httpx.Response) -> int:
    """Return the size of a file that a part was sent of; 0 when the Hub does not say."""
    total = answer.headers.get("content-range", "").rpartition("/")[2]
    size: str = total or answer.headers.get("content-length", "")
    return int(size) if size.isdecimal() else 0


def _token(env: Mapping[str, str]) -> str:
    """Return the token as huggingface_hub finds it."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if env.get(name):
            return env[name].strip()
    home = env.get("HF_HOME") or f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    file = Path(env.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        return file.read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""
