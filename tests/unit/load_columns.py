"""Columns of a load, written down as timelines in milliseconds."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import NEVER, UNTOLD, Columns, Ending
from pytest_vllm.domain.load.plan import LoadPlan, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

MS = 1_000_000
BEGIN_NS = 5_000_000 * MS


@dataclass(frozen=True, kw_only=True)
class Row:
    """One request: when it was due, sent and over, and when its events came, in ms from the begin.

    `tokens` is what `usage` says, by default as many as there are events; `counts` what the server
    told of each event.
    """

    send: float = 0.0
    events: Sequence[float] = ()
    tokens: int | None = None
    counts: Sequence[int] = ()
    due: float | None = None
    end: float | None = None
    ending: Ending = Ending.DONE
    want: int = 0
    prompt: int = 10
    cached: int = UNTOLD
    content_event: int = 0
    after: int | None = None
    warm_up: bool = False
    opened: bool = False
    server_ms: dict[str, float] = field(default_factory=dict)


def at(ms: float) -> int:
    """Return a moment as nanoseconds of the clock."""
    return BEGIN_NS + round(ms * MS)


def load(*rows: Row, concurrency: int = 1, finish: float | None = None) -> tuple[LoadPlan, Columns]:
    """Make the plan and the columns of some requests."""
    columns = Columns(begin_ns=BEGIN_NS)
    names = sorted({name for row in rows for name in row.server_ms})
    columns.server_ms = {name: _floats(name, rows) for name in names}
    requests = []
    for row in rows:
        due = row.send if row.due is None else row.due
        sent = row.ending is not Ending.UNSENT
        last = row.end if row.end is not None else max([row.send, *row.events])
        requests.append(
            Request(
                body=b"{}",
                want_tokens=row.want,
                prompt_tokens=row.prompt,
                warm_up=row.warm_up,
                due_ns=round(due * MS) if row.opened else None,
                after=row.after,
            )
        )
        columns.due_ns.append(at(due))
        columns.send_ns.append(at(row.send) if sent else NEVER)
        columns.header_ns.append(at(row.send) if sent else NEVER)
        columns.end_ns.append(at(last) if sent else NEVER)
        columns.status.append(200 if sent else 0)
        columns.ending.append(row.ending)
        columns.prompt_tokens.append(row.prompt or UNTOLD)
        columns.completion_tokens.append(len(row.events) if row.tokens is None else row.tokens)
        columns.cached_tokens.append(row.cached)
        columns.reply_bytes.append(100)
        columns.content_event.append(row.content_event)
        columns.first_row.append(len(columns.event_ns))
        columns.events.append(len(row.events))
        columns.event_ns.extend(at(event) for event in row.events)
        columns.event_tokens.extend(row.counts or [0] * len(row.events))
        columns.finish.append("length")
    columns.finish_ns = at(finish) if finish is not None else max([BEGIN_NS, *columns.end_ns])
    return LoadPlan(url="http://x", requests=tuple(requests), concurrency=concurrency), columns


def _floats(name: str, rows: Sequence[Row]) -> array[float]:
    return array("d", [row.server_ms.get(name, float("nan")) for row in rows])
