"""What a load got out of a server in a span of time, and how much of it was good."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import UNTOLD
from pytest_vllm.domain.load.latency import counts_told

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.failures import Sorted
    from pytest_vllm.domain.load.latency import Latencies
    from pytest_vllm.domain.load.measurement import Slo
    from pytest_vllm.domain.load.plan import LoadPlan
    from pytest_vllm.domain.load.steady import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What requests that ended as they should brought within a window.

    Attributes:
        requests: Requests that came in it, each by the share of its tokens that did: by their last
            token alone, the last ones of a load would mostly be missing.
        good: The same of those that kept the SLO.
        output_tokens: Tokens written in it; `None` when some request's are not known.
        prompt_tokens: Tokens of the prompts whose first token came in it; `None` as above.
    """

    requests: float
    good: float
    output_tokens: float | None
    prompt_tokens: int | None


def output(
    plan: LoadPlan, columns: Columns, ends: Sorted, good: Collection[int], window: Window
) -> Output:
    """Add up what came within a window, by the time of each event.

    The N tokens of a request are laid on its events by the counts that the server told for each,
    else evenly, so that their sum is always exactly N. A reply without any token event counts at
    its end.
    """
    prompt = 0
    requests = kept = written = 0.0
    known = prompts_known = True
    for row in ends.done:
        first, count = columns.first_row[row], columns.events[row]
        if count:
            low = bisect_left(columns.event_ns, window.begin_ns, first, first + count)
            high = bisect_right(columns.event_ns, window.end_ns, low, first + count)
            begins, share = low == first < high, _share(columns, row, low, high)
        else:
            begins = window.begin_ns <= columns.end_ns[row] <= window.end_ns
            share = float(begins)
        tokens, asked = ends.tokens[row], _prompt_tokens(plan, columns, row)
        known = known and tokens != UNTOLD
        prompts_known = prompts_known and asked != UNTOLD
        written += tokens * share
        prompt += asked * begins
        requests += share
        kept += share if row in good else 0.0
    return Output(
        requests=requests,
        good=kept,
        output_tokens=written if known else None,
        prompt_tokens=prompt if prompts_known else None,
    )


def keep(latencies: Latencies, ends: Sorted, slo: Slo, *, scheduled: bool) -> frozenset[int]:
    """Return the requests that keep every part of an SLO.

    A failed request keeps none, nor does one for which a metric with an SLO on it is undefined. But
    a reply of one token has no TPOT and no gap: it keeps both if it keeps the TTFT (vLLM's client
    takes its TPOT as 0, which every server keeps).

    Args:
        latencies: What the requests took.
        ends: The requests by how they ended.
        slo: What is asked.
        scheduled: Whether TTFT and E2EL count from the schedule.
    """
    since = "_sched" if scheduled else ""
    ttft = _keeping(latencies, ends, f"ttft{since}", slo.ttft_ms)
    single = {row for row in latencies.by_request.get("ttft", {}) if ends.tokens[row] == 1}
    return frozenset(
        ttft
        & _keeping(latencies, ends, f"e2el{since}", slo.e2el_ms)
        & (_keeping(latencies, ends, "tpot", slo.tpot_ms) | single)
        & (_keeping(latencies, ends, "stall", slo.stall_ms) | single)
    )


def asks(slo: Slo) -> bool:
    """Tell whether an SLO asks for anything."""
    parts = (slo.ttft_ms, slo.tpot_ms, slo.e2el_ms, slo.stall_ms)
    return any(part is not None for part in parts)


def _keeping(latencies: Latencies, ends: Sorted, metric: str, most_ms: float | None) -> set[int]:
    if most_ms is None:
        return set(ends.done)
    values = latencies.by_request.get(metric, {})
    return {row for row, value in values.items() if value <= most_ms * 1e6}


def _share(columns: Columns, row: int, low: int, high: int) -> float:
    """Return the share of a request's tokens that some of its events hold."""
    first, count = columns.first_row[row], columns.events[row]
    if high - low == count:
        return 1.0
    if not counts_told(columns, row):
        return (high - low) / count
    counts = columns.event_tokens
    return sum(counts[low:high]) / sum(counts[first : first + count])


def _prompt_tokens(plan: LoadPlan, columns: Columns, row: int) -> int:
    """Count a prompt's tokens: as the server says, else as they were counted when it was built."""
    told = columns.prompt_tokens[row]
    return told if told != UNTOLD else plan.requests[row].prompt_tokens or UNTOLD
