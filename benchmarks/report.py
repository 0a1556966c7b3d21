"""What a client said of its run, and how that differs from the truth."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.truth import Truth

_FIGURES = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "tokens_per_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When a client saw what, ns of CLOCK_MONOTONIC, by request."""

    sent_ns: Mapping[int, int]
    events_ns: dict[int, array[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A client's own figures, `None` where it does not tell.

    `times` is there for those that tell the time of every event.
    """

    requests: int
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    itl_p50_ms: float | None = None
    itl_p99_ms: float | None = None
    tokens_per_s: float | None = None
    times: Times | None = None
    notes: Mapping[str, float | str] | None = None


def read_times(path: Path) -> Times:
    """Read what `inside/raw.py` saved."""
    column = array("q")
    column.frombytes(path.read_bytes())
    sent, events = {}, {}
    at = 0
    while at < len(column):
        number, sent_ns, count = column[at : at + 3]
        sent[number] = sent_ns
        events[number] = column[at + 3 : at + 3 + count]
        at += 3 + count
    return Times(sent_ns=sent, events_ns=events)


def report_of(times: Times) -> Report:
    """Return the figures that follow from times, by the definitions of the field."""
    full = {number: events for number, events in times.events_ns.items() if len(events)}
    ttfts = [events[0] - times.sent_ns[number] for number, events in full.items()]
    gaps = [b - a for events in full.values() for a, b in pairwise(events)]
    last = max(events[-1] for events in full.values())
    span_s = (last - min(times.sent_ns.values())) / 1e9
    return Report(
        requests=len(full),
        ttft_p50_ms=rank(ttfts, 50) / 1e6,
        ttft_p99_ms=rank(ttfts, 99) / 1e6,
        itl_p50_ms=rank(gaps, 50) / 1e6 if gaps else None,
        itl_p99_ms=rank(gaps, 99) / 1e6 if gaps else None,
        tokens_per_s=sum(map(len, full.values())) / span_s,
        times=times,
    )


def rank(values: Sequence[int], percent: float) -> int:
    """Return a percentile by nearest rank."""
    return sorted(values)[max(0, ceil(len(values) * percent / 100) - 1)]


def figures(report: Report, truth: Truth) -> dict[str, float]:
    """Return the true figures, those that were told, and the errors of single events.

    The true TTFT runs from the kernel's arrival of the request to just before the first event's
    send(), the true gap from send() to send(), the true rate from the first request to the last
    event. `event_error_us` is a client's time of an event less the moment before its send().
    """
    found: dict[str, float] = {"server_late_p99_ms": round(rank(truth.late_ns, 99) / 1e6, 3)}
    if truth.arrival_ns:
        own = report_of(Times(sent_ns=truth.arrival_ns, events_ns=truth.before_ns))
        found["span_s"] = round((truth.last_ns - truth.first_ns) / 1e9, 3)
        found |= {f"true_{name}": value for name, value in _values(own).items()}
    found |= told(report)
    if report.times is not None:
        found |= _errors(report.times, truth)
    return found


def told(report: Report) -> dict[str, float]:
    """Return a client's own figures."""
    return {f"told_{name}": value for name, value in _values(report).items()}


def _values(report: Report) -> dict[str, float]:
    values = {name: getattr(report, name) for name in _FIGURES}
    return {name: round(value, 3) for name, value in values.items() if value is not None}


def _errors(times: Times, truth: Truth) -> dict[str, float]:
    events: list[int] = []
    ttfts: list[int] = []
    gaps: list[int] = []
    for number, seen in times.events_ns.items():
        before = truth.before_ns.get(number, ())
        if len(seen) != len(before) or not len(seen):
            continue
        lag = [a - b for a, b in zip(seen, before, strict=True)]
        events += lag
        gaps += [abs(b - a) for a, b in pairwise(lag)]
        if truth.arrival_ns:
            ttfts.append(abs(lag[0] - times.sent_ns[number] + truth.arrival_ns[number]))
    found: dict[str, float] = {"matched_events": len(events)}
    for name, values in (("event", events), ("ttft", ttfts), ("itl", gaps)):
        if values:
            for percent in (50, 99):
                found[f"{name}_error_p{percent}_us"] = round(rank(values, percent) / 1e3, 1)
    if events:
        found["event_error_p99.9_us"] = round(rank(events, 99.9) / 1e3, 1)
    return found
