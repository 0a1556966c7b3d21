"""Gather the facts about a model from its files, without network and without loading anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.hub_cache import (
    cached_models,
    find_snapshot,
    hub_cache,
    unfinished_downloads,
)
from pytest_vllm.adapters.knowledge import known_model_ids, known_models
from pytest_vllm.adapters.weight_files import is_pointer, read_weights
from pytest_vllm.domain.facts.config import ConfigFacts, read_config
from pytest_vllm.domain.facts.model import Flaw, FlawedFile, ModelFacts, ModelKind, SupportFacts
from pytest_vllm.domain.similar import similar_class, similar_models

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_vllm.domain.target import Target

CONFIGS = ("config.json", "params.json")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.*",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "*.tiktoken",
    "tiktoken.model",
    "tokenization_*.py",
)
_JSON_FILES = ("generation_config.json", "tokenizer_config.json")
_VARIABLES = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_ENDPOINT",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
    "VLLM_USE_MODELSCOPE",
)
_TRUE = ("1", "ON", "YES", "TRUE")
_HUB_WORD = re.compile(r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?", re.ASCII)
_LONGEST_ID = 96
_DIST = re.compile(r"vllm(?:_(?:cpu|rocm))?-(\d+(?:\.\d+)+).*\.dist-info")
_LOOK_AT = 10_000
_LARGEST_JSON = 20_000_000


def gather_model(target: Target, env: Mapping[str, str]) -> ModelFacts:
    """Look at the model of a target; takes well under a second.

    Args:
        target: What to serve; it names a model.
        env: Our environment.
    """
    asked = str(target.model)
    variables = _server_variables(target, env)
    base = ModelFacts(
        asked=asked,
        revision=target.revision or "",
        offline=any(variables.get(name, "").upper() in _TRUE for name in _VARIABLES[:2]),
        cache=str(hub_cache(env)),
        variables=variables,
        server_version=_installed_version(target, env) if target.backend == "process" else "",
    )
    path = Path(asked).expanduser()
    if target.model_is_path or path.exists():
        return _gather_path(base, path)
    return _gather_hub(base, target.revision)


def links_out(path: Path) -> tuple[Path, ...]:
    """Return the links in a model's folder that lead out of what a container gets to see."""
    root = mount_root(path)[0]
    entries = path.rglob("*") if path.is_dir() else iter(())
    return tuple(
        entry
        for _, entry in zip(range(_LOOK_AT), entries, strict=False)
        if entry.is_symlink()
        and (entry.readlink().is_absolute() or not entry.resolve().is_relative_to(root))
    )


def mount_root(path: Path) -> tuple[Path, Path]:
    """Return what a container gets to see of a model, and the model's place in it.

    A snapshot in a Hub cache is made of links to `../../blobs`, so its whole repository is mounted.
    """
    real = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    for parent in real.parents:
        if parent.name.startswith("models--") and real.is_relative_to(parent / "snapshots"):
            return parent, real.relative_to(parent)
    return real, Path()


def is_hub_id(text: str) -> bool:
    """Tell whether huggingface_hub takes a text for the ID of a model (`validate_repo_id`)."""
    words = text.split("/")
    return (
        len(words) <= 2  # noqa: PLR2004 - owner and name
        and len(text) <= _LONGEST_ID
        and all(_HUB_WORD.fullmatch(word) for word in words)
        and not any(part in text for part in ("--", ".."))
        and not text.endswith(".git")
    )


def _server_variables(target: Target, env: Mapping[str, str]) -> dict[str, str]:
    """Return what the server will see: a container inherits nothing of our environment."""
    seen = _server_environment(target, env)
    return {name: seen[name] for name in _VARIABLES if seen.get(name)}


def _server_environment(target: Target, env: Mapping[str, str]) -> dict[str, str]:
    seen = dict(env) if target.backend == "process" else {}
    for variable in target.env:
        value = env.get(variable.name) if variable.value is None else variable.value
        if value is not None:
            seen[variable.name] = value
    return seen


def python_path(target: Target, env: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the folders that the server's interpreter imports from before its own."""
    words = _server_environment(target, env).get("PYTHONPATH", "").split(os.pathsep)
    return tuple(Path(word).absolute() for word in words if word)


def installed_vllm(python: Path, before: Iterable[Path] = ()) -> tuple[str, int]:
    """Return version and time of installation of the vLLM of an interpreter, without a start.

    Args:
        python: The interpreter.
        before: Folders that it imports from before its own (`PYTHONPATH`).

    Returns:
        The version and nanoseconds since the epoch; nothing and 0 when it is not found.
    """
    own = python.absolute().parent.parent.glob("lib/python3*/site-packages")
    places = (*before, *own)
    for path in (path for place in places for path in place.glob("vllm*.dist-info")):
        match = _DIST.fullmatch(path.name)
        if match:
            return match[1], path.stat().st_mtime_ns
    return "", 0


def _installed_version(target: Target, env: Mapping[str, str]) -> str:
    asked = target.settings["python"].value
    python = shutil.which(os.path.expanduser(str(asked))) if asked else sys.executable  # noqa: PTH111 - a name or a path
    return installed_vllm(Path(python), python_path(target, env))[0] if python else ""


def _gather_path(base: ModelFacts, path: Path) -> ModelFacts:
    path = path.absolute()
    if path.is_file():
        flaws = [flaw for flaw in [_flaw_of(path, path.name)] if flaw]
        return replace(
            base,
            kind=ModelKind.GGUF,
            path=str(path),
            cached=True,
            flaws=tuple(flaws),
            weights_bytes=path.stat().st_size,
            weight_files=1,
        )
    if not path.is_dir():
        return replace(base, kind=ModelKind.MALFORMED, path=str(path))
    facts = _read_folder(base, path)
    bare = not facts.config_file and any(path.glob("*.gguf"))
    return replace(
        facts,
        kind=ModelKind.GGUF if bare else ModelKind.FOLDER,
        path=str(path),
        links_out=tuple(f"{link} -> {link.readlink()}" for link in links_out(path)),
    )


def _gather_hub(base: ModelFacts, revision: str | None) -> ModelFacts:
    cache_folder = Path(base.cache)
    ids = known_model_ids()
    listed = base.asked in ids
    facts = replace(base, listed=listed)
    if not is_hub_id(base.asked):
        facts = replace(facts, kind=ModelKind.MALFORMED)
    snapshot = find_snapshot(cache_folder, base.asked, revision)
    if snapshot is not None and any(snapshot.iterdir()):
        facts = _read_folder(replace(facts, revision=snapshot.name), snapshot)
        return replace(facts, kind=ModelKind.CACHED, path=str(snapshot))
    unfinished = tuple(
        FlawedFile(name=path.name, flaw=Flaw.INCOMPLETE, detail=f"{path.stat().st_size} bytes")
        for path in unfinished_downloads(cache_folder, base.asked)
    )
    first = base.asked.split("/")[0]
    facts = _with_known_facts(facts)
    others = (*cached_models(cache_folder), *ids)
    known = others if not listed or facts.chat_template is False else ()
    return replace(
        facts,
        flaws=unfinished,
        similar=similar_models(base.asked, dict.fromkeys(known)),
        path_like=first if "/" in base.asked and Path(first).is_dir() else "",
    )


def _with_known_facts(facts: ModelFacts) -> ModelFacts:
    table = next((table for table in known_models() if table["id"] == facts.asked), None)
    if table is None or "architecture" not in table:
        return facts
    config = ConfigFacts(
        model_type=str(table.get("model_type", "")),
        architectures=(str(table["architecture"]),),
        heads=table.get("heads"),
        kv_heads=table.get("kv_heads"),
        mla=bool(table.get("mla", False)),
        experts=table.get("experts"),
        experts_used=table.get("experts_used"),
        context=table.get("context"),
        context_key="context",
        quantization=str(table.get("quantization", "")),
    )
    return replace(
        facts,
        config=config,
        weights_bytes=table.get("weights_bytes"),
        chat_template=table.get("chat"),
    )


def _read_folder(base: ModelFacts, folder: Path) -> ModelFacts:
    flaws: list[FlawedFile] = []
    config_file = next((name for name in CONFIGS if (folder / name).is_file()), "")
    raw = _read_json(folder, config_file, flaws) if config_file else {}
    if raw and "quantization_config" not in raw:
        other = _read_json(folder, "hf_quant_config.json", flaws)
        raw = {**raw, "quantization_config": other} if other else raw
    config = read_config(raw) if raw and config_file == "config.json" else None
    draft = raw.get("num_nextn_predict_layers")
    weights = read_weights(folder, main_layers=config.layers if config and draft else None)
    jsons = {name: _read_json(folder, name, flaws) for name in _JSON_FILES}
    flaws += _look_at_tokenizer(folder)
    flaws += weights.flaws
    gone = (Flaw.MISSING, Flaw.DANGLING)
    return replace(
        base,
        config=config,
        config_file=config_file,
        flaws=tuple(dict.fromkeys(flaws)),
        weights_bytes=weights.total_bytes or None,
        weight_files=weights.files,
        tensor_bytes=weights.tensor_bytes,
        spare_bytes=weights.spare_bytes,
        index_bytes=weights.index_bytes,
        tokenizer=any(True for _ in _tokenizer_files(folder)),
        chat_template=_has_chat_template(folder, jsons["tokenizer_config.json"]),
        native=look_up_names(config) if config else None,
        cached=bool(config_file)
        and (weights.files > 0 or bool(weights.flaws))
        and not any(flaw.flaw in gone for flaw in weights.flaws),
    )


def _tokenizer_files(folder: Path) -> Iterator[Path]:
    for pattern in _TOKENIZERS:
        yield from (path for path in folder.glob(pattern) if path.is_file())


def _look_at_tokenizer(folder: Path) -> Iterator[FlawedFile]:
    """Yield pointers and cut files; a tokenizer has megabytes of JSON, so its end must do."""
    for path in _tokenizer_files(folder):
        found = _flaw_of(path, path.name)
        if found is None and path.name in ("tokenizer.json", "vocab.json"):
            with path.open("rb") as file:
                file.seek(max(path.stat().st_size - 16, 0))
                if not file.read().rstrip().endswith(b"}"):
                    found = FlawedFile(name=path.name, flaw=Flaw.BROKEN, detail="ends early")
        if found is not None:
            yield found


def _flaw_of(path: Path, name: str) -> FlawedFile | None:
    try:
        if is_pointer(path):
            return FlawedFile(name=name, flaw=Flaw.POINTER, detail=f"{path.stat().st_size} bytes")
    except OSError as error:
        return FlawedFile(name=name, flaw=Flaw.UNREADABLE, detail=str(error.strerror or error))
    return None


def _read_json(folder: Path, name: str, flaws: list[FlawedFile]) -> dict[str, Any]:
    """Return the JSON object of a file, empty when there is none; what is wrong is a flaw."""
    path = folder / name
    if not path.is_file():
        if path.is_symlink():
            flaws.append(FlawedFile(name=name, flaw=Flaw.DANGLING, detail=f"to {path.readlink()}"))
        return {}
    flaw = _flaw_of(path, name)
    if flaw is None and path.stat().st_size > _LARGEST_JSON:
        flaw = FlawedFile(name=name, flaw=Flaw.BROKEN, detail=f"{path.stat().st_size} bytes")
    if flaw is None:
        try:
            value = json.loads(path.read_bytes())
            if isinstance(value, dict):
                return value
            detail = f"a {type(value).__name__} instead of an object"
        except (ValueError, OSError, RecursionError) as error:
            detail = str(error)[:200]
        flaw = FlawedFile(name=name, flaw=Flaw.BROKEN, detail=detail)
    flaws.append(flaw)
    return {}


def _has_chat_template(folder: Path, tokenizer: Mapping[str, object]) -> bool:
    """Tell whether a chat can be rendered; Mistral's own tokenizers bring their rules as code."""
    names = ("chat_template.jinja", "chat_template.json", "tekken.json")
    if tokenizer.get("chat_template") or any((folder / name).is_file() for name in names):
        return True
    return (folder / "additional_chat_templates").is_dir() or any(folder.glob("tokenizer.model.v*"))


def look_up_names(config: ConfigFacts) -> SupportFacts:
    """Look up a config's names in the shipped list of those that vLLM and transformers know."""
    table = _native()
    known = table["architectures"]
    found = [name for name in config.architectures if name in known]
    first = config.architectures[0] if config.architectures else ""
    similar = "" if found or not first else similar_class(first, sorted(known))
    return SupportFacts(
        version=str(table["vllm"]),
        model_type=config.model_type in table["model_types"],
        architecture=bool(found) or not config.architectures,
        removed_after=str(table["removed"].get(first, "")),
        similar=similar,
    )


@cache
def _native() -> Mapping[str, Any]:
    """Return the names that vLLM knows; `tools/native.py` reads them from its registries."""
    path = files("pytest_vllm") / "data" / "models" / "native.json"
    table: dict[str, Any] = json.loads(path.read_text("utf-8"))
    for key in ("architectures", "model_types"):
        table[key] = frozenset(table[key])
    return table
