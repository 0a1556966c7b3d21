"""Loads as a record keeps them."""

from __future__ import annotations

import random
from typing import Any

ROUNDS = 5


def performance(
    factor: float = 1.0,
    *,
    levels: tuple[str, ...] = ("c8",),
    open_loop: bool = False,
    conditions: dict[str, str] | None = None,
    noise: float = 0.01,
    **changes: Any,
) -> dict[str, Any]:
    """Return what the suite `performance` puts into a record, slower by a factor."""
    chance = random.Random(f"{factor} {noise}")  # noqa: S311 - noise

    def figures() -> dict[str, float]:
        slow = [factor * (1 + chance.gauss(0, noise)) for _ in range(3)]
        return {
            "output_tokens_per_s": 1234 / slow[0],
            "tpot_p50_ms": 20 * slow[1],
            "ttft_p50_ms": 200 * slow[2],
            "ttft_sched_p50_ms": 210 * slow[2],
            "requests": 64.0,
        }

    def one_round() -> dict[str, Any]:
        sound = {"requests": 64, "failed": 0, "output_tokens": 4096, "limits": []}
        return {"figures": figures(), **sound, **changes}

    return {
        "profile": {"name": "smoke"},
        "levels": [
            {
                "name": name,
                "open_loop": open_loop,
                "conditions": {"workload": "chat", **(conditions or {})},
                "rounds": [one_round() for _ in range(ROUNDS)],
                "latencies": {
                    "ttft": {"percentiles": {"p50": {"value": 200 * factor, "needs": 11}}}
                },
            }
            for name in levels
        ],
    }
