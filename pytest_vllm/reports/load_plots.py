"""The loads of a run as plots: distributions of latencies, and figures against the load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.plain import items, mapping, number
from pytest_vllm.reports.load_levels import levels_of
from pytest_vllm.reports.performance import saturation_line
from pytest_vllm.reports.plot_axis import is_drawable, told
from pytest_vllm.reports.plots import Bar, Line, Plot, Point, Words, bar_plot, drawn, line_plot
from pytest_vllm.reports.regression import share_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.load.over_rounds import Ranged
    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.reports.load_levels import LoadLevel

_LATENCIES = {
    "ttft": "Time to first token (TTFT)",
    "tpot": "Time per output token (TPOT)",
    "e2el": "Time of a whole request (E2EL)",
}
_PERCENTILES = ("p50", "p90", "p99")
_MOST_CURVES = 8
_STAIRS = 60
_WIDE = 30.0
"""Latencies that differ by more than this factor are drawn on a logarithmic axis."""
_X = "requests at a time"


def load_plots(record: RunRecord) -> list[Plot]:
    """Draw latencies, throughput and goodput of the loads."""
    levels = levels_of(record.performance)
    if not levels:
        return []
    against = (
        [_throughput(levels, record.performance), _goodput(levels)]
        if len(levels) > 1
        else [_one_level(levels[0])]
    )
    latencies = [_latency(levels, metric) for metric in _LATENCIES] if len(levels) > 1 else []
    return drawn(*against, *(_distribution(levels, metric) for metric in _LATENCIES), *latencies)


def _throughput(levels: Sequence[LoadLevel], performance: Mapping[str, Any]) -> Plot | None:
    found = _line(levels, "output_tokens_per_s", "output tokens")
    if not found:
        return None
    ends = (found[0], found[-1])
    said = _saturation(performance)
    words = Words(
        text=f"From {_told(ends[0].y)} output tokens/s with {told(ends[0].x)} at a time to "
        f"{_told(ends[1].y)} with {told(ends[1].x)}.{said} Intervals: 95 %, over rounds.",
        head=(_X, "output tokens/s", "from", "to", "rounds"),
        rows=_rows(levels, "output_tokens_per_s"),
    )
    line = Line(name="output tokens/s", points=found)
    return line_plot(
        "Throughput against load", [line], x=_X, y="output tokens/s", words=words, **_over(levels)
    )


def _goodput(levels: Sequence[LoadLevel]) -> Plot | None:
    asked = {"requests_per_s": "all requests", "goodput_per_s": "good requests (goodput)"}
    lines = [
        Line(name=name, points=points)
        for figure, name in asked.items()
        if (points := _line(levels, figure, name))
    ]
    if not lines:
        return None
    goods = [(level, share) for level in levels if (share := level.goodput())]
    if goods:
        level, share = min(goods, key=lambda pair: pair[1].value)
        text = (
            f"At {level.name} {share_words(share)} of the requests were good, the least "
            "(with its interval of 95 %)."
        )
    else:
        text = "No bounds for a good request were asked for, so there is no goodput."
    rows = [
        (level.name, *(_told(rate.value if rate else None) for rate in map(level.rate, asked)))
        for level in levels
    ]
    words = Words(text=text, head=("Level", *(f"{name}/s" for name in asked.values())), rows=rows)
    return line_plot(
        "Requests and goodput against load",
        lines,
        x=_X,
        y="requests/s",
        words=words,
        **_over(levels),
    )


def _one_level(level: LoadLevel) -> Plot | None:
    values = level.values("output_tokens_per_s")
    bars = [
        Bar(name=f"round {number}", value=max(0.0, value), label=f"{told(value)} tokens/s")
        for number, value in enumerate(values[:60], 1)
    ]
    rate = level.rate("output_tokens_per_s")
    if rate is None:
        return None
    spread = (
        ""
        if rate.low is None or rate.high is None
        else (f" ({told(rate.low)} to {told(rate.high)} with 95 %)")
    )
    words = Words(
        text=f"One load level was measured, {level.name}, so there is no curve over the load: "
        f"{told(rate.value)} output tokens/s in the mean of its rounds{spread}.",
        head=("Round", "output tokens/s"),
        rows=[(bar.name, told(bar.value)) for bar in bars],
    )
    return bar_plot(
        f"Throughput of each round, {level.name}", bars, x="output tokens/s", words=words
    )


def _distribution(levels: Sequence[LoadLevel], metric: str) -> Plot | None:
    """Draw what share of the requests took at most how long, for each level."""
    known = [(level, curve) for level in levels if (curve := _curve(level, metric))]
    shown = _spread(known)
    values = [value for _, curve in shown for value, _ in curve if value > 0]
    log = bool(values) and max(values) > _WIDE * min(values)
    lines = [Line(name=level.name, points=curve) for level, curve in shown]
    medians = [
        f"{told(seen.value)} ms at {level.name}"
        for level, _ in (shown[:1] + shown[1:][-1:])
        if (seen := level.percentile(metric, "p50")) is not None
    ]
    left = f" {len(shown)} of {len(known)} levels are drawn." if len(shown) < len(known) else ""
    text = f"Median: {', '.join(medians)}.{left}" if medians else f"All requests.{left}"
    words = Words(
        text=text,
        head=("Level", "values", "least", *_PERCENTILES, "most"),
        rows=[_distribution_row(level, metric) for level, _ in known],
    )
    return line_plot(
        f"{_LATENCIES[metric]}, distribution",
        lines,
        x="ms, logarithmic" if log else "ms",
        y="% of the requests take at most",
        words=words,
        log_x=log,
    )


def _latency(levels: Sequence[LoadLevel], metric: str) -> Plot | None:
    """Draw percentiles of a latency against the load, with their intervals."""
    lines = []
    for name in _PERCENTILES:
        points = []
        for level in levels:
            seen = level.percentile(metric, name)
            if seen is not None:
                points.append(_point(level, seen, f"{name} at {level.name}: {told(seen.value)} ms"))
        if points:
            lines.append(Line(name=name, points=points))
    if not lines:
        return None
    missing = [n for n in _PERCENTILES if n not in {line.name for line in lines}]
    left = f" {', '.join(missing)} need more requests than there were." if missing else ""
    words = Words(
        text="Percentiles over all rounds of a level, with intervals of 95 % that are as wide as "
        f"the rounds differ.{left}",
        head=("Level", *_PERCENTILES),
        rows=[(level.name, *(_cell(level, metric, n) for n in _PERCENTILES)) for level in levels],
    )
    return line_plot(
        f"{_LATENCIES[metric]} against load", lines, x=_X, y="ms", words=words, **_over(levels)
    )


def _over(levels: Sequence[LoadLevel]) -> dict[str, Any]:
    """Return how the axis of the load is drawn: each doubling as wide, a label for each level."""
    every = max(1, len(levels) // 8)
    return {
        "log_x": True,
        "ticks": {level.concurrency: f"{level.concurrency:g}" for level in levels[::every]},
    }


def _line(levels: Sequence[LoadLevel], figure: str, what: str) -> list[Point]:
    return [
        _point(level, rate, f"{level.name}: {told(rate.value)}/s {what}")
        for level in levels
        if (rate := level.rate(figure)) is not None
    ]


def _point(level: LoadLevel, seen: Ranged, label: str) -> Point:
    return Point(x=level.concurrency, y=seen.value, low=seen.low, high=seen.high, label=label)


def _rows(levels: Sequence[LoadLevel], figure: str) -> list[tuple[str, ...]]:
    rates = [(level, rate) for level in levels if (rate := level.rate(figure)) is not None]
    return [
        (
            f"{level.concurrency:g}",
            *map(_told, (rate.value, rate.low, rate.high)),
            str(len(level.values(figure))),
        )
        for level, rate in rates
    ]


def _curve(level: LoadLevel, metric: str) -> list[tuple[float, float]]:
    """Return the distribution as time and share in percent; stairs where it has few values."""
    distribution = mapping(level.latencies.get(metric))
    kept = [number(value) for value in items(distribution.get("curve"))]
    values = sorted(value for value in kept if value is not None and is_drawable(value))
    count = number(distribution.get("count")) or len(values)
    if not values or count < len(values):
        return []
    steps = max(1, len(values) - 1)
    shares = [100 * ((n * (int(count) - 1) // steps) + 1) / int(count) for n in range(len(values))]
    if len(values) > _STAIRS:
        return list(zip(values, shares, strict=True))
    stairs: list[tuple[float, float]] = []
    before = 0.0
    for value, share in zip(values, shares, strict=True):
        stairs += [(value, before), (value, share)]
        before = share
    return stairs


def _spread(known: Sequence[tuple[LoadLevel, Any]]) -> list[tuple[LoadLevel, Any]]:
    """Return at most so many levels as have a colour each, from the lowest to the highest."""
    if len(known) <= _MOST_CURVES:
        return list(known)
    last = len(known) - 1
    return [known[n * last // (_MOST_CURVES - 1)] for n in range(_MOST_CURVES)]


def _distribution_row(level: LoadLevel, metric: str) -> tuple[str, ...]:
    told_ = mapping(level.latencies.get(metric))
    ends = [_told(number(told_.get(key))) for key in ("least", "most")]
    middle = (_cell(level, metric, name) for name in _PERCENTILES)
    return (level.name, _told(number(told_.get("count"))), ends[0], *middle, ends[1])


def _cell(level: LoadLevel, metric: str, name: str) -> str:
    seen = level.percentile(metric, name)
    if seen is None:
        return "too few"
    if seen.low is None or seen.high is None:
        return f"{told(seen.value)} ms"
    return f"{told(seen.value)} ms ({told(seen.low)} to {told(seen.high)})"


def _told(value: float | None) -> str:
    return "-" if value is None else told(value)


def _saturation(performance: Mapping[str, Any]) -> str:
    found = mapping(performance.get("saturation"))
    if number(found.get("output_tokens_per_s")) is None or number(found.get("concurrency")) is None:
        return ""
    return f" Saturation: {saturation_line(performance)}."
