"""Gather what a forecast needs to know of a model: from a folder, the Hub cache, a table, the Hub.

It is asked for an answer in the blink of an eye, so what only some ways need is imported there.
"""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.hub_cache import find_snapshot, hub_cache
from pytest_vllm.adapters.known_models import (
    CONFIG,
    NO_CONFIG,
    from_table,
    has_config,
    known_here,
    similar,
    unknown,
)
from pytest_vllm.adapters.model_table import listed_model
from pytest_vllm.adapters.safetensors_headers import HeaderError, read_files
from pytest_vllm.adapters.weight_files import POINTER, is_pointer, weight_names
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.shape import UnknownShape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = ("1", "ON", "YES", "TRUE")
_LARGEST_JSON = 20_000_000
_HOW = ("quantization_config", "compression_config")
_STORED = (
    ("hf_quant_config.json", ""),
    ("quant_config.json", "awq"),
    ("quantize_config.json", "gptq"),
)
"""Files beside the config: NVIDIA's, and those of old checkpoints, which vLLM reads when it is told
the method."""
_PULL = "fetch the files: git lfs pull"


class Network(StrEnum):
    """Whether the Hub may be asked."""

    NEVER = "never"
    NEEDED = "needed"
    """For a model that neither the cache nor the table knows."""
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """What the weight files of a folder tell."""

    tensors: tuple[Any, ...] = ()
    total_bytes: int | None = None
    notes: tuple[str, ...] = ()


def gather(
    name: str,
    *,
    env: Mapping[str, str],
    revision: str | None = None,
    network: Network = Network.NEEDED,
) -> ModelMemory:
    """Find a model and read its config, and the headers of its weights where they are at hand.

    A path counts before a name; for a name the Hub cache of this host counts before the shipped
    table, and that before the Hub, unless `network` says `ALWAYS`.

    Args:
        name: A folder, a `config.json`, or an ID on the Hub.
        env: Our environment: it names the Hub, its cache, a token, and may forbid the network.
        revision: Branch, tag or commit on the Hub.
        network: Whether the Hub may be asked.

    Raises:
        TargetError: There is no such model, or its files are broken.
        HostError: The Hub that would know it cannot be reached.
    """
    if not name.strip():
        raise TargetError("the name of the model is empty", advice=NO_CONFIG)
    path = Path(name).expanduser()
    if _exists(path):
        return _from_path(name, path)
    if name.startswith(("/", "./", "../", "~")) or path.suffix in (".json", ".gguf"):
        raise TargetError(f"there is no file and no folder {name!r}", advice=NO_CONFIG)
    if network is not Network.ALWAYS:
        snapshot = find_snapshot(hub_cache(env), name, revision)
        if snapshot is not None and has_config(snapshot):
            return _from_folder(name, snapshot, source="Hub cache")
        listed = listed_model(name) if revision is None else None
        found = from_table(name, listed) if listed is not None else None
        if found is not None:
            return found
    if network is Network.NEVER:
        raise unknown(name, env, revision, why="and the Hub is not asked (--offline)")
    if variable := next((key for key in _OFFLINE if env.get(key, "").upper() in _TRUE), None):
        why = f"and {variable}={env[variable]} forbids to ask the Hub"
        raise unknown(name, env, revision, why=why)
    return _from_hub(name, env, revision)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _from_hub(name: str, env: Mapping[str, str], revision: str | None) -> ModelMemory:
    from pytest_vllm.adapters.hub import read_hub  # noqa: PLC0415 - httpx

    try:
        return read_hub(name, env=env, revision=revision)
    except HostError as error:
        known = known_here(name, env, revision)
        if known is None:
            where = f"{name} is not known here, and {error.message}{similar(name, env)}"
            raise HostError(where, advice=error.advice) from None
        raise HostError(
            f"{error.message}; {known.where}", advice=f"{known.cure}, or {error.advice}"
        ) from None


def _from_path(name: str, path: Path) -> ModelMemory:
    if path.is_dir():
        return _from_folder(name, path, source="folder")
    if path.suffix == ".gguf":
        raise _gguf(name)
    raw, notes = with_quantization(read_object(path), _beside(path.parent))
    return ModelMemory(name=name, shape=read_shape(raw), source=CONFIG, notes=notes)


def _from_folder(name: str, folder: Path, *, source: str) -> ModelMemory:
    config = folder / CONFIG
    files = _read_files(folder)
    notes: tuple[str, ...] = ()
    if config.is_file() or config.is_symlink():
        raw, notes = with_quantization(read_object(config), _beside(folder))
        shape = read_shape(raw)
    elif any(folder.glob("*.gguf")):
        raise _gguf(name)
    elif files.total_bytes:
        shape = UnknownShape(reason=f"there is no {CONFIG} in {folder}")
    else:
        raise TargetError(f"there is no {CONFIG} and no weights in {name}", advice=NO_CONFIG)
    return ModelMemory(
        name=name,
        shape=shape,
        tensors=files.tensors,
        files_bytes=files.total_bytes,
        source=source,
        notes=(*notes, *files.notes),
    )


def _read_files(folder: Path) -> _Files:
    """Read headers and sizes; weights that are not all there tell nothing, and that is said."""
    names = weight_names(folder)
    if not names:
        return _Files()
    try:
        there = [folder / name for name in names if (folder / name).is_file()]
        whole = [path for path in there if not is_pointer(path)]
        if len(whole) < len(names):
            pointers, lost = len(there) - len(whole), len(names) - len(there)
            seen = {"not here": lost, "Git LFS pointers (git lfs pull)": pointers}
            what = ", ".join(f"{count} are {why}" for why, count in seen.items() if count)
            missing = f"of {len(names)} weight files {what}"
            return _Files(notes=(f"{missing}: the weights are reckoned from the config",))
        total = sum(path.stat().st_size for path in whole)
        if any(path.suffix != ".safetensors" for path in whole):
            return _Files(total_bytes=total)
        return _Files(tensors=read_files(whole), total_bytes=total)
    except HeaderError as error:
        return _Files(notes=(f"{error}: the weights are reckoned from the config",))
    except OSError as error:
        raise TargetError(
            f"the weights in {folder} cannot be read: {error.strerror}",
            advice="make them readable for this user",
        ) from None


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object of a file.

    Raises:
        TargetError: There is none.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise TargetError(f"{path} is neither a folder nor a file", advice=NO_CONFIG)
        if found.st_size > _LARGEST_JSON:
            raise TargetError(f"{path} has {found.st_size} bytes", advice=NO_CONFIG)
        return as_object(path.read_bytes(), str(path))
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror}", advice=NO_CONFIG) from None


def as_object(raw: bytes, name: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        TargetError: It is none; the message has the name.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        if raw.startswith(POINTER):
            raise TargetError(f"{name} is a Git LFS pointer", advice=_PULL) from None
        raise TargetError(f"{name} is no JSON: {error}", advice=NO_CONFIG) from None
    if not isinstance(value, dict):
        raise TargetError(f"{name} holds no JSON object", advice=NO_CONFIG)
    return value


def with_quantization(
    raw: dict[str, Any], read: Callable[[str], dict[str, Any] | None]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Add what tools write beside the config, as vLLM does, and say what it takes to be read.

    Args:
        raw: The config.
        read: Returns the object of a file beside it, `None` when there is no such file.
    """
    if not raw or any(key in raw for key in _HOW):
        return raw, ()
    for name, method in _STORED:
        found = read(name)
        if found is None:
            continue
        if not method:
            return {**raw, "quantization_config": found}, ()
        stored = str(found.get("quant_method") or method)
        note = f"{name} says how the weights are stored; vLLM reads it only with --quantization"
        config = {**raw, "quantization_config": {**found, "quant_method": stored}}
        return config, (f"{note} {stored}",)
    return raw, ()


def _beside(folder: Path) -> Callable[[str], dict[str, Any] | None]:
    return lambda name: read_object(folder / name) if (folder / name).is_file() else None


def _gguf(name: str) -> TargetError:
    return TargetError(
        f"{name} is GGUF, of whose weights vLLM makes something that no formula here knows",
        advice="name the model that it was made from",
    )
