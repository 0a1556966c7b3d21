"""Ways in which a server can be broken, each with a name, and how to break one."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import closest
from pytest_vllm.simulator.defects import (
    chunks,
    constraints,
    conversation,
    engine,
    load,
    logprobs,
    memory,
    metrics,
    performance,
    refusals,
    replies,
    sampling,
    service,
    streams,
    surfaces,
)
from pytest_vllm.simulator.defects.defect import Break, Defect, Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_vllm.simulator.wire import Handler

__all__ = ["DEFECTS", "Break", "Defect", "Where", "break_handler", "find_defects"]

_GROUPS = (
    service,
    refusals,
    replies,
    logprobs,
    sampling,
    conversation,
    streams,
    chunks,
    constraints,
    surfaces,
    metrics,
    memory,
    load,
    engine,
    performance,
)
DEFECTS: Mapping[str, Defect] = MappingProxyType(
    {defect.name: defect for group in _GROUPS for defect in group.DEFECTS}
)
"""Every defect by its name."""


def find_defects(names: Iterable[str]) -> tuple[Defect, ...]:
    """Return the defects of these names, in their order and each once.

    Raises:
        TargetError: There is no such defect.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in DEFECTS:
            hint = closest(name, tuple(DEFECTS)) or "; --list-defects shows them all"
            raise TargetError(f"there is no defect {name!r}{hint}")
        found.append(DEFECTS[name])
    return tuple(found)


def break_handler(handler: Handler, defects: Iterable[Defect]) -> Handler:
    """Return the handler with all defects that sit on the wire, the first one innermost."""
    for defect in defects:
        if defect.breaks is not None:
            handler = defect.breaks(handler)
    return handler
