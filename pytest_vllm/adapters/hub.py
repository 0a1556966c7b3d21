"""Read from the Hub what a forecast needs of a model: config, sizes and headers, no weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.hub_files import HubRepository, MissingFileError, NoPartsError
from pytest_vllm.adapters.model_facts import is_hub_id
from pytest_vllm.adapters.model_memory import as_object, with_quantization
from pytest_vllm.adapters.safetensors_headers import (
    LENGTH_BYTES,
    HeaderError,
    header_bytes,
    parse,
    together,
)
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.shape import ModelShape, UnknownShape
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.adapters.safetensors_headers import Row
    from pytest_vllm.domain.memory.weights import Tensor

_AT_A_TIME = 8
_FIRST_BYTES = 100_000
"""Of each file at first; most headers are shorter, and a longer one costs a second request."""
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_FLOATS = ("BF16", "F16", "F32")
"""Types of weights that are stored as they are; of others a file may say how."""


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
    with HubRepository(name, env, revision or "main") as repository:
        raw = _optional(repository, "config.json", of=name)
        weights = _read_weights(repository)
        notes: tuple[str, ...] = ()
        shape: ModelShape | UnknownShape = UnknownShape(reason=f"{name} has no config.json")
        if raw is not None:
            if any(tensor.dtype not in _FLOATS for tensor in weights.tensors):
                raw, notes = with_quantization(raw, partial(_optional, repository, of=name))
            shape = read_shape(raw)
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
        notes=(*notes, *weights.notes),
    )


def _optional(repository: HubRepository, file: str, *, of: str) -> dict[str, Any] | None:
    try:
        return as_object(repository.get(file), f"{file} of {of}")
    except MissingFileError:
        return None


def _read_weights(repository: HubRepository) -> _Weights:
    """Read all headers, or say why the weights are known less well."""
    try:
        index = as_object(repository.get(_INDEX), _INDEX)
        names = sorted({str(file) for file in index["weight_map"].values()})
    except MissingFileError:
        names = [_SINGLE]
    except (TargetError, KeyError, AttributeError):
        return _Weights(notes=(f"{_INDEX} is broken: the weights are reckoned from the config",))
    try:
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            headers = list(pool.map(partial(_header, repository), names))
    except MissingFileError:
        return _Weights(total_bytes=repository.other_weights())
    except (HeaderError, HostError, NoPartsError) as error:
        why = one_line(error.args[0], 200)
        return _Weights(notes=(f"{why}: the weights are reckoned from the config",))
    return _Weights(
        tensors=together(row for rows, _ in headers for row in rows),
        total_bytes=sum(size for _, size in headers),
    )


def _header(repository: HubRepository, file: str) -> tuple[list[Row], int]:
    """Return the tensors of a file and its size."""
    start = repository.part(file, first=0, last=_FIRST_BYTES - 1)
    end = LENGTH_BYTES + header_bytes(start.body)
    raw = start.body[:end]
    if len(raw) < end <= start.total_bytes:
        raw += repository.part(file, first=len(raw), last=end - 1).body
    if len(raw) < end:
        raise HeaderError(f"{file} on the Hub has no header of safetensors")
    return parse(raw[LENGTH_BYTES:]), start.total_bytes
