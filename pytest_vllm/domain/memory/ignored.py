"""Which modules a checkpoint leaves as they are, by the names that its config lists."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.memory.shape import Quantization

_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
_CONTAINS = frozenset({"awq", "gptq"})
"""Methods that look for the listed names inside the name of a module, instead of comparing."""


@lru_cache(maxsize=65536)
def is_ignored(name: str, parts: tuple[str, ...], how: Quantization) -> bool:
    """Tell whether a module stays in 16 bits.

    Args:
        name: vLLM's name of it without what is before `layers`, such as
            `layers.0.self_attn.qkv_proj`.
        parts: The checkpoint's names of what was fused into it.
        how: In what the weights are stored.
    """
    if not how.ignored:
        return False
    if _listed(name, how):
        return True
    before, _, _ = name.rpartition(".")
    return bool(parts) and all(_listed(f"{before}.{part}", how) for part in parts)


def _listed(name: str, how: Quantization) -> bool:
    exact, patterns = _read(how)
    if name in exact:
        return True
    if how.method in _CONTAINS:
        return any(listed in f"model.{name}" for listed in how.ignored)
    if name.endswith(".experts") and any(listed.startswith(f"{name}.") for listed in exact):
        return True
    spellings = [name, *(prefix + name for prefix in _PREFIXES)]
    return any(pattern.match(one) for pattern in patterns for one in spellings)


@lru_cache(maxsize=64)
def _read(how: Quantization) -> tuple[frozenset[str], tuple[re.Pattern[str], ...]]:
    """Return the exact names, and the patterns `re:...` and `*`."""
    exact = frozenset(_short(one) for one in how.ignored if not one.startswith("re:"))
    return exact, tuple(_patterns(how.ignored))


def _patterns(listed: Iterable[str]) -> Iterable[re.Pattern[str]]:
    for one in listed:
        if one.startswith("re:"):
            try:
                yield re.compile(one.removeprefix("re:"))
            except re.error:
                continue
        elif "*" in one:
            yield _glob(one)


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")) + r"(\.|$)")


def _short(name: str) -> str:
    """Return a name without what is before `layers`."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name
