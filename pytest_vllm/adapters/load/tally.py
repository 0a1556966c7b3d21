"""How far a load is, counted in the collector and told about twice a second."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_vllm.adapters.load.framing import Reply
    from pytest_vllm.adapters.load.link import Link

REPORT_NS = 500_000_000
SOON_NS = 300_000_000
"""How long before a report what was read is to be understood."""
LATEST = 1000
"""Requests of which the median TTFT is told."""

_NS = 1_000_000_000


class Tally:
    """Counts of a load while it runs.

    Args:
        planned: Requests of the plan.
        report: Where the counts go, by the names of `Progress`.

    Attributes:
        left: Requests that have not ended.
        reads: Reads from sockets.
        unstamped: Those of them to which the kernel gave no time.
        again: Requests that were sent once more on another connection.
    """

    def __init__(self, planned: int, report: Callable[[Mapping[str, object]], None]) -> None:
        self.left = self._planned = planned
        self.sent = self.done = self.failed = 0
        self.reads = self.unstamped = self.coalesced = self.again = 0
        self.begin_ns = 0
        self._report = report
        self._events = self._tokens = 0
        self._latest: deque[int] = deque(maxlen=LATEST)
        self._told = (0, 0, 0)  # when, events, tokens

    def begin(self, now_ns: int) -> int:
        """Take note of when the load began, and give that back."""
        self.begin_ns = now_ns
        self._told = (now_ns, 0, 0)
        return now_ns

    def over(self, sent_ns: int, reply: Reply) -> None:
        """Count a request whose reply ended."""
        events = reply.events
        self._events += len(events.times)
        self._tokens += sum(events.tokens)
        self.coalesced += reply.coalesced
        if events.times:
            self._latest.append(events.times[0] - sent_ns)
        self.ended(reply.ending)

    def ended(self, ending: Ending | None) -> None:
        """Count a request that ended."""
        self.left -= 1
        if ending is Ending.DONE:
            self.done += 1
        else:
            self.failed += 1

    def tell(self, now_ns: int, links: Iterable[Link], sent_ns: Sequence[int]) -> bool:
        """Report, if it is time; tell whether the next report is near.

        Args:
            now_ns: Now.
            links: The connections, some of which carry a reply that has not ended.
            sent_ns: When each request was sent.
        """
        before, events_before, tokens_before = self._told
        if now_ns - before < REPORT_NS:
            return now_ns - before > REPORT_NS - SOON_NS
        events, tokens, flying = self._events, self._tokens, 0
        firsts = list(self._latest)
        for link in links:
            if link.reply is not None:
                seen = link.reply.events
                flying += 1
                events += len(seen.times)
                if seen.times:
                    firsts.append(seen.times[0] - sent_ns[link.number])
                    tokens += sum(seen.tokens) if seen.tokens[-1] else 0
        firsts = sorted(firsts[-LATEST:])
        span = (now_ns - before) / _NS
        new_tokens, new_events = tokens - tokens_before, events - events_before
        self._report(
            {
                "elapsed_s": (now_ns - self.begin_ns) / _NS,
                "planned": self._planned,
                "sent": self.sent,
                "in_flight": flying,
                "done": self.done,
                "failed": self.failed,
                "events": events,
                "events_per_s": new_events / span,
                "tokens_per_s": new_tokens / span if new_tokens >= new_events > 0 else None,
                "ttft_p50_ms": firsts[(len(firsts) - 1) // 2] / 1e6 if firsts else None,
            }
        )
        self._told = (now_ns, events, tokens)
        return False
