"""Cut what a server said of itself to a window of a load, and hold it against the client's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.percentile import PERMILLES, needed, rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vllm.domain.load.server_looks import Histogram, ServerLook, ServerLooks
    from pytest_vllm.domain.load.steady import Window

_MS = 1e3
_NS_PER_S = 1e9
_FEWEST = 2
_BY_STEP = ("itl",)
"""Histograms with a value for each step of a request, whose percentiles rest on requests."""


def cut_server(told: ServerLooks, window: Window) -> dict[str, object]:
    """Sum up what a server said of itself in a window, as plain data.

    The looks nearest to the edges of the window bound it; where they are one and the same (the
    window is shorter than the time between two looks) it is the whole load, as `span` says.

    Returns:
        `span` (`window` or `load`), `begin_s` and `end_s` (first and last look used, from the begin
        of the window), `looks`, `failed_looks`, `look_ms` (what a look took in the mean),
        `histograms`: by name `count`, `mean_ms`, and by percentile `[more than, at most]` in ms, a
        `None` as upper edge meaning above all buckets; `gauges`: by name `mean`, `least`, `most`;
        `counters`: by name what was added; `prefix_hit_share`, `acceptance_share`; `notes`.
        Only `notes` where the server told nothing.
    """
    looks, notes = told.looks, list(told.notes)
    if len(looks) < _FEWEST:
        return {"failed_looks": told.failed, "notes": [*notes, "the server told nothing"]}
    first, last = _nearest(looks, window.begin_ns), _nearest(looks, window.end_ns)
    span = "window" if window.reached and first < last else "load"
    if span == "load":
        first, last = 0, len(looks) - 1
    before, after = looks[first], looks[last]
    counters = dict(_counted(before, after, notes))
    cut: dict[str, object] = {
        "span": span,
        "begin_s": (before.at_ns - window.begin_ns) / _NS_PER_S,
        "end_s": (after.at_ns - window.begin_ns) / _NS_PER_S,
        "looks": last - first + 1,
        "failed_looks": told.failed,
        "look_ms": sum(look.took_ns for look in looks) / len(looks) / 1e6,
        "histograms": dict(_histograms(before, after, notes)),
        "gauges": _gauges(looks[first : last + 1]),
        "counters": counters,
        "notes": notes,
    }
    for name, part, whole in (
        ("prefix_hit_share", "prefix_hits", "prefix_queries"),
        ("acceptance_share", "accepted_tokens", "drafted_tokens"),
    ):
        if counters.get(whole):
            cut[name] = counters.get(part, 0.0) / counters[whole]
    return cut


def mean_growth_ms(before: ServerLook, after: ServerLook, name: str) -> tuple[float, float] | None:
    """Return how many values a histogram took in between two looks, and their mean in ms."""
    old, new = before.histograms.get(name), after.histograms.get(name)
    if old is None or new is None or new.count <= old.count:
        return None
    count = new.count - old.count
    return count, (new.total - old.total) / count * _MS


def bounds_ms(
    old: Histogram, new: Histogram, permille: int
) -> tuple[float | None, float | None] | None:
    """Return the edges of the bucket that holds a percentile by nearest rank of what was added.

    Returns:
        More than the first and at most the second, in ms; the second is `None` above all buckets.
        `None` where the buckets do not say.
    """
    count = round(new.count - old.count)
    wanted = rank(permille, count)
    below = 0.0
    for edge in sorted(new.buckets):
        if new.buckets[edge] - old.buckets.get(edge, 0.0) >= wanted:
            return below * _MS, None if math.isinf(edge) else edge * _MS
        below = edge
    return None


def _histograms(
    before: ServerLook, after: ServerLook, notes: list[str]
) -> Iterator[tuple[str, dict[str, object]]]:
    requests = mean_growth_ms(before, after, "ttft")
    for name, new in after.histograms.items():
        old = before.histograms.get(name)
        grown = mean_growth_ms(before, after, name)
        if old is not None and new.count < old.count:
            notes.append(f"the server's histogram of {name} went back: it was started again")
        if old is None or grown is None:
            continue
        support = grown[0]
        if name in _BY_STEP:
            support = requests[0] if requests else 0.0
        bounds: dict[str, object] = {
            label: list(found)
            for label, permille in PERMILLES.items()
            if support >= needed(permille) and (found := bounds_ms(old, new, permille)) is not None
        }
        yield name, {"count": grown[0], "mean_ms": grown[1], **bounds}


def _gauges(looks: Sequence[ServerLook]) -> dict[str, dict[str, float]]:
    names = {name for look in looks for name in look.gauges}
    gauges = {}
    for name in sorted(names):
        values = [look.gauges[name] for look in looks if name in look.gauges]
        mean = sum(values) / len(values)
        gauges[name] = {"mean": mean, "least": min(values), "most": max(values)}
    return gauges


def _counted(
    before: ServerLook, after: ServerLook, notes: list[str]
) -> Iterator[tuple[str, float]]:
    for name, value in after.counters.items():
        # a counter with labels is not there before its first event
        added = value - before.counters.get(name, 0.0)
        if added < 0:
            notes.append(f"the server's counter of {name} went back: it was started again")
        else:
            yield name, added


def _nearest(looks: Sequence[ServerLook], at_ns: int) -> int:
    return min(range(len(looks)), key=lambda number: abs(looks[number].at_ns - at_ns))
