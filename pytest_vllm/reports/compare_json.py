"""A comparison for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_vllm.domain.record import to_plain
from pytest_vllm.reports.compare_words import headline

if TYPE_CHECKING:
    from pytest_vllm.domain.run_comparison import RunComparison

SCHEMA = 1


def compare_json(found: RunComparison) -> str:
    """Write a comparison as JSON: all that `RunComparison` has, its effect and its exit code.

    `schema` is raised when a key changes its meaning or goes; keys may be added without.
    """
    plain = to_plain(found)
    performance = found.performance
    document = {
        "schema": SCHEMA,
        "kind": "comparison",
        "exit_code": found.exit_code,
        "headline": headline(found),
        "effect": None if performance is None else performance.effect.value,
        "comparable": performance is not None and not performance.obstacles and not found.forced,
        **plain,
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
