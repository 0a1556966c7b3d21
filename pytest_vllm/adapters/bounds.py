"""The bounds of the suite `memory`: data with a unit, a value and the reason for it."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

GIB = 2**30
MIB = 2**20
_UNITS = {"share": 1, "requests": 1, "s": 1, "GiB": GIB, "MiB": MIB}


def bound(name: str) -> float:
    """Return a bound in bytes, seconds or as a share; `data/memory/bounds.toml` has the reasons.

    Raises:
        KeyError: There is none of that name, or its unit is unknown.
    """
    entry = _bounds()[name]
    return float(entry["value"]) * _UNITS[entry["unit"]]


@cache
def _bounds() -> dict[str, Any]:
    file = files("pytest_vllm").joinpath("data", "memory", "bounds.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))
