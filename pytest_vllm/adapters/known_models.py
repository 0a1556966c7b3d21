"""Models that are known without the Hub, and what to say of one that is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.adapters.hub_cache import find_snapshot, hub_cache
from pytest_vllm.adapters.model_table import listed_model, listed_models
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.shape import UnknownShape

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_vllm.adapters.model_table import ListedModel

CONFIG = "config.json"
NO_CONFIG = f"name a folder with a {CONFIG}, such a file itself, or the ID of a model"


def from_table(name: str, listed: ListedModel) -> ModelMemory | None:
    """Return what the table says, `None` when that is not enough to weigh the model."""
    shape, size = read_shape(listed.config), listed.files_bytes
    if isinstance(shape, UnknownShape):
        from pytest_vllm.adapters.knowledge import known_weights  # noqa: PLC0415 - it takes time

        size = known_weights(name) or size
        if size is None:
            return None
    return ModelMemory(name=name, shape=shape, files_bytes=size, source="shipped table")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Where else a model is known, and what to leave out to have that."""

    where: str
    cure: str


def known_here(name: str, env: Mapping[str, str], revision: str | None) -> Known | None:
    """Say who knows a model that the Hub does not tell of."""
    cache = hub_cache(env)
    if has_config(find_snapshot(cache, name, revision)):
        return Known(where=f"the Hub cache has {name}", cure="leave out --online")
    options = "--revision" if revision is not None else "--online"
    other = " in another revision" if revision is not None else ""
    if revision is not None and has_config(find_snapshot(cache, name, None)):
        return Known(where=f"the Hub cache has {name}{other}", cure=f"leave out {options}")
    listed = listed_model(name)
    if listed is not None and from_table(name, listed) is not None:
        other = ", of no particular revision" if revision is not None else ""
        return Known(where=f"the shipped table has {name}{other}", cure=f"leave out {options}")
    return None


def has_config(snapshot: Path | None) -> bool:
    """Tell whether a snapshot of the Hub cache can be reckoned with."""
    return snapshot is not None and (snapshot / CONFIG).exists()


def unknown(name: str, env: Mapping[str, str], revision: str | None, *, why: str) -> TargetError:
    """Return what to say of a model that is not found here, when the Hub may not be asked.

    Args:
        name: What the user typed.
        env: Our environment.
        revision: Branch, tag or commit that was asked for.
        why: Why the Hub is not asked, beginning with `and`.
    """
    listed, hint, cure = listed_model(name), "", NO_CONFIG
    known = known_here(name, env, revision)
    if known is not None:
        seen = f"revision {revision!r} of {name} is not in the Hub cache {hub_cache(env)}"
        seen = seen if revision is not None else f"--online asks the Hub for {name}"
        hint, cure = f"; {known.where}", known.cure
    elif listed is not None and isinstance(read_shape(listed.config), UnknownShape):
        kind = ", ".join(listed.config.get("architectures", ()))
        seen = f"only the Hub can tell the size of {name} ({kind})"
    else:
        seen = (
            f"{name} is neither a path, nor in the Hub cache {hub_cache(env)}, nor in the shipped "
            "table"
        )
        hint = similar(name, env)
    return TargetError(f"{seen}, {why}{hint}", advice=cure)


def similar(name: str, env: Mapping[str, str]) -> str:
    """Return `; did you mean A or B?` of the models that can be looked up here, or nothing."""
    from pytest_vllm.adapters.hub_cache import cached_models  # noqa: PLC0415 - for an error only
    from pytest_vllm.domain.similar import similar_models  # noqa: PLC0415

    listed = (item for model in listed_models() for item in model.ids)
    found = similar_models(name, dict.fromkeys((*cached_models(hub_cache(env)), *listed)))
    return f"; did you mean {' or '.join(found)}?" if found else ""
