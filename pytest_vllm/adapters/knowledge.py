"""Knowledge that ships with the package: signatures of failures, well-known models."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.figures import FIGURES, Context
from pytest_vllm.domain.signature import Signature, SignatureError, build_signatures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from importlib.resources.abc import Traversable

_DATA = files("pytest_vllm") / "data"
_MODELS = _DATA / "models" / "well-known.toml"


@cache
def signatures() -> tuple[Signature, ...]:
    """Return all signatures that ship with the package."""
    folder = _DATA / "signatures"
    return load_signatures(file for file in folder.iterdir() if file.name.endswith(".toml"))


def load_signatures(sources: Iterable[Traversable]) -> tuple[Signature, ...]:
    """Read signatures from files.

    Raises:
        TargetError: A file is no TOML, or a table in it is no signature; the message names the
            file, the table and the key.
    """
    found: dict[str, str] = {}
    loaded: list[Signature] = []
    for file in sorted(sources, key=lambda source: source.name):
        try:
            tables = _tables(file, "signature")
            new = build_signatures(tables, figures=FIGURES)
        except (SignatureError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise TargetError(
                f"{file.name} is no list of signatures: {error}",
                advice="correct the file; docs/diagnosis.md describes the keys",
            ) from None
        for signature in new:
            for name in (signature.id, signature.ref):
                if name in found:
                    raise TargetError(
                        f"{file.name}: {name} is taken, see {found[name]}",
                        advice="choose another id and ref",
                    )
                found[name] = file.name
        loaded += new
    return tuple(loaded)


def _tables(file: Traversable, key: str) -> list[Mapping[str, Any]]:
    document = tomllib.loads(file.read_text("utf-8"))
    if unknown := set(document) - {key}:
        raise SignatureError(f"key {', '.join(sorted(unknown))} is not known")
    tables = document.get(key)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SignatureError(f"key {key}: a list of tables is needed")
    return tables


@cache
def known_models() -> tuple[Mapping[str, Any], ...]:
    """Return the tables of well-known models: `id` and what else is sure."""
    if not _MODELS.is_file():
        return ()
    return tuple(tomllib.loads(_MODELS.read_text("utf-8"))["model"])


@cache
def known_model_ids() -> tuple[str, ...]:
    """Return the IDs of well-known models."""
    return tuple(str(table["id"]) for table in known_models())


@cache
def known_weight_sizes() -> Mapping[str, int]:
    """Return the size in bytes of all weights by model ID, where it is known."""
    return {
        str(table["id"]): int(table["weights_bytes"])
        for table in known_models()
        if "weights_bytes" in table
    }


@cache
def known_head_counts() -> Mapping[str, int]:
    """Return the number of attention heads by model ID, where it is known."""
    return {str(table["id"]): int(table["heads"]) for table in known_models() if "heads" in table}


def wide_context() -> Context:
    """Return what is known without a host or a model: the tables that ship with the package."""
    return Context(
        known_weights=known_weight_sizes(),
        known_heads=known_head_counts(),
        known_models=known_model_ids(),
    )


def known_weights(model_id: str) -> int | None:
    """Return the size in bytes of all weights of a model, `None` when it is not known."""
    return known_weight_sizes().get(model_id)
