"""A comparison for the terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from pytest_vllm.domain.run_comparison import Sameness
from pytest_vllm.domain.text import one_line, printable
from pytest_vllm.reports.compare_words import (
    CAN_BE_FORCED,
    FORCED,
    NO_LOAD,
    headline,
    machine_line,
    run_lines,
    side_line,
)
from pytest_vllm.reports.regression import judgement_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.run_comparison import Fact, RunComparison

_LONG = 120


def compare_text(found: RunComparison, *, width: int = 100) -> str:
    """Write a comparison for the terminal.

    Args:
        found: What was found.
        width: Columns of the terminal.
    """
    lines = [
        *_runs(found, width),
        *_machine(found, width),
        *_checks(found),
        *_performance(found, width),
    ]
    return "\n".join(lines) + "\n"


def _runs(found: RunComparison, width: int) -> Iterator[str]:
    yield headline(found)
    for name, side in (("base", found.base), ("candidate", found.candidate)):
        if side.decision:
            yield from _wrapped(f"{name}: {side_line(side)}", width)
    for said in run_lines(found):
        yield from _wrapped(f"- {said}", width)
    yield ""


def _machine(found: RunComparison, width: int) -> Iterator[str]:
    yield from _wrapped(machine_line(found), width)
    for fact in found.machine:
        if fact.same is Sameness.DIFFERS:
            yield f"  {fact.name}: {_both(fact)}"
    differs = [fact for fact in found.others if fact.same is Sameness.DIFFERS]
    if differs:
        yield "differs besides, which may be meant:"
        for fact in differs:
            yield f"  {fact.name}: {_both(fact)}"
    yield ""


def _both(fact: Fact) -> str:
    return " -> ".join(one_line(text, _LONG) or "-" for text in (fact.base, fact.candidate))


def _checks(found: RunComparison) -> Iterator[str]:
    if found.checks is None:
        return
    yield "checks: no change" if not found.checks else "checks:"
    widest = max((len(change.kind) for change in found.checks), default=0)
    for change in found.checks:
        outcomes = f"{change.before or '-'} -> {change.after or '-'}"
        yield f"  {change.kind:<{widest}}  {one_line(change.name)}  ({outcomes})"
    yield ""


def _performance(found: RunComparison, width: int) -> Iterator[str]:
    if found.performance is None:
        yield NO_LOAD
        return
    if found.forced:
        yield from _wrapped(FORCED, width)
        for reason in found.forced:
            yield from _wrapped(f"- {reason}", width)
        yield ""
    names = found.base.name, found.candidate.name
    forced = bool(found.forced)
    yield judgement_text(found.performance, names=names, width=width, forced=forced)
    if found.could_be_forced:
        yield from _wrapped(CAN_BE_FORCED, width)
    if forced:
        yield from _wrapped("FORCED: see above why these figures are not comparable", width)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(printable(text), width, subsequent_indent="  ", break_long_words=False)
