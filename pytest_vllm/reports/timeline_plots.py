"""What server and GPUs did over time, with the loads as bands over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.plain import items, mapping, mappings, number
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.load_levels import levels_of
from pytest_vllm.reports.plot_axis import is_drawable, told
from pytest_vllm.reports.plots import Band, Line, Plot, Words, drawn, line_plot, thin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.reports.load_levels import LoadLevel

_NS = 1e9
_GIB = 2**30
_GPUS = 64
_POINTS = 4000
"""Most points of a plot, over all of its lines."""
_FEWEST_POINTS = 40
_X = "seconds since the samples began"

Column = list[tuple[float, float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clock:
    """The zero of all times.

    Attributes:
        zero_ns: Its CLOCK_MONOTONIC.
        name: What the axis is called.
    """

    zero_ns: float
    name: str

    def at(self, moment_ns: float) -> float:
        return (moment_ns - self.zero_ns) / _NS


def timeline_plots(record: RunRecord) -> list[Plot]:
    """Draw requests and KV use of the loads, and memory and power of the GPUs over the run."""
    levels = levels_of(record.performance)
    clock = _clock(record, levels)
    bands = [] if clock is None else _bands(levels, clock)
    loads = (
        [] if clock is None else [_requests(levels, clock, bands), _kv_use(levels, clock, bands)]
    )
    on_samples = bands if number(record.gpu_samples.get("began_ns")) else []
    return drawn(*loads, _gpu_memory(record, on_samples), _gpu_power(record, on_samples))


def _clock(record: RunRecord, levels: Sequence[LoadLevel]) -> _Clock | None:
    """Return the clock of the GPU samples, else that of the loads; `None` without either."""
    began = number(record.gpu_samples.get("began_ns"))
    if began:
        return _Clock(zero_ns=began, name=_X)
    begins = [at for level in levels for one in level.rounds if (at := _begin(one)) is not None]
    return _Clock(zero_ns=min(begins), name="seconds since the first load") if begins else None


def _begin(one: Mapping[str, Any]) -> float | None:
    """Return when a round began; records of schema 1 do not know."""
    return number(one.get("begin_ns")) or None


def _bands(levels: Sequence[LoadLevel], clock: _Clock) -> list[Band]:
    """Return from when to when each level was measured."""
    bands = []
    for level in levels:
        spans = [
            (clock.at(begin), clock.at(begin) + seconds)
            for one in level.rounds
            if (begin := _begin(one)) is not None
            and (seconds := number(one.get("seconds"))) is not None
            and seconds >= 0
        ]
        spans = [span for span in spans if is_drawable(span[0]) and is_drawable(span[1])]
        if spans:
            low, high = min(begin for begin, _ in spans), max(end for _, end in spans)
            bands.append(Band(low=low, high=high, name=level.name))
    return sorted(bands, key=lambda band: band.low)


def _told_over(levels: Sequence[LoadLevel], clock: _Clock, gauge: str, scale: float) -> Column:
    """Return a gauge of the server over all rounds in the order of time, with gaps in between."""
    rounds: list[Column] = []
    for level in levels:
        for one in level.rounds:
            begin, told_ = _begin(one), mapping(one.get("timeline"))
            if begin is None:
                continue
            pairs = zip(items(told_.get("time_s")), items(told_.get(gauge)), strict=False)
            column: Column = [
                (clock.at(begin) + at, value * scale)
                for at, value in ((number(a), number(v)) for a, v in pairs)
                if at is not None and value is not None
            ]
            if column:
                rounds.append([*column, (column[-1][0], None)])
    return [point for column in sorted(rounds, key=lambda c: c[0][0]) for point in column]


def _requests(levels: Sequence[LoadLevel], clock: _Clock, bands: Sequence[Band]) -> Plot | None:
    columns = {gauge: _told_over(levels, clock, gauge, 1.0) for gauge in ("running", "waiting")}
    lines = [
        Line(name=f"{gauge} requests", points=thin(column, _POINTS // 2))
        for gauge, column in columns.items()
        if column
    ]
    if not lines:
        return None
    most = {gauge: _most(column) for gauge, column in columns.items()}
    said = ", ".join(f"{told(v)} {gauge}" for gauge, v in most.items() if v is not None)
    return line_plot(
        "Requests in the server during the loads",
        lines,
        x=clock.name,
        y="requests",
        bands=bands,
        words=Words(
            text=f"As the server's own /metrics tell, about once a second. At most {said}.",
            head=("Level", "running, mean", "most", "waiting, mean", "most"),
            rows=_gauge_rows(levels, ("running", "waiting"), 1.0, ""),
        ),
    )


def _kv_use(levels: Sequence[LoadLevel], clock: _Clock, bands: Sequence[Band]) -> Plot | None:
    column = _told_over(levels, clock, "kv_cache", 100.0)
    most = _most(column)
    if most is None:
        return None
    return line_plot(
        "KV cache in use during the loads",
        [Line(name="KV cache in use", points=thin(column, _POINTS), filled=False)],
        x=clock.name,
        y="% of the KV cache",
        bands=bands,
        words=Words(
            text=f"As the server's own /metrics tell. At most {told(most)} % of the cache.",
            head=("Level", "mean", "most"),
            rows=_gauge_rows(levels, ("kv_cache",), 100.0, " %"),
        ),
    )


def _gauge_rows(
    levels: Sequence[LoadLevel], gauges: Sequence[str], scale: float, unit: str
) -> list[tuple[str, ...]]:
    rows = []
    for level in levels:
        cells = [level.name]
        for gauge in gauges:
            seen = [
                value * scale
                for one in level.rounds
                for v in items(mapping(one.get("timeline")).get(gauge))
                if (value := number(v)) is not None
            ]
            cells += (
                [f"{told(sum(seen) / len(seen))}{unit}", f"{told(max(seen))}{unit}"]
                if seen
                else ["-", "-"]
            )
        rows.append(tuple(cells))
    return rows


def _gpu_memory(record: RunRecord, bands: Sequence[Band]) -> Plot | None:
    totals = {
        str(gpu.get("bdf")): total / _GIB
        for gpu in mappings(record.gpus.get("gpus"))
        if (total := number(gpu.get("vram_total_bytes")))
    }
    marks = {f"GPU has {max(totals.values()):.1f} GiB": max(totals.values())} if totals else {}
    names = ("GPU memory in use", "GiB")
    return _of_gpus(record, "vram_used_bytes", per=_GIB, names=names, marks=marks, bands=bands)


def _gpu_power(record: RunRecord, bands: Sequence[Band]) -> Plot | None:
    return _of_gpus(record, "power_w", per=1.0, names=("GPU power", "W"), marks={}, bands=bands)


def _of_gpus(  # noqa: PLR0913 - what a plot of the GPUs is
    record: RunRecord,
    quantity: str,
    *,
    per: float,
    names: tuple[str, str],
    marks: Mapping[str, float],
    bands: Sequence[Band],
) -> Plot | None:
    title, unit = names
    samples = record.gpu_samples
    times = [number(at) for at in items(samples.get("time_s"))]
    columns: list[tuple[str, Column]] = []
    for gpu in mappings(samples.get("gpus")):
        values = [number(value) for value in items(gpu.get(quantity))]
        column: Column = [
            (at, None if value is None else value / per)
            for at, value in zip(times, values, strict=False)
            if at is not None
        ]
        if any(value is not None for _, value in column):
            columns.append((one_line(f"GPU {gpu.get('index')}", 20), column))
    if not columns:
        return None
    shown = columns[:_GPUS]
    each = max(_FEWEST_POINTS, _POINTS // len(shown))
    lines = [Line(name=name, points=thin(column, each)) for name, column in shown]
    rows = [
        (name, *(f"{told(v)} {unit}" for v in (min(seen), sum(seen) / len(seen), max(seen))))
        for name, column in columns
        if (seen := [value for _, value in column if value is not None])
    ]
    most = max(columns, key=lambda pair: _most(pair[1]) or 0.0)
    left = f" {len(shown)} of {len(columns)} GPUs are drawn." if len(shown) < len(columns) else ""
    over = f"At most {told(_most(most[1]) or 0.0)} {unit}, on {most[0]}.{left}"
    loads = " Shaded: the measured loads." if bands else ""
    return line_plot(
        f"{title} over the run",
        lines,
        x=_X,
        y=unit,
        bands=bands,
        marks=marks,
        words=Words(text=f"{over}{loads}", head=("GPU", "least", "mean", "most"), rows=rows),
    )


def _most(column: Column) -> float | None:
    return max((value for _, value in column if value is not None), default=None)
