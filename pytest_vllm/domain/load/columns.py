"""What came back of a load: columns of numbers, however many events there were."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NEVER = 0
"""A time that did not come."""
UNTOLD = -1
"""A count that the server did not tell."""


class Ending(IntEnum):
    """How a request ended; all but `DONE` and `UNSENT` are failures, each counted by its kind."""

    UNSENT = 0
    DONE = 1
    CONNECT = 2  # no connection
    STATUS = 3  # answered with another status than 200
    RESET = 4  # the connection broke in mid-reply
    TRUNCATED = 5  # the connection or the body ended without [DONE]
    ERROR_EVENT = 6  # an error object as an event of the stream
    MALFORMED = 7  # no HTTP, chunked framing, event or JSON as it must be
    STALLED = 8  # no byte for Limits.stall_s after the first token
    TIMEOUT = 9  # longer than Limits.request_s
    TOO_LARGE = 10  # more bytes than Limits.reply_bytes
    WRONG_LENGTH = 11  # other tokens than Request.want_tokens (set by the metrics, not on the wire)
    CUT = 12  # still in flight when Limits.run_s was over
    UNCOUNTED = 13  # Request.want_tokens asked, no count was told (set by the metrics)
    MISCOUNTED = 14  # so many by usage, but the events told others (set by the metrics)


def _times() -> array[int]:
    return array("q")


@dataclass(slots=True, kw_only=True)
class Columns:
    """One row for each request of the plan, in its order, and one for each token event.

    All times are nanoseconds of CLOCK_MONOTONIC, `NEVER` where it did not happen; all counts are
    `UNTOLD` where the server did not tell.

    Attributes:
        due_ns: When the request was due: the begin plus `Request.due_ns`; in a closed loop the
            moment its place was free (or its predecessor's end plus the pause).
        send_ns: Just before its first byte was sent.
        header_ns: Arrival of the reply's status line and headers.
        end_ns: Arrival of the body's end, or when the failure was noticed.
        status: HTTP status, 0 for none.
        ending: An `Ending` each.
        prompt_tokens: `usage.prompt_tokens`.
        completion_tokens: `usage.completion_tokens`.
        cached_tokens: `usage.prompt_tokens_details.cached_tokens`.
        reply_bytes: Bytes of the reply as it came.
        content_event: Number (from 0, within the request) of the first event that carried content
            where reasoning came before; 0 without reasoning; `UNTOLD` where none carried content.
        first_row: First row of the request's events in `event_ns` and `event_tokens`.
        events: How many token events it had (`load.md` section 5: events with text, reasoning, tool
            arguments or token IDs; no role chunk, no usage chunk, no empty finish).
        event_ns: Arrival of each token event, those of a request one after the other.
        event_tokens: Tokens of each event by `token_ids` or continuous usage; 0 where not told.
        server_ms: What the server timed itself (`--enable-per-request-metrics`), by field name: a
            column with one value for each request, NaN where not told. Empty without.
        finish: Finish reasons: `""`, `length`, `stop`, ... one for each request.
        failures: Up to 200 failed requests by number: what was seen, on one line.
        begin_ns: When the load began (the zero of `Request.due_ns`).
        finish_ns: When it ended.
        facts: How it was measured, see `CollectorFacts`.
    """

    due_ns: array[int] = field(default_factory=_times)
    send_ns: array[int] = field(default_factory=_times)
    header_ns: array[int] = field(default_factory=_times)
    end_ns: array[int] = field(default_factory=_times)
    status: array[int] = field(default_factory=_times)
    ending: array[int] = field(default_factory=_times)
    prompt_tokens: array[int] = field(default_factory=_times)
    completion_tokens: array[int] = field(default_factory=_times)
    cached_tokens: array[int] = field(default_factory=_times)
    reply_bytes: array[int] = field(default_factory=_times)
    content_event: array[int] = field(default_factory=_times)
    first_row: array[int] = field(default_factory=_times)
    events: array[int] = field(default_factory=_times)
    event_ns: array[int] = field(default_factory=_times)
    event_tokens: array[int] = field(default_factory=lambda: array("i"))
    server_ms: dict[str, array[float]] = field(default_factory=dict)
    finish: list[str] = field(default_factory=list)
    failures: Mapping[int, str] = field(default_factory=dict)
    begin_ns: int = 0
    finish_ns: int = 0
    facts: CollectorFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorFacts:
    """How a load was measured.

    Attributes:
        path: `epoll` (our collector) or `asyncio` (a kept library), with why in `reason`.
        reason: Why not `epoll`; empty for it.
        clock: `kernel` (SO_TIMESTAMPNS of the receive) or `user` (after the read returned).
        cpu_s: CPU seconds of the collector's process, user and system, during the load.
        wall_s: Seconds from the first to the last.
        peak_rss_bytes: Largest resident memory of the collector's process.
        reads: Reads from sockets.
        coalesced_reads: Reads that brought more than one token event of a stream.
        events: Token events.
        lateness_ns: Send minus due, at p50, p99 and most, of requests that no bound held back.
        clock_shift_ns: By how much CLOCK_REALTIME moved against CLOCK_MONOTONIC during the load.
        wait_s: Seconds that the collector could have run but waited for a core
            (`/proc/self/schedstat`, second number); 0 where the system does not tell.
        notes: Anything a reader must know.
    """

    path: str
    clock: str
    cpu_s: float
    wall_s: float
    peak_rss_bytes: int
    reads: int
    coalesced_reads: int
    events: int
    lateness_ns: tuple[int, int, int] = (0, 0, 0)
    clock_shift_ns: int = 0
    wait_s: float = 0.0
    reason: str = ""
    notes: tuple[str, ...] = ()
