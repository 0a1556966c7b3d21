"""The columns of a load that went through asyncio."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import Columns, Ending
from pytest_vllm.domain.load.percentile import rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.adapters.load.asyncio_reply import Reply

FAILURES = 200
"""Failed requests of which what was seen is kept."""


def gather(replies: Sequence[Reply], due_ns: Sequence[int]) -> Columns:
    """Make columns of replies, in the order of the plan.

    Args:
        replies: What became of each request.
        due_ns: When each one was due, on the clock of the replies.
    """
    columns = Columns()
    names = sorted({name for reply in replies for name in reply.server_ms})
    columns.server_ms = {name: array("d") for name in names}
    failures: dict[int, str] = {}
    for number, reply in enumerate(replies):
        columns.due_ns.append(due_ns[number])
        columns.send_ns.append(reply.send_ns)
        columns.header_ns.append(reply.header_ns)
        columns.end_ns.append(reply.end_ns)
        columns.status.append(reply.status)
        columns.ending.append(reply.ending)
        columns.prompt_tokens.append(reply.prompt_tokens)
        columns.completion_tokens.append(reply.completion_tokens)
        columns.cached_tokens.append(reply.cached_tokens)
        columns.reply_bytes.append(reply.reply_bytes)
        columns.content_event.append(reply.content_event)
        columns.first_row.append(len(columns.event_ns))
        columns.events.append(len(reply.event_ns))
        columns.event_ns.extend(reply.event_ns)
        columns.event_tokens.extend(reply.event_tokens)
        columns.finish.append(reply.finish)
        for name in names:
            columns.server_ms[name].append(reply.server_ms.get(name, math.nan))
        if reply.ending not in (Ending.DONE, Ending.UNSENT) and len(failures) < FAILURES:
            failures[number] = reply.failure
    columns.failures = failures
    return columns


def lateness(columns: Columns, held: Sequence[int]) -> tuple[int, int, int]:
    """Give send minus due at p50, p99 and most, of requests that no bound held back."""
    late = sorted(
        sent - due
        for sent, due, back in zip(columns.send_ns, columns.due_ns, held, strict=True)
        if sent and not back
    )
    if not late:
        return (0, 0, 0)
    return (late[rank(500, len(late)) - 1], late[rank(990, len(late)) - 1], late[-1])
