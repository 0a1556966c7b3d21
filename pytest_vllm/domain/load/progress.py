"""How far a load is: what its live line shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A load while it runs, told about twice a second.

    Attributes:
        elapsed_s: Seconds since it began.
        planned: Requests of the plan.
        sent: Requests whose first byte was sent.
        in_flight: Requests that were sent and have not ended.
        done: Requests that ended as they should.
        failed: Requests that ended otherwise.
        events: Token events so far.
        events_per_s: Token events a second since the report before.
        tokens_per_s: Tokens a second since then, `None` where the server does not tell with each
            event how many tokens it carries: events are not tokens.
        ttft_p50_ms: Median TTFT of the latest 1,000 requests, `None` before the first token.
    """

    elapsed_s: float
    planned: int
    sent: int
    in_flight: int
    done: int
    failed: int
    events: int
    events_per_s: float
    tokens_per_s: float | None = None
    ttft_p50_ms: float | None = None
