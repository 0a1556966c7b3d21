"""How long a start-up phase may pass without any sign of life before it counts as a hang."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.phases import ORDER
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OPTION = "--vllm-phase-timeout"
LIMITS: dict[str, float] = {
    "pull": 300.0,
    "start": 600.0,
    "config": 600.0,
    "download": 300.0,
    "load": 1800.0,
    "compile": 900.0,
    "aiter jit": 900.0,
    "kv cache": 900.0,
    "graph capture": 300.0,
    "api up": 300.0,
    "ready": 300.0,
    "first token": 900.0,
}
"""Seconds without a new line, a counted step, a byte or the next phase.

Imports from a network disk fall into `start`, retries at the Hub and RCCL's set-up into `config`.
AITER took 250 s for one module (aiter#4055). Docker hands a progress bar on when its line ends, so
that its graphs are captured unseen in `kv cache`; `graph capture` has its bar in sight. The first
token may compile kernels, too.
"""
_LOAD_LEAST_S = 900.0
_LOAD_BASE_S = 60.0
_LOAD_GIB_PER_S = 0.5


def spell(phase: str) -> str:
    """Write a phase as the option wants it, without blanks."""
    return phase.replace(" ", "-")


def read_limits(words: Iterable[str]) -> dict[str, float]:
    """Read `PHASE=SECONDS`, such as `load=3600` or `graph-capture=600`.

    Raises:
        TargetError: A word has another form, names no phase, or contradicts one before it.
    """
    limits: dict[str, float] = {}
    for word in words:
        name, equals, value = word.partition("=")
        phase = name.strip().lower().replace("-", " ").replace("_", " ")
        seconds = _seconds(value)
        if not equals or seconds is None:
            raise TargetError(
                f"{OPTION}: {word!r} is not PHASE=SECONDS with seconds above 0",
                advice=f"write {OPTION}=load=3600",
            )
        if phase not in LIMITS:
            known = [spell(name) for name in ORDER]
            raise TargetError(
                f"{OPTION}: there is no phase {name!r}{closest(name, known)}",
                advice=f"use one of {', '.join(known)}",
            )
        if limits.get(phase, seconds) != seconds:
            raise TargetError(
                f"{OPTION}: phase {spell(phase)} has two limits, {limits[phase]:g} and {seconds:g}",
                advice="name each phase once",
            )
        limits[phase] = seconds
    return limits


def limit_of(phase: str, given: Mapping[str, float], *, weights_gib: float | None = None) -> float:
    """Return the limit of a phase in seconds.

    Args:
        phase: Name out of `ORDER`; what a phase of another kind may take is not limited.
        given: What the user said.
        weights_gib: Size of the weights, which `load` reads at 0.5 GiB/s at least; a shard is often
            as large as the model. What it does after reading, compilation without a line included,
            takes as long as `compile` may.
    """
    if phase in given:
        return given[phase]
    if phase == "load" and weights_gib is not None:
        return max(_LOAD_LEAST_S, _LOAD_BASE_S + weights_gib / _LOAD_GIB_PER_S)
    return LIMITS.get(phase, math.inf)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None
