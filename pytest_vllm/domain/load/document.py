"""What files of `pytest-vllm load --json` hold for a comparison: each file is a round."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NOT_THE_SAME = ("salt", "server_version", "notes")
"""Parts of a plan's description that differ between loads which do the same work."""
_CLOSED = "closed"


def performance_of(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return loads as `RunRecord.performance` keeps them, a level's rounds one for each document.

    Args:
        documents: What `pytest-vllm load --json` wrote, of one server.

    Raises:
        ValueError: Two of them load the same level in another way.
    """
    levels: dict[str, dict[str, Any]] = {}
    for document in documents:
        for told in document["levels"]:
            fresh = _level(told)
            level = levels.setdefault(fresh["name"], {**fresh, "rounds": []})
            if level["conditions"] != fresh["conditions"]:
                names = sorted(
                    name
                    for name in level["conditions"].keys() | fresh["conditions"].keys()
                    if level["conditions"].get(name) != fresh["conditions"].get(name)
                )
                raise ValueError(f"its loads differ in {', '.join(names)}, so are no rounds of one")
            level["rounds"].append(_round(told))
    return {"levels": [*levels.values()]}


def _level(told: Mapping[str, Any]) -> dict[str, Any]:
    plan = {name: value for name, value in told["plan"].items() if name not in _NOT_THE_SAME}
    pattern = plan.get("traffic", {}).get("pattern", _CLOSED)
    return {
        "name": str(told["level"]),
        "open_loop": pattern != _CLOSED,
        "conditions": {name: _text(value) for name, value in plan.items()},
    }


def _round(told: Mapping[str, Any]) -> dict[str, Any]:
    found = told["measurement"]
    client = found.get("client") or {}
    return {
        "figures": found["figures"],
        "requests": found["requests"],
        "failed": sum(found["failures"].values()),
        "output_tokens": found["figures"].get("output_tokens", 0),
        "limits": told.get("client_was_the_limit") or [],
        "clock_shift_ns": client.get("clock_shift_ns", 0),
        "seconds": client.get("wall_s", 0.0),
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
