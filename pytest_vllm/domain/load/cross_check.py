"""The server's own times of the requests of a load, held against the client's.

vLLM times each request itself. With `--enable-per-request-metrics` (0.30 and newer) it sends in the
usage chunk `queue_time_ms` (queued to scheduled), `time_to_first_token_ms` (scheduled to first
token), `generation_time_ms` (first to last token) and `mean_itl_ms`; always it keeps histograms,
whose TTFT and E2E count from the arrival in the API server. The client's times hold all of that and
more: what is left over is the API server's work before and after the engine, the network and the
client. It is never below zero, unless one of them is wrong.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import Ending
from pytest_vllm.domain.load.percentile import distribute
from pytest_vllm.domain.load.server_window import mean_growth_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.server_looks import ServerLook, ServerLooks

TICK_MS = 2.0
"""The server's wall clock and the client's monotonic one may differ by so much over a request."""

_FIRST = ("queue_time_ms", "time_to_first_token_ms")
_NS_PER_MS = 1e6
_FEWEST = 2


def check_requests(columns: Columns, rows: Sequence[int]) -> dict[str, object]:
    """Compare the client's times of some requests with what the server timed of the same ones.

    Returns:
        `ttft`: the client's TTFT less queue and prefill of the server (HTTP, tokenizing, network
        and client); `generation`: the client's first to last event less the server's first to last
        token (jitter of the way, both signs). Each a `Distribution` as plain data, in ms. Empty
        where the server told no times.
    """
    told = columns.server_ms
    beyond: dict[str, list[float]] = {"ttft": [], "generation": []}
    for row in rows:
        first, count = columns.first_row[row], columns.events[row]
        if not count:
            continue
        begin, end = columns.event_ns[first], columns.event_ns[first + count - 1]
        inside = sum(_told(told, name, row) for name in _FIRST)
        beyond["ttft"].append(begin - columns.send_ns[row] - inside * _NS_PER_MS)
        generation = _told(told, "generation_time_ms", row)
        beyond["generation"].append(end - begin - generation * _NS_PER_MS)
    known = {
        name: [value for value in values if not math.isnan(value)]
        for name, values in beyond.items()
    }
    return {
        name: asdict(distribute(values, requests=len(values)))
        for name, values in known.items()
        if values
    }


def check_means(columns: Columns, told: ServerLooks) -> dict[str, object]:
    """Compare means over the whole load, of all requests with the warm-up: the same ones.

    Only where the server finished as many requests as the load sent, and each ended as it should.

    Returns:
        By `ttft` and `e2el`: `client_ms`, `server_ms` and `beyond_ms`, the difference. Empty where
        they were not the same requests.
    """
    if len(told.looks) < _FEWEST:
        return {}
    rows = [row for row, ending in enumerate(columns.ending) if ending != Ending.UNSENT]
    alike = all(columns.ending[row] == Ending.DONE and columns.events[row] for row in rows)
    if not rows or not alike:
        return {}
    firsts = [columns.event_ns[columns.first_row[row]] - columns.send_ns[row] for row in rows]
    # the end of the body, since the last token may have no text and so no event
    lasts = [columns.end_ns[row] - columns.send_ns[row] for row in rows]
    means: dict[str, object] = {}
    for name, values in (("ttft", firsts), ("e2el", lasts)):
        grown = mean_growth_ms(told.looks[0], told.looks[-1], name)
        if grown is None or round(grown[0]) != len(rows):
            continue
        client_ms = sum(values) / len(values) / _NS_PER_MS
        means[name] = {
            "client_ms": client_ms,
            "server_ms": grown[1],
            "beyond_ms": client_ms - grown[1],
        }
    return means


def other_traffic(columns: Columns, told: ServerLooks) -> int:
    """Count the requests that the server finished during the load beyond those that it was sent."""
    if len(told.looks) < _FEWEST:
        return 0
    before, after = told.looks[0], told.looks[-1]
    sent = sum(ending != Ending.UNSENT for ending in columns.ending)
    return max(0, round(_finished(after) - _finished(before)) - sent)


def disagreements(requests: dict[str, object], means: dict[str, object]) -> tuple[str, ...]:
    """Name where the server says that it took longer than the client waited, which cannot be."""
    found = []
    for name, told in means.items():
        if isinstance(told, dict) and told["beyond_ms"] < -TICK_MS:
            found.append(
                f"the server's mean {name} ({told['server_ms']:.1f} ms by its histogram) is longer "
                f"than the client's ({told['client_ms']:.1f} ms): one of them is wrong"
            )
    first = requests.get("ttft")
    if isinstance(first, dict) and first["mean"] < -TICK_MS:
        found.append(
            f"by the server's own times of each request, its first tokens came "
            f"{-first['mean']:.1f} ms after the client had them: one of them is wrong"
        )
    return tuple(found)


def _finished(look: ServerLook) -> float:
    return look.counters.get("finished", 0.0)


def _told(columns: object, name: str, row: int) -> float:
    column = columns.get(name) if isinstance(columns, dict) else None
    return math.nan if column is None else column[row]
