"""The form of `run.json`, told by the types that make it."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any, get_args, get_type_hints

from pytest_vllm.domain import record
from pytest_vllm.domain.record import RunRecord
from pytest_vllm.domain.record_history import SCHEMA


def shape() -> str:
    """Return a line for each key, with its type, and whether it may be absent."""
    return "\n".join([f"schema {SCHEMA}", *_lines(RunRecord, set())]) + "\n"


def _lines(kind: type[Any], told: set[type[Any]]) -> list[str]:
    if kind in told:
        return []
    told.add(kind)
    if issubclass(kind, Enum):
        return [f"{kind.__name__}: {', '.join(str(item.value) for item in kind)}"]
    hints = get_type_hints(kind, localns=dict(record._NAMES))
    lines, inner = [], []
    for item in dataclasses.fields(kind):
        must = (item.default, item.default_factory) == (dataclasses.MISSING,) * 2
        lines.append(f"{kind.__name__}.{item.name}: {item.type}{'' if must else ' (optional)'}")
        for part in _kinds(hints[item.name]):
            inner += _lines(part, told)
    return [*lines, *inner]


def _kinds(hint: Any) -> list[type[Any]]:
    """Return the dataclasses and enumerations in a type hint."""
    found = [kind for part in get_args(hint) for kind in _kinds(part)]
    own = isinstance(hint, type) and (dataclasses.is_dataclass(hint) or issubclass(hint, Enum))
    return [*found, hint] if own else found


if __name__ == "__main__":
    print(shape(), end="")
