"""Which requests of a load count, which failed, and as what."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import NEVER, UNTOLD, Ending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.plan import LoadPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """The measured requests of a load by how they ended, as numbers of rows.

    Attributes:
        issued: Those that were sent, and those of an open loop that were due and never sent, which
            the server's slowness alone kept back. No warm-up.
        done: Those that ended as they should.
        failures: How many of the others, by the name of the `Ending` in lower case.
        tokens: Tokens that each request wrote, by row; `UNTOLD` where nobody told.
        miscounts: Tokens that all events of a reply together told, by row, where its usage told
            another number: part of the stream was lost, or came twice. Failed or not.
    """

    issued: tuple[int, ...]
    done: tuple[int, ...]
    failures: Mapping[str, int]
    tokens: list[int]
    miscounts: Mapping[int, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Count the failures."""
        return len(self.issued) - len(self.done)


def is_open(plan: LoadPlan) -> bool:
    """Tell whether the measured requests come by a schedule and not when a place is free."""
    return any(request.due_ns is not None and not request.warm_up for request in plan.requests)


def sort(plan: LoadPlan, columns: Columns) -> Sorted:
    """Sort the measured requests of a load.

    Raises:
        ValueError: The columns are not those of this plan.
    """
    count = len(plan.requests)
    if len(columns.ending) != count:
        raise ValueError(f"a plan of {count} requests came back as {len(columns.ending)} rows")
    tokens = [_tokens(columns, row) for row in range(count)]
    issued, done = [], []
    failures: Counter[str] = Counter()
    miscounts: dict[int, int] = {}
    for row, request in enumerate(plan.requests):
        if request.warm_up:
            continue
        ending = Ending(columns.ending[row])
        if ending is Ending.UNSENT and not _was_due(plan, columns, row):
            continue
        issued.append(row)
        if ending is Ending.DONE:
            ending = _check_length(request.want_tokens, tokens[row])
        told = told_by_events(columns, row) if ending is Ending.DONE else UNTOLD
        if told not in (UNTOLD, tokens[row]):
            miscounts[row] = told
            ending = _check_stream(request.want_tokens, columns.content_event[row])
        if ending is Ending.DONE:
            done.append(row)
        else:
            failures[ending.name.lower()] += 1
    return Sorted(
        issued=tuple(issued),
        done=tuple(done),
        failures=dict(failures),
        tokens=tokens,
        miscounts=miscounts,
    )


def told_by_events(columns: Columns, row: int) -> int:
    """Add up the tokens of a request's events; `UNTOLD` where one of them did not tell."""
    first, events = columns.first_row[row], columns.events[row]
    counts = columns.event_tokens[first : first + events]
    return sum(counts) if events and min(counts) > 0 else UNTOLD


def _check_length(want: int, wrote: int) -> Ending:
    """Hold the length of a reply against the one that was asked."""
    if not want or wrote == want:
        return Ending.DONE
    return Ending.UNCOUNTED if wrote == UNTOLD else Ending.WRONG_LENGTH


def _check_stream(want: int, content_event: int) -> Ending:
    """Judge a stream whose events told other tokens than its usage.

    vLLM (0.30, 0.32) streams every token ID, also of events, ends and stop words without text; but
    a server may swallow those that only part reasoning from content, and where the model may end
    by itself what belongs to the answer is the server's to say. Then it is told and no failure.
    """
    return Ending.MISCOUNTED if want and content_event == 0 else Ending.DONE


def _tokens(columns: Columns, row: int) -> int:
    """Count what a request wrote: as `usage` says, else by the counts of its events, if all told.

    Never by the number of its events: an event may hold several tokens.
    """
    told = columns.completion_tokens[row]
    if told != UNTOLD:
        return told
    return told_by_events(columns, row)


def _was_due(plan: LoadPlan, columns: Columns, row: int) -> bool:
    """Tell whether an unsent request of an open loop was due before the load ended."""
    due_ns = plan.requests[row].due_ns
    if due_ns is None or columns.begin_ns == NEVER:
        return False
    return columns.begin_ns + due_ns <= columns.finish_ns
