"""The latencies of each request, by the definitions of the field.

With the token events of a request at `a_1 ... a_m`, of `c_1 ... c_m` tokens, and N tokens in all:

- TTFT = `a_1` - send; from the schedule: `a_1` - due
- ICL = `a_k` - `a_{k-1}`, of all events together: what vLLM's own client prints as "ITL"
- ITL = ICL / `c_k`, `c_k` times; only where the counts are known
- TPOT = (`a_m` - `a_1`) / (N - `c_1`); undefined for N <= `c_1`
- worst stall = the longest ICL of a request
- E2EL = `a_m` - send (or due); `e2e_close` = end of the body - send; normalized = E2EL / N
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from operator import sub
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import NEVER, UNTOLD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.failures import Sorted


@dataclass(slots=True, kw_only=True)
class Latencies:
    """What the requests that ended as they should took, in nanoseconds.

    Attributes:
        by_request: By metric, the value of each request by its row; a request for which the metric
            is not defined is not in it.
        icl: Gaps between the events of a request, of all requests.
        itl: The same for each token, where the counts are known; `None` when each event holds one
            token, so that it is `icl`.
        gapped: Requests that have a gap.
        bundled: Requests whose events hold several tokens without saying how many.
        whole: Requests whose several tokens came in one event, as without streaming.
        silent: Requests without any token event.
        uncounted: Requests of which nobody told how many tokens they wrote.
        backwards: Gaps below zero: the clock was set back.
    """

    by_request: dict[str, dict[int, float]] = field(default_factory=dict)
    icl: array[int] = field(default_factory=lambda: array("q"))
    itl: array[float] | None = None
    gapped: int = 0
    bundled: int = 0
    whole: int = 0
    silent: int = 0
    uncounted: int = 0
    backwards: int = 0

    @property
    def counted(self) -> bool:
        """Whether it is known of every event how many tokens it holds."""
        return not self.bundled and not self.uncounted

    def put(self, metric: str, row: int, value: float) -> None:
        """Keep the value of one request."""
        self.by_request.setdefault(metric, {})[row] = value


def read_latencies(columns: Columns, ends: Sorted, *, scheduled: bool) -> Latencies:
    """Work out the latencies of the requests that ended as they should.

    Args:
        columns: What came back.
        ends: Its rows by how they ended.
        scheduled: Whether the requests came by a schedule, so that latencies from it are told.
    """
    latencies = Latencies()
    for row in ends.done:
        _read_request(latencies, columns, row, ends.tokens[row], scheduled=scheduled)
    reasons = any(columns.content_event[row] > 0 for row in ends.done)
    if not reasons:
        latencies.by_request.pop("ttft_content", None)
    if latencies.counted:
        latencies.itl = _per_token(columns, ends.done)
    return latencies


def first_tokens(columns: Columns, row: int, tokens: int) -> int:
    """Count the tokens of a request's first event.

    An event whose count was not told is one token, but for the only event of a reply, which holds
    all of them.
    """
    if columns.events[row] == 1 and tokens != UNTOLD:
        return tokens
    return max(1, columns.event_tokens[columns.first_row[row]])


def counts_told(columns: Columns, row: int) -> bool:
    """Tell whether the server said of each event how many tokens it holds."""
    first = columns.first_row[row]
    counts = columns.event_tokens[first : first + columns.events[row]]
    return bool(counts) and min(counts) > 0


def _read_request(
    latencies: Latencies, columns: Columns, row: int, tokens: int, *, scheduled: bool
) -> None:
    first, count = columns.first_row[row], columns.events[row]
    send, due = columns.send_ns[row], columns.due_ns[row]
    if columns.end_ns[row] != NEVER:
        latencies.put("e2e_close", row, columns.end_ns[row] - send)
    latencies.uncounted += tokens == UNTOLD
    if not count:
        latencies.silent += 1
        return
    at = columns.event_ns[first : first + count]
    latencies.put("ttft", row, at[0] - send)
    latencies.put("e2el", row, at[-1] - send)
    if scheduled:
        latencies.put("ttft_sched", row, at[0] - due)
        latencies.put("e2el_sched", row, at[-1] - due)
    if columns.content_event[row] >= 0:
        latencies.put("ttft_content", row, at[columns.content_event[row]] - send)
    latencies.whole += count == 1 < tokens
    if tokens not in (count, UNTOLD) and not counts_told(columns, row):
        latencies.bundled += 1
    if tokens > 0:
        latencies.put("normalized", row, (at[-1] - send) / tokens)
    beyond = tokens - first_tokens(columns, row, tokens)
    if beyond > 0:
        latencies.put("tpot", row, (at[-1] - at[0]) / beyond)
    if count > 1:
        _read_gaps(latencies, row, at)


def _read_gaps(latencies: Latencies, row: int, at: array[int]) -> None:
    gaps = array("q", map(sub, at[1:], at))
    latencies.icl.extend(gaps)
    latencies.gapped += 1
    latencies.put("stall", row, max(gaps))
    if min(gaps) < 0:
        latencies.backwards += sum(gap < 0 for gap in gaps)


def _per_token(columns: Columns, rows: Sequence[int]) -> array[float] | None:
    """Share each gap among the tokens of the event that ended it; `None` when each is one."""
    if not any(_holds_several(columns, row) for row in rows):
        return None
    shares: array[float] = array("d")
    for row in rows:
        first, count = columns.first_row[row], columns.events[row]
        at = columns.event_ns[first : first + count]
        counts = columns.event_tokens[first : first + count]
        told = counts_told(columns, row)
        for gap, tokens in zip(map(sub, at[1:], at), counts[1:], strict=True):
            held = tokens if told else 1
            shares.extend([gap / held] * held)
    return shares


def _holds_several(columns: Columns, row: int) -> bool:
    first, count = columns.first_row[row], columns.events[row]
    return count > 1 and max(columns.event_tokens[first + 1 : first + count]) > 1
