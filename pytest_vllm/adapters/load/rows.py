"""The columns of a load while they are filled, one row for each request."""

from __future__ import annotations

import math
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import NEVER, UNTOLD, Columns, Ending

if TYPE_CHECKING:
    from pytest_vllm.adapters.load.framing import Reply

FAILURES = 200
"""Failed requests of which what was seen is kept."""
FINISHES = 64
"""Different finish reasons that are kept by name."""

TIMES = ("due_ns", "send_ns", "header_ns", "end_ns", "status", "ending", "reply_bytes")
COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "content_event")
SPANS = ("first_row", "events")
_OTHER = "other"


class Rows:
    """Columns that know their length from the start; a request is written when it ends.

    Args:
        length: Requests of the plan.
    """

    def __init__(self, length: int) -> None:
        self.columns = columns = Columns()
        for name in (*TIMES, *SPANS):
            setattr(columns, name, array("q", [NEVER]) * length)
        for name in COUNTS:
            setattr(columns, name, array("q", [UNTOLD]) * length)
        self.finish = array("B", [0]) * length
        self.finishes: dict[str, int] = {"": 0}
        self.failures: dict[int, str] = {}
        self._length = length

    def write(self, number: int, reply: Reply, *, ordered: bool) -> None:
        """Write what came of a request, whose reply has ended.

        Args:
            number: The request.
            reply: Its reply.
            ordered: Whether times of arrival are known not to go back. Where a packet has no
                stamp, the time of the read stands in, which may be after the next one's stamp.
        """
        columns, events = self.columns, reply.events
        columns.header_ns[number] = reply.header_ns
        columns.status[number] = reply.status
        columns.reply_bytes[number] = reply.received
        columns.prompt_tokens[number] = events.prompt_tokens
        columns.completion_tokens[number] = events.completion_tokens
        columns.cached_tokens[number] = events.cached_tokens
        columns.content_event[number] = events.content_event
        columns.first_row[number] = len(columns.event_ns)
        columns.events[number] = len(events.times)
        columns.event_ns.extend(events.times if ordered else _in_order(events.times))
        columns.event_tokens.extend(events.tokens)
        self.finish[number] = self._finish(events.finish)
        for name, value in events.server_ms.items():
            column = columns.server_ms.get(name)
            if column is None:
                column = columns.server_ms[name] = array("d", [math.nan]) * self._length
            column[number] = value
        self.end(number, reply.ending or Ending.CUT, reply.reason, reply.end_ns)

    def end(self, number: int, ending: Ending, reason: str, at_ns: int) -> None:
        """Write how a request ended."""
        self.columns.ending[number] = ending
        self.columns.end_ns[number] = at_ns
        if ending is not Ending.DONE and len(self.failures) < FAILURES:
            self.failures[number] = reason

    def _finish(self, reason: str) -> int:
        if reason not in self.finishes and len(self.finishes) >= FINISHES:
            reason = _OTHER
        return self.finishes.setdefault(reason, len(self.finishes))


def _in_order(times: array[int]) -> array[int]:
    return array("q", accumulate(times, max))
