"""Have the client measure itself: its times of a known server against that server's own."""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load.run import run_load
from pytest_vllm.adapters.load.truth import Schedule, TruthServer
from pytest_vllm.domain.errors import HostError
from pytest_vllm.domain.load.calibration import Calibration
from pytest_vllm.domain.load.columns import CollectorFacts, Columns, Ending
from pytest_vllm.domain.load.percentile import rank
from pytest_vllm.domain.load.plan import Limits, LoadPlan, Request

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Mapping, Sequence

    from pytest_vllm.adapters.load.truth import TruthLog

TTFT_S = 0.02
"""Time to the first token of the truth server: a burst of requests is sent meanwhile."""

USUAL_ITL_S = 0.02
"""Time between two writes where nobody says which rate to expect."""

LEAST_ITL_S, MOST_ITL_S = 0.001, 0.25
LEAST_EVENTS = 4
"""Events of a stream; fewer have no gaps to speak of."""

MOST_STREAMS = 4096
FIRST_TOKENS = 32
"""So many first tokens are compared, in several waves where there are few streams."""

MOST_WAVES = 11
"""With them even one stream has the first tokens that a median needs."""

MOST_ARRIVALS = 2000
BEHIND = 0.5
"""Share of the time between two writes by which a truth server is late that cannot keep up."""

FLOOD_STREAMS = 32
FLOOD_EVENTS = 24_000
"""A fraction of a second, and enough CPU time to divide by."""

FLOOD_CPU_S = 1.0
"""No longer than this, at what an event took in the paced part."""

_NS = 1_000_000_000


def calibrate(  # noqa: PLR0913 - what the load is, and the path that it takes
    *,
    streams: int,
    events_per_s: float = 0.0,
    requests_per_s: float = 0.0,
    seconds: float = 2.0,
    path: str = "epoll",
    client: Callable[[LoadPlan], Columns] | None = None,
) -> Calibration:
    """Measure the client at the rate and the concurrency of the load that is to come.

    Args:
        streams: Streams that will be in flight together.
        events_per_s: Token events a second over all of them; 0 when nobody knows yet: 50 a second
            for each stream.
        requests_per_s: Rate at which an open loop will send; its sends are timed as such. 0: a
            closed loop.
        seconds: How long the paced part takes; the flood after it takes about one.
        path: The path that the load takes, `CollectorFacts.path` of an earlier one to the same
            server: `epoll` or `asyncio`.
        client: What sends a plan, instead of the one of that path.

    Raises:
        HostError: No event could be compared; the host cannot run such a load.
    """
    began = time.monotonic()
    client = client or _client_of(path)
    streams = min(max(1, streams), MOST_STREAMS)
    wanted = streams / events_per_s if events_per_s > 0 else USUAL_ITL_S
    itl_s = min(max(wanted, LEAST_ITL_S), MOST_ITL_S)
    schedule = Schedule(ttft_us=int(TTFT_S * 1e6), itl_us=int(itl_s * 1e6), grid=True)
    open_loop = requests_per_s > 0  # its requests are all due at once: one wave
    waves = 1 if open_loop else min(MOST_WAVES, max(2, math.ceil(FIRST_TOKENS / streams)))
    tokens = max(LEAST_EVENTS, round((seconds / waves - TTFT_S) / itl_s))
    limits = Limits(request_s=5 * seconds + 20, stall_s=10, run_s=5 * seconds + 20, connect_s=10)
    with TruthServer(schedule) as server:
        requests = [_request(number, tokens) for number in range(streams * waves)]
        arrivals = min(int(requests_per_s * seconds), MOST_ARRIVALS)
        requests += [
            _request(len(requests) + number, LEAST_EVENTS, int(number / requests_per_s * _NS))
            for number in range(arrivals)
        ]
        plan = _plan(server.url, requests, streams=streams, limits=limits, open_loop=arrivals > 0)
        paced = _Measured(client(plan), server.log())
        server.set(Schedule(ttft_us=0, itl_us=0))
        floods = min(streams, FLOOD_STREAMS)
        tokens = max(LEAST_EVENTS, min(FLOOD_EVENTS, paced.affordable(FLOOD_CPU_S)) // floods)
        each = [_request(number, tokens) for number in range(floods)]
        flood = _Measured(
            client(_plan(server.url, each, streams=floods, limits=limits)), server.log()
        )
    errors = paced.errors()
    lateness = paced.lateness(streams * waves if arrivals else 0)
    facts = paced.facts
    return Calibration(
        path=facts.path,
        clock=facts.clock,
        streams=streams,
        asked_events_per_s=streams / itl_s,
        events_per_s=paced.rate(),
        events=len(errors.first) + len(errors.gaps),
        requests=len(errors.first),
        ttft_error_p50_us=_percentile_us(errors.first, 500),
        ttft_error_p99_us=_percentile_us(errors.first, 990),
        itl_error_p50_us=_percentile_us(errors.gaps, 500),
        itl_error_p99_us=_percentile_us(errors.gaps, 990),
        cpu_share=facts.cpu_s / facts.wall_s if facts.wall_s else 0.0,
        cpu_us_per_event=facts.cpu_s * 1e6 / max(1, facts.events),
        wait_share=facts.wait_s / facts.wall_s if facts.wall_s else 0.0,
        coalesced_share=facts.coalesced_reads / max(1, facts.reads),
        lateness_p50_us=_percentile_us(lateness, 500),
        lateness_p99_us=_percentile_us(lateness, 990),
        capacity_events_per_s=flood.capacity(),
        flood_events_per_s=flood.facts.events / flood.facts.wall_s if flood.facts.wall_s else 0.0,
        peak_rss_bytes=max(facts.peak_rss_bytes, flood.facts.peak_rss_bytes),
        seconds=time.monotonic() - began,
        failed=errors.failed + flood.failed(),
        notes=(*facts.notes, *_kept(paced.log, itl_s, paced.rate())),
    )


def _kept(log: TruthLog, itl_s: float, rate: float) -> tuple[str, ...]:
    """Say that the truth server could not keep its schedule, if it could not."""
    late = _percentile_us(list(log.lateness_ns()), 500) / 1e6
    if late <= BEHIND * itl_s:
        return ()
    told = (
        f"the truth server wrote half of its events more than {late * 1e3:.1f} ms late, at "
        f"{rate:,.0f} events/s: this host is busy, or slow for so many streams"
    )
    return (told,)


def _client_of(path: str) -> Callable[[LoadPlan], Columns]:
    if path != "asyncio":
        return run_load
    from pytest_vllm.adapters.load.asyncio_path import run_asyncio  # noqa: PLC0415 - httpx is slow

    return run_asyncio


def _request(number: int, tokens: int, due_ns: int | None = None) -> Request:
    asked = {
        "model": "truth",
        "prompt": [0] * 64,
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "stub_tag": number,
    }
    return Request(body=json.dumps(asked).encode(), due_ns=due_ns, want_tokens=tokens)


def _plan(
    url: str, requests: Sequence[Request], *, streams: int, limits: Limits, open_loop: bool = False
) -> LoadPlan:
    """Make a plan; in an open loop the streams come first, all at once, and are unbounded."""
    if open_loop:
        requests = [
            request if request.due_ns is not None else _due_at_once(request) for request in requests
        ]
    return LoadPlan(
        url=url,
        requests=tuple(requests),
        concurrency=0 if open_loop else streams,
        limits=limits,
        description={"calibration": True},
    )


def _due_at_once(request: Request) -> Request:
    return Request(body=request.body, due_ns=0, want_tokens=request.want_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Errors:
    """What the client's times are off by, ns, and requests that did not come as they were sent."""

    first: list[int]
    gaps: list[int]
    failed: int


class _Measured:
    """A load and the truth of it."""

    def __init__(self, columns: Columns, log: TruthLog) -> None:
        if columns.facts is None:
            raise HostError("the client says nothing of how it measured")
        self.columns = columns
        self.facts: CollectorFacts = columns.facts
        self.log = log
        self._truth: Mapping[int, array[int]] = log.by_tag()

    def errors(self) -> _Errors:
        """Hold each event's time against the moment before its write."""
        first: list[int] = []
        gaps: list[int] = []
        failed = 0
        columns = self.columns
        for row, ending in enumerate(columns.ending):
            start, count = columns.first_row[row], columns.events[row]
            written = self._truth.get(row)
            if ending != Ending.DONE or written is None or len(written) != count:
                failed += 1
                continue
            seen = columns.event_ns[start : start + count]
            off = [came - before for came, before in zip(seen, written, strict=True)]
            first.append(off[0])
            gaps.extend(abs(after - before) for before, after in itertools.pairwise(off))
        if not first:
            seen_first = next(iter(columns.failures.values()), "no request was sent")
            raise HostError(
                "the client could not be calibrated: none of its "
                f"{len(columns.ending)} requests to the truth server came back: {seen_first}",
                advice="see `ulimit -n` and the memory of the host, or ask for fewer streams",
            )
        return _Errors(first=first, gaps=gaps, failed=failed)

    def failed(self) -> int:
        """Count requests without a sound end."""
        return sum(ending != Ending.DONE for ending in self.columns.ending)

    def rate(self) -> float:
        """Give the events a second that were written, from the first to the last."""
        before = self.log.before_ns
        span = before[-1] - before[0] if len(before) else 0
        return self.log.written / span * _NS if span > 0 else 0.0

    def affordable(self, cpu_s: float) -> int:
        """Give the events that so much CPU time is enough for."""
        return int(cpu_s * self.facts.events / self.facts.cpu_s) if self.facts.cpu_s > 0 else 0

    def capacity(self) -> float:
        """Give the events that one core can take in."""
        return self.facts.events / self.facts.cpu_s if self.facts.cpu_s > 0 else 0.0

    def lateness(self, since: int) -> list[int]:
        """Give how late each request was sent, from a row on."""
        due, sent = self.columns.due_ns[since:], self.columns.send_ns[since:]
        return [send - when for when, send in zip(due, sent, strict=True) if send]


def _percentile_us(values: list[int], permille: int) -> float:
    return sorted(values)[rank(permille, len(values)) - 1] / 1e3 if values else 0.0
