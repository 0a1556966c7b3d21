"""Read from the Hub what a forecast needs of a model: config, sizes and headers, no weights.

The answers of a Hub: https://huggingface.co/docs/hub/api and, for errors, the headers that
huggingface_hub reads (`X-Error-Code`).
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import httpx

from pytest_vllm.adapters.http import is_loopback
from pytest_vllm.adapters.model_facts import is_hub_id
from pytest_vllm.adapters.model_memory import as_object, similar
from pytest_vllm.adapters.safetensors_headers import LENGTH_BYTES, HeaderError, header_bytes, parse
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.shape import UnknownShape
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.memory.weights import Tensor

_HUB = "https://huggingface.co"
_CONNECT_S = 5.0
_READ_S = 10.0
"""Without an answer; `HF_HUB_DOWNLOAD_TIMEOUT` may say otherwise, as for huggingface_hub."""
_LIMIT_S = 60.0
"""For all headers; a model of 163 files takes some seconds."""
_AT_A_TIME = 8
_FIRST_BYTES = 100_000
"""Of each file at first; most headers are shorter, and a longer one costs a second request."""
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_LARGEST_JSON = 200_000_000
_PIECE = 65_536
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt")
_OK, _PARTIAL = 200, 206
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _LIMITED = 401, 403, 404, 429


class _MissingError(Exception):
    """The repository has no such file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A file, or a part of it.

    Attributes:
        body: What was sent.
        total_bytes: Size of the whole file.
    """

    body: bytes
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    tensors: tuple[Tensor, ...] = ()
    total_bytes: int | None = None
    notes: tuple[str, ...] = ()


def read_hub(name: str, *, env: Mapping[str, str], revision: str | None = None) -> ModelMemory:
    """Ask the Hub for a model's config and for the headers of its weights.

    Args:
        name: ID on the Hub.
        env: Our environment: `HF_ENDPOINT`, `HF_TOKEN`, ...
        revision: Branch, tag or commit.

    Raises:
        TargetError: The Hub does not have it, or does not show it to this user.
        HostError: The Hub cannot be reached, or has no time.
    """
    if not is_hub_id(name):
        raise TargetError(
            f"{name!r} is no path and no ID of a model",
            advice="name a folder, a config.json, or OWNER/NAME",
        )
    with _Repository(name, env, revision or "main") as repository:
        try:
            shape = read_shape(as_object(repository.get("config.json"), f"config.json of {name}"))
        except _MissingError:
            shape = UnknownShape(reason=f"{name} has no config.json")
        weights = _read_weights(repository)
    if isinstance(shape, UnknownShape) and not weights.tensors and not weights.total_bytes:
        raise TargetError(
            f"{name} has neither a config.json that is known nor weights: {shape.reason}",
            advice="name a model of transformers' format",
        )
    return ModelMemory(
        name=name,
        shape=shape,
        tensors=weights.tensors,
        files_bytes=weights.total_bytes,
        source="Hub",
        notes=weights.notes,
    )


def _read_weights(repository: _Repository) -> _Weights:
    """Read all headers, or say why the weights are known less well."""
    try:
        index = as_object(repository.get(_INDEX), _INDEX)
        names = sorted({str(file) for file in index["weight_map"].values()})
    except _MissingError:
        names = [_SINGLE]
    except (TargetError, KeyError, AttributeError):
        return _Weights(notes=(f"{_INDEX} is broken: the weights are reckoned from the config",))
    try:
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            headers = list(pool.map(repository.header, names))
    except _MissingError:
        return _Weights(total_bytes=repository.other_weights())
    except (HeaderError, HostError) as error:
        why = one_line(error.args[0], 200)
        return _Weights(notes=(f"{why}: the weights are reckoned from the config",))
    return _Weights(
        tensors=tuple(tensor for tensors, _ in headers for tensor in tensors),
        total_bytes=sum(size for _, size in headers),
    )


class _Repository:
    """Files of one revision of a model.

    Args:
        name: ID on the Hub.
        env: Our environment.
        revision: Branch, tag or commit.
    """

    def __init__(self, name: str, env: Mapping[str, str], revision: str) -> None:
        self._name = name
        self._revision = revision
        self._env = env
        self._hub = (env.get("HF_ENDPOINT") or _HUB).rstrip("/")
        token = _token(env)
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
            timeout=_timeout(env),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, file: str) -> bytes:
        """Return a whole file of text."""
        return self._get(self._url(file)).body

    def header(self, file: str) -> tuple[tuple[Tensor, ...], int]:
        """Return the tensors of a file and its size."""
        answer = self._get(self._url(file), first=0, last=_FIRST_BYTES - 1)
        end = LENGTH_BYTES + header_bytes(answer.body)
        raw = answer.body[:end]
        if len(raw) < end <= answer.total_bytes:
            raw += self._get(self._url(file), first=len(raw), last=end - 1).body
        if len(raw) < end:
            raise HeaderError(f"{file} on the Hub has no header of safetensors")
        return parse(raw[LENGTH_BYTES:]), answer.total_bytes

    def other_weights(self) -> int | None:
        """Return the size of weights that are no safetensors, `None` when there are none."""
        url = f"{self._hub}/api/models/{self._name}/tree/{quote(self._revision, safe='')}"
        try:
            entries = json.loads(self._get(url).body)
        except (_MissingError, ValueError):
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

    def _get(self, url: str, *, first: int = 0, last: int | None = None) -> _Answer:
        """Send one request; a part of a file is asked for with its last byte."""
        headers = {} if last is None else {"range": f"bytes={first}-{last}"}
        limit = _LARGEST_JSON if last is None else last - first + 1
        try:
            with self._client.stream("GET", url, headers=headers) as answer:
                if answer.status_code not in (_OK, _PARTIAL):
                    raise self._refused(answer, url)
                if first and answer.status_code == _OK:
                    raise HeaderError(f"{self._hub} sends no parts of files")
                return _Answer(body=self._read(answer, limit), total_bytes=_size(answer))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None

    def _read(self, answer: httpx.Response, limit: int) -> bytes:
        """Read a body up to a limit; the connection of one that has more is closed."""
        body = bytearray()
        for piece in answer.iter_bytes(_PIECE):
            body += piece
            if time.monotonic() > self._ends:
                raise HostError(f"{self._hub} took more than {_LIMIT_S:.0f} s")
            if len(body) >= limit:
                break
        return bytes(body[:limit])

    def _refused(self, answer: httpx.Response, url: str) -> Exception:
        code, status = answer.headers.get("x-error-code", ""), answer.status_code
        if code == "EntryNotFound" or (status == _NOT_FOUND and not code):
            return _MissingError(url)
        if code == "RevisionNotFound":
            return TargetError(
                f"{self._name} has no revision {self._revision!r}", advice="correct --revision"
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
        return HostError(
            f"{self._name} is neither in the Hub cache nor in the shipped table"
            f"{similar(self._name, self._env)}, and {self._hub} cannot be reached: "
            f"{one_line(str(error) or type(error).__name__, 200)}",
            advice="name a folder or a config.json, or mend the way to the Hub "
            "(HF_ENDPOINT, HTTPS_PROXY)",
        )


def _timeout(env: Mapping[str, str]) -> httpx.Timeout:
    text = env.get("HF_HUB_DOWNLOAD_TIMEOUT", "")
    seconds = float(text) if text.isdecimal() and int(text) else _READ_S
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_S))


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
