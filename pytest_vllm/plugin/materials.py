"""What the result of a run rests on, each with its digest: suites, profile, compose file, model.

What is read at the beginning is hashed at the beginning, so that a file that is edited while the
run lasts is not taken for the one that was used.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.hub_cache import find_snapshot
from pytest_vllm.adapters.model_listing import list_model
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.facts.model import ModelKind
from pytest_vllm.domain.plain import mapping
from pytest_vllm.domain.record import Material
from pytest_vllm.domain.text import one_line
from pytest_vllm.plugin.options import NONE, PACKAGE, SUITES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pytest

    from pytest_vllm.domain.profile import Profile
    from pytest_vllm.domain.target import Target
    from pytest_vllm.plugin.state import RunState

IN_FOLDER = ("compose", "log", "benchmark")
"""Kinds of what lies in the evidence folder."""
RESTED_ON = ("compose",)
"""Those of them that the server was started from; the others only tell of the run."""
_KINDS = {"compose.": "compose", "server.": "log", "benchmark.": "benchmark"}
"""By the beginning of the name; `compose.` is ours, and a user's override."""
_OF_SUITES = "suites/"
"""How the name of a bundled suite begins, and that of no other file."""
_PROFILES = PACKAGE / "data" / "profiles"
_PERFORMANCE = PACKAGE / "data" / "load" / "performance"


def rule_materials(target: Target, profile: Profile, *, base: Path) -> tuple[Material, ...]:
    """Name the files that say how a run is judged: profile, performance profile and golden.

    Args:
        target: Names the performance profile and the golden.
        profile: The rules of the run.
        base: Folder that relative paths start from.

    Raises:
        TargetError: One cannot be read.
    """
    found = [_rule("profile", profile.name, _PROFILES, base, option="--vllm-profile")]
    loads = str(target.settings["performance"].value)
    if loads != NONE:
        option = "--vllm-performance"
        found.append(_rule("performance", loads, _PERFORMANCE, base, option=option))
    golden = target.settings["golden"].value
    if isinstance(golden, str) and (base / golden).is_file():
        # One that is not there is the host's error of the checks that want it.
        found.append(_file("golden", golden, base / golden, option="--vllm-golden"))
    return tuple(found)


def suite_materials(session: pytest.Session) -> tuple[Material, ...]:
    """Name the files of all collected tests, and each `conftest.py` that pytest loaded."""
    root = session.config.rootpath
    files = {item.path for item in session.items}
    for plugin in session.config.pluginmanager.get_plugins():
        file = getattr(plugin, "__file__", None)
        if isinstance(file, str) and Path(file).name == "conftest.py":
            files.add(Path(file))
    named = sorted((_suite_name(path, root), path) for path in files if path.is_file())
    return tuple(_suite(name, path) for name, path in named)


def installed_suites() -> dict[str, str]:
    """Return the SHA-256 of each bundled suite as it lies here, by the name of its material.

    Raises:
        TargetError: One cannot be read.
    """
    found = [
        _file("suite", f"{_OF_SUITES}{path.name}", path, option="suite")
        for path in SUITES.glob("test_*.py")
    ]
    return {each.name: each.sha256 for each in found}


def launch_materials(
    state: RunState, files: Mapping[str, str], *, encoded: Callable[[str], bytes]
) -> tuple[Material, ...]:
    """Name what the server was started from, and what was written down of it.

    Args:
        state: Knows the model.
        files: Texts of the evidence folder by name, but those that are made of the record.
        encoded: Gives the bytes of a text as the evidence folder holds them, without secrets.
    """
    found = [
        Material(kind=kind, name=name, sha256=hashlib.sha256(encoded(text)).hexdigest())
        for name, text in files.items()
        for beginning, kind in _KINDS.items()
        if text and name.startswith(beginning)
    ]
    return (*found, *model_materials(state))


def merged(parts: Iterable[Iterable[Material]]) -> tuple[Material, ...]:
    """Put materials together, each once: every xdist worker names the same suites."""
    return tuple(dict.fromkeys(material for part in parts for material in part))


def _suite(name: str, path: Path) -> Material:
    """Name a file that pytest has read; that it is gone since is no reason to end the run."""
    try:
        return _file("suite", name, path, option="suite")
    except TargetError as error:
        return Material(kind="suite", name=name, sha256="", of=f"not known: {error.message}")


def _rule(kind: str, name: str, bundled: Path, base: Path, *, option: str) -> Material:
    own = bundled / f"{name}.toml"
    if Path(name).name == name and own.is_file():
        return _file(kind, f"{bundled.name}/{own.name}", own, option=option)
    return _file(kind, name, base / name, option=option)


def _file(kind: str, name: str, path: Path, *, option: str) -> Material:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TargetError(
            f"{option}: cannot read {one_line(name)}: {error.strerror}", advice="check the path"
        ) from None
    return Material(kind=kind, name=name, sha256=digest)


def _suite_name(path: Path, root: Path) -> str:
    if path.resolve().parent == SUITES.resolve():
        return f"{_OF_SUITES}{path.name}"
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    return f"./{name}" if name.startswith(_OF_SUITES) else name


def model_materials(state: RunState) -> Iterator[Material]:
    """Name the model that the server loaded, from what lies on this host now."""
    target = state.target
    if target.model is None:
        return
    name, known = target.model, mapping(state.facts.get("model"))
    revision = target.revision or ""
    if mapping(state.facts.get("engine")).get("remote"):
        yield _unknown(name, revision, "it lies on the host of a remote engine")
        return
    folder = known.get("path") or None
    if known.get("kind") not in (ModelKind.FOLDER, ModelKind.GGUF):
        folder = find_snapshot(Path(str(known.get("cache") or "")), name, target.revision)
    if not folder:
        yield _unknown(name, revision, "its files are not on this host")
        return
    try:
        listing = list_model(Path(folder))
    except OSError as error:
        why = error.strerror or str(error)
        yield _unknown(name, revision, f"its files on this host cannot be read: {why}")
        return
    at = listing.commit or revision
    shown = f"{listing.repository or name}@{at}" if at else name
    yield Material(kind="model", name=shown, sha256=listing.sha256, of=listing.of)


def _unknown(name: str, revision: str, why: str) -> Material:
    shown = f"{name}@{revision}" if revision else name
    return Material(kind="model", name=shown, sha256="", of=f"not known: {why}")
