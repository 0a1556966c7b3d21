"""Where the model lies on this host and how a container gets at it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.container import Mount
from pytest_vllm.adapters.hub_cache import find_snapshot, hub_cache
from pytest_vllm.adapters.model_facts import CONFIGS, mount_root
from pytest_vllm.adapters.weight_files import weight_names
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMount:
    """A model as the container sees it.

    Attributes:
        name: What the server is told to load.
        mounts: Folders that it needs.
        environment: Variables that it needs.
        source: Where it comes from, for the record.
        writable: Whether the server may download into a mounted cache.
    """

    name: str
    mounts: tuple[Mount, ...]
    environment: tuple[tuple[str, str | None], ...] = ()
    source: str = ""
    writable: bool = False


def find_model_folder(target: Target) -> Path:
    """Return the absolute path of a model that is named by a path (a folder, or one GGUF file).

    Raises:
        TargetError: It does not exist.
    """
    asked = str(target.model)
    path = Path(os.path.abspath(os.path.expanduser(asked)))  # noqa: PTH100, PTH111 - links stay
    if not path.exists():
        siblings = [entry.name for entry in path.parent.glob("*")] if path.parent.is_dir() else []
        raise TargetError(
            f"--vllm-model: there is no {asked}{closest(path.name, siblings)}",
            advice="name a folder with config.json, or a Hub ID such as org/model",
        )
    return path


def mount_model(target: Target, env: Mapping[str, str]) -> ModelMount:
    """Plan how a container gets the model. Creates nothing.

    Args:
        target: What to serve.
        env: Our environment.

    Raises:
        TargetError: There is no such path.
    """
    if target.model_is_path:
        return _mount_folder(find_model_folder(target))
    return _mount_cache(str(target.model), target.revision, env)


def cached_snapshot(cache: Path, model: str, revision: str | None) -> Path | None:
    """Return the snapshot folder of a model that is complete in the cache, else `None`."""
    snapshot = find_snapshot(cache, model, revision)
    return snapshot if snapshot is not None and _complete(snapshot) else None


def _complete(snapshot: Path) -> bool:
    """Tell whether config and all weights are there; what is in them is the preflight's matter."""
    if not any((snapshot / name).is_file() for name in CONFIGS):
        return False
    names = weight_names(snapshot)
    return bool(names) and all((snapshot / name).is_file() for name in names)


def _mount_folder(path: Path) -> ModelMount:
    root, inside = mount_root(path)
    target = f"/models/{root.name}"
    return ModelMount(
        name=str(Path(target) / inside),
        mounts=(Mount(source=str(root), target=target),),
        source=f"folder {path}",
    )


def _mount_cache(model: str, revision: str | None, env: Mapping[str, str]) -> ModelMount:
    cache = hub_cache(env)
    cached = cached_snapshot(cache, model, revision) is not None
    environment: list[tuple[str, str | None]] = [("HF_HOME", "/hf")]
    if cached:
        environment.append(("HF_HUB_OFFLINE", "1"))
    elif env.get("HF_TOKEN"):
        environment.append(("HF_TOKEN", None))
    return ModelMount(
        name=model,
        mounts=(Mount(source=str(cache), target="/hf/hub", read_only=cached),),
        environment=tuple(environment),
        source=f"Hub cache {cache}, " + ("offline" if cached else "not cached yet: downloads"),
        writable=not cached,
    )


def make_cache(mount: ModelMount) -> None:
    """Create the cache folder that a download needs.

    Raises:
        HostError: It cannot be created.
    """
    for item in mount.mounts if mount.writable else ():
        try:
            Path(item.source).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(
                f"the Hub cache {item.source} cannot be created ({error.strerror})",
                advice="set HF_HUB_CACHE to a folder that you can write",
            ) from None
