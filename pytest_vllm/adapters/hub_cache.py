"""Where the Hub cache of this host keeps a model, by the rules of huggingface_hub.

https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX = "models--"


def hub_cache(env: Mapping[str, str]) -> Path:
    """Return the Hub cache of this host.

    https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    """
    if env.get("HF_HUB_CACHE"):
        return Path(env["HF_HUB_CACHE"]).expanduser().absolute()
    base = env.get("XDG_CACHE_HOME") or "~/.cache"
    home = env.get("HF_HOME") or f"{base}/huggingface"
    return (Path(home).expanduser() / "hub").absolute()


def repository_folder(cache: Path, model: str) -> Path:
    """Return the folder that holds all revisions of a model, whether it exists or not."""
    return cache / f"{_PREFIX}{model.replace('/', '--')}"


def find_snapshot(cache: Path, model: str, revision: str | None) -> Path | None:
    """Return the snapshot folder of a revision (default: `main`), `None` when there is none."""
    repository = repository_folder(cache, model)
    asked = revision or "main"
    reference = repository / "refs" / asked
    try:
        commit = reference.read_text("utf-8").strip() if reference.is_file() else asked
        snapshot = repository / "snapshots" / commit
        return snapshot if commit and snapshot.is_dir() else None
    except (OSError, ValueError):
        return None


def cached_models(cache: Path) -> tuple[str, ...]:
    """Return the IDs of all models in the cache; empty when it cannot be read."""
    try:
        names = [entry.name for entry in cache.iterdir() if entry.name.startswith(_PREFIX)]
    except OSError:
        return ()
    return tuple(sorted(name.removeprefix(_PREFIX).replace("--", "/", 1) for name in names))


def unfinished_downloads(cache: Path, model: str) -> tuple[Path, ...]:
    """Return the files of downloads that did not end."""
    try:
        return tuple(sorted((repository_folder(cache, model) / "blobs").glob("*.incomplete")))
    except OSError:
        return ()
