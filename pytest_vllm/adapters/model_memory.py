"""Gather what a forecast needs to know of a model: from a folder, the Hub cache, a table, the Hub.

It is asked for an answer in the blink of an eye, so what only some ways need is imported there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.hub_cache import find_snapshot, hub_cache
from pytest_vllm.adapters.model_table import listed_model, listed_models
from pytest_vllm.adapters.safetensors_headers import HeaderError, read_files
from pytest_vllm.adapters.weight_files import POINTER, is_pointer, weight_names
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.shape import UnknownShape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.adapters.model_table import ListedModel

_CONFIG = "config.json"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = ("1", "ON", "YES", "TRUE")
_LARGEST_JSON = 20_000_000
_NO_CONFIG = f"name a folder with a {_CONFIG}, such a file itself, or the ID of a model"


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
    path = Path(name).expanduser()
    try:
        exists = path.exists()
    except (OSError, ValueError):
        exists = False
    if exists:
        return _from_path(name, path)
    if not name or name.startswith(("/", "./", "../", "~")) or path.suffix in (".json", ".gguf"):
        raise TargetError(f"there is no file and no folder {name!r}", advice=_NO_CONFIG)
    if network is not Network.ALWAYS:
        snapshot = find_snapshot(hub_cache(env), name, revision)
        if snapshot is not None and (snapshot / _CONFIG).exists():
            return _from_folder(name, snapshot, source="Hub cache")
        listed = listed_model(name) if revision is None else None
        found = _from_table(name, listed) if listed is not None else None
        if found is not None:
            return found
    if network is Network.NEVER:
        raise _unknown(name, env, why="and the Hub is not asked (--offline)")
    if variable := next((key for key in _OFFLINE if env.get(key, "").upper() in _TRUE), None):
        raise _unknown(name, env, why=f"and {variable}={env[variable]} forbids to ask the Hub")
    from pytest_vllm.adapters.hub import read_hub  # noqa: PLC0415 - httpx

    return read_hub(name, env=env, revision=revision)


def _from_table(name: str, listed: ListedModel) -> ModelMemory | None:
    """Return what the table says, `None` when that is not enough to weigh the model."""
    shape, size = read_shape(listed.config), listed.files_bytes
    if isinstance(shape, UnknownShape):
        from pytest_vllm.adapters.knowledge import known_weights  # noqa: PLC0415 - it takes time

        size = known_weights(name) or size
        if size is None:
            return None
    return ModelMemory(name=name, shape=shape, files_bytes=size, source="shipped table")


def _from_path(name: str, path: Path) -> ModelMemory:
    if path.is_dir():
        return _from_folder(name, path, source="folder")
    if path.suffix == ".gguf":
        raise _gguf(name)
    shape = read_shape(_with_quantization(read_object(path), path.parent))
    return ModelMemory(name=name, shape=shape, source=_CONFIG)


def _from_folder(name: str, folder: Path, *, source: str) -> ModelMemory:
    config = folder / _CONFIG
    files = _read_files(folder)
    if config.is_file() or config.is_symlink():
        shape = read_shape(_with_quantization(read_object(config), folder))
    elif any(folder.glob("*.gguf")):
        raise _gguf(name)
    elif files.total_bytes:
        shape = UnknownShape(reason=f"there is no {_CONFIG} in {folder}")
    else:
        raise TargetError(f"there is no {_CONFIG} and no weights in {name}", advice=_NO_CONFIG)
    return ModelMemory(
        name=name,
        shape=shape,
        tensors=files.tensors,
        files_bytes=files.total_bytes,
        source=source,
        notes=files.notes,
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
            missing = f"{len(names) - len(whole)} of {len(names)} weight files are not here"
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
        if path.stat().st_size > _LARGEST_JSON:
            raise TargetError(f"{path} has {path.stat().st_size} bytes", advice=_NO_CONFIG)
        return as_object(path.read_bytes(), str(path))
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror}", advice=_NO_CONFIG) from None


def as_object(raw: bytes, name: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        TargetError: It is none; the message has the name.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        pointer = raw.startswith(POINTER)
        why = "it is what git leaves of a file that LFS did not fetch" if pointer else error
        raise TargetError(f"{name} is no JSON: {why}", advice=_NO_CONFIG) from None
    if not isinstance(value, dict):
        raise TargetError(f"{name} holds no JSON object", advice=_NO_CONFIG)
    return value


def _with_quantization(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Add what NVIDIA's tools write beside the config, as vLLM does."""
    other = folder / "hf_quant_config.json"
    if not raw or "quantization_config" in raw or not other.is_file():
        return raw
    return {**raw, "quantization_config": read_object(other)}


def _gguf(name: str) -> TargetError:
    return TargetError(
        f"{name} is GGUF, of whose weights vLLM makes something that no formula here knows",
        advice="name the model that it was made from",
    )


def _unknown(name: str, env: Mapping[str, str], *, why: str) -> TargetError:
    listed = listed_model(name)
    if listed is not None and isinstance(read_shape(listed.config), UnknownShape):
        kind = ", ".join(listed.config.get("architectures", ()))
        seen = f"only the Hub can tell the size of {name} ({kind})"
    else:
        seen = (
            f"{name} is neither a path, nor in the Hub cache {hub_cache(env)}, nor in the shipped "
            f"table{similar(name, env)}"
        )
    return TargetError(f"{seen}, {why}", advice=_NO_CONFIG)


def similar(name: str, env: Mapping[str, str]) -> str:
    """Return `; did you mean A or B?` of the models that can be looked up here, or nothing."""
    from pytest_vllm.adapters.hub_cache import cached_models  # noqa: PLC0415 - for an error only
    from pytest_vllm.domain.similar import similar_models  # noqa: PLC0415

    listed = (item for model in listed_models() for item in model.ids)
    found = similar_models(name, dict.fromkeys((*cached_models(hub_cache(env)), *listed)))
    return f"; did you mean {' or '.join(found)}?" if found else ""
