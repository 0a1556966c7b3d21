"""Structured outputs of a request: what constrains its text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_vllm.simulator.engine import Constraint
    from pytest_vllm.simulator.tokens import Tokenizer


def constraint_factory(
    tokenizer: Tokenizer, values: Mapping[str, Any]
) -> Callable[[], Constraint] | None:
    """Return what makes a constraint for each sequence, `None` for free text."""
    del tokenizer, values
    return None


def tool_constraint_factory(
    tokenizer: Tokenizer, functions: list[Mapping[str, Any]]
) -> Callable[[], Constraint] | None:
    """Return what keeps a text within a call of one of the functions."""
    del tokenizer, functions
    return None
