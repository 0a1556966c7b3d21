"""The part of a load in which it was at its full height."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import NEVER
from pytest_vllm.domain.load.failures import is_open

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.failures import Sorted
    from pytest_vllm.domain.load.plan import LoadPlan, Request

HEIGHT = 0.9
"""Share of the target above which a load is at its height."""
LENGTHS = 3
"""A window must be so many times as long as the median request."""

_NS_PER_S = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A span of time in which a load is looked at.

    Attributes:
        begin_ns: Its begin, CLOCK_MONOTONIC.
        end_ns: Its end.
        target: Requests in flight that were aimed at; 0 where none were.
        most: Most requests that were in flight.
        reached: Whether the load reached its height; else this is the whole load.
    """

    begin_ns: int
    end_ns: int
    target: float = 0.0
    most: int = 0
    reached: bool = True

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.begin_ns) / _NS_PER_S


def whole_load(columns: Columns, ends: Sorted) -> Window:
    """Return the span from the first measured send to the last measured end."""
    spans = _spans(columns, ends.issued)
    if not spans:
        return Window(begin_ns=columns.begin_ns, end_ns=columns.begin_ns, reached=False)
    return Window(begin_ns=min(b for b, _ in spans), end_ns=max(e for _, e in spans))


def steady_window(plan: LoadPlan, columns: Columns, ends: Sorted) -> Window:
    """Return the span from the first to the last instant at 90 % of the aimed-at concurrency.

    Only measured requests count as in flight, so that it begins when those of the warm-up are
    mostly gone. In a closed loop the target is its places, and a conversation holds its place also
    between two turns. An open loop has no such target; there it is the concurrency that was
    exceeded half of the time between the first arrival and the last, at least 1.
    """
    whole = whole_load(columns, ends)
    opened = is_open(plan)
    spans = _spans(columns, ends.issued, after=() if opened else plan.requests)
    steps = _steps(spans)
    most = max((level for _, level in steps), default=0)
    target = _usual_level(spans, steps) if opened else plan.concurrency
    high = [at for at, level in steps if level >= HEIGHT * target]
    if not high or not target:
        return replace(whole, target=target, most=most, reached=False)
    last = max(at for (_, level), (at, _) in pairwise(steps) if level >= HEIGHT * target)
    return Window(begin_ns=high[0], end_ns=last, target=target, most=most)


def _spans(
    columns: Columns, rows: Sequence[int], *, after: Sequence[Request] = ()
) -> list[tuple[int, int]]:
    """Return from when to when each request was in flight, or held its place.

    Args:
        columns: What came back.
        rows: The requests.
        after: The plan's requests, where one that waits for another holds that one's place on.
    """
    sent = {row for row in rows if columns.send_ns[row] != NEVER}
    spans = []
    for row in sorted(sent):
        before = after[row].after if after else None
        begin = columns.end_ns[before] if before in sent else columns.send_ns[row]
        spans.append((begin, max(begin, columns.end_ns[row])))
    return spans


def _steps(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return each instant at which the number in flight changed, with the number from then on."""
    changes: Counter[int] = Counter()
    for begin, end in spans:
        changes[begin] += 1
        changes[end] -= 1
    times = sorted(changes)
    return list(zip(times, accumulate(changes[at] for at in times), strict=True))


def _usual_level(spans: Sequence[tuple[int, int]], steps: Sequence[tuple[int, int]]) -> int:
    """Return the number in flight that half of the time of the arrivals was spent at or below."""
    if not spans:
        return 0
    last = max(begin for begin, _ in spans)
    spent: Counter[int] = Counter()
    for (at, level), (until, _) in pairwise(steps):
        spent[level] += max(0, min(until, last) - at)
    half, passed = sum(spent.values()) / 2, 0
    for level in sorted(spent):
        passed += spent[level]
        if passed >= half:
            return max(1, level)
    return 1
