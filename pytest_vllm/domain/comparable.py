"""Whether two sides may be compared at all: what must be the same or sound for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MOST_FAILED = 0.001
"""Share of requests that may fail: more of them change the load of those that do not."""
MOST_TOKENS_APART = 0.001
"""Share by which the tokens of a request may differ: what the failed ones allowed may miss."""
_SLEW = 500e-6
"""Seconds a second by which the kernel slews a clock at most (adjtimex(2)): more was a step."""
_LEAST_STEP_S = 0.001
_SHOWN = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under what one side was measured, all its runs together.

    Attributes:
        facts: What must be the same, by a name in words: `GPUs`, `driver`, `model`, `model
            revision`, `tokenizer`, `arguments`, `workload`, `traffic`, `prompts`. What is not
            known is left out or empty, and is then not compared.
        requests: Requests that were issued.
        failed: How many of them failed.
        output_tokens: Tokens that were written in all.
        limits: Why the client was the limit of a run, once for each reason.
        clock_shift_s: The largest shift of the wall clock during a run.
        seconds: How long the run with that shift took.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    requests: int = 0
    failed: int = 0
    output_tokens: int = 0
    limits: tuple[str, ...] = ()
    clock_shift_s: float = 0.0
    seconds: float = 0.0


def obstacles(
    base: Conditions,
    candidate: Conditions,
    *,
    names: tuple[str, str] = ("the base", "the candidate"),
    on_purpose: Collection[str] = (),
) -> tuple[str, ...]:
    """Name everything that makes the comparison meaningless; empty when it may be made.

    Args:
        base: One side.
        candidate: The other.
        names: What a reader calls them.
        on_purpose: Facts that are meant to differ, such as `arguments` in an A/B of arguments.
    """
    found = [
        f"other {name}: {_shown(before)} of {names[0]}, {_shown(after)} of {names[1]}"
        for name, before in base.facts.items()
        if before
        and (after := candidate.facts.get(name))
        and before != after
        and name not in on_purpose
    ]
    for name, side in zip(names, (base, candidate), strict=True):
        found += _unsound(name, side)
    return (*found, *_tokens_apart(base, candidate, names))


def _unsound(name: str, side: Conditions) -> list[str]:
    found = [f"the client was the limit of {name}: {one_line(reason)}" for reason in side.limits]
    if side.failed > MOST_FAILED * side.requests:
        found.append(
            f"{side.failed} of {side.requests} requests of {name} failed, "
            f"at most {100 * MOST_FAILED:.1f} % may"
        )
    if abs(side.clock_shift_s) > max(_LEAST_STEP_S, _SLEW * side.seconds):
        found.append(
            f"the clock was set during a run of {name}, by {1000 * side.clock_shift_s:+.1f} ms"
        )
    return found


def _tokens_apart(
    base: Conditions, candidate: Conditions, names: tuple[str, str]
) -> tuple[str, ...]:
    if not (base.requests and candidate.requests and base.output_tokens + candidate.output_tokens):
        return ()
    before = base.output_tokens / base.requests
    after = candidate.output_tokens / candidate.requests
    if abs(after - before) <= MOST_TOKENS_APART * max(before, after):
        return ()
    told = f"{before:.4g} tokens a request of {names[0]}, {after:.4g} of {names[1]}"
    return (f"other output: {told}, so they did not do the same work",)


def _shown(text: str) -> str:
    return one_line(text, _SHOWN)
