"""Read the texts, words and thresholds that ship with the package."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

_DATA = files("pytest_vllm").joinpath("data")
_FOLDER = _DATA.joinpath("content")


@cache
def texts() -> dict[str, str]:
    """Return the reference texts by name."""
    return dict(_table("texts.toml")["texts"])


@cache
def prompts() -> dict[str, str]:
    """Return short beginnings by name that any language model can go on from."""
    return dict(_table("texts.toml")["prompts"])


@cache
def strings() -> tuple[str, ...]:
    """Return short texts on which tokenizers differ."""
    return tuple(_table("texts.toml")["tokenizer"]["strings"])


@cache
def conversations() -> tuple[tuple[dict[str, str], ...], ...]:
    """Return messages on which chat templates differ."""
    entries = _table("texts.toml")["conversation"]
    return tuple(tuple(dict(one) for one in entry["messages"]) for entry in entries)


@cache
def words() -> tuple[str, ...]:
    """Return some hundred ordinary English words, each once."""
    return tuple(_FOLDER.joinpath("words.txt").read_text(encoding="utf-8").split())


@cache
def questions() -> tuple[tuple[str, float], ...]:
    """Return word problems with their answers."""
    lines = _DATA.joinpath("accuracy", "arithmetic.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return tuple((entry["question"], float(entry["answer"])) for entry in entries)


def threshold(name: str, *, same: bool = True) -> float:
    """Return a threshold; the file says what it means and which measurement set it.

    Args:
        name: Its name.
        same: Whether what is compared has the same precision.

    Raises:
        KeyError: There is none of that name.
    """
    return float(_table("thresholds.toml")[name]["value" if same else "other"])


@cache
def _table(name: str) -> dict[str, Any]:
    return tomllib.loads(_FOLDER.joinpath(name).read_text(encoding="utf-8"))
