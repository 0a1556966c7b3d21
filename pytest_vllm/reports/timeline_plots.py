"""What server and GPUs did over time, with the loads as bands over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.plain import items, mappings, measured, number
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.load_gauges import (
    begin_of,
    gauge_rows,
    looks_text,
    most_of,
    round_gauges,
)
from pytest_vllm.reports.load_levels import levels_of
from pytest_vllm.reports.plot_axis import is_drawable, told
from pytest_vllm.reports.plots import Band, Line, Plot, Words, drawn, line_plot, thin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.reports.load_gauges import RoundGauge
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
    begins = [at for level in levels for one in level.rounds if (at := begin_of(one)) is not None]
    return _Clock(zero_ns=min(begins), name="seconds since the first load") if begins else None


def _bands(levels: Sequence[LoadLevel], clock: _Clock) -> list[Band]:
    """Return from when to when each level was measured."""
    bands = []
    for level in levels:
        spans = [
            (clock.at(begin), clock.at(begin) + seconds)
            for one in level.rounds
            if (begin := begin_of(one)) is not None
            and (seconds := number(one.get("seconds"))) is not None
            and seconds >= 0
        ]
        spans = [span for span in spans if is_drawable(span[0]) and is_drawable(span[1])]
        if spans:
            low, high = min(begin for begin, _ in spans), max(end for _, end in spans)
            bands.append(Band(low=low, high=high, name=level.name))
    return sorted(bands, key=lambda band: band.low)


def _over_time(rounds: Sequence[RoundGauge], clock: _Clock, scale: float) -> Column:
    """Return a gauge of the server over all rounds, with gaps in between."""
    columns: list[Column] = [
        [(clock.at(one.begin_ns) + at, value * scale) for at, value in one.looks] for one in rounds
    ]
    return [point for column in columns for point in (*column, (column[-1][0], None))]


def _requests(levels: Sequence[LoadLevel], clock: _Clock, bands: Sequence[Band]) -> Plot | None:
    gauges = {gauge: round_gauges(levels, gauge) for gauge in ("running", "waiting")}
    most = {gauge: v for gauge, rounds in gauges.items() if (v := most_of(rounds)) is not None}
    if not most:
        return None
    lines = [
        Line(
            name=f"{gauge} requests",
            points=thin(_over_time(gauges[gauge], clock, 1.0), _POINTS // 2),
        )
        for gauge in most
    ]
    said = ", ".join(f"{told(v)} {gauge}" for gauge, v in most.items())
    return line_plot(
        "Requests in the server during the loads",
        lines,
        x=clock.name,
        y="requests",
        bands=bands,
        words=Words(
            text=f"{looks_text(gauges[next(iter(most))])} At most {said} in those looks.",
            head=("Level", "looks", "running, mean", "most", "waiting, mean", "most"),
            rows=gauge_rows(levels, ("running", "waiting"), 1.0, ""),
        ),
    )


def _kv_use(levels: Sequence[LoadLevel], clock: _Clock, bands: Sequence[Band]) -> Plot | None:
    rounds = round_gauges(levels, "kv_cache")
    most = most_of(rounds)
    if most is None:
        return None
    points = thin(_over_time(rounds, clock, 100.0), _POINTS)
    return line_plot(
        "KV cache in use during the loads",
        [Line(name="KV cache in use", points=points, filled=False)],
        x=clock.name,
        y="% of the KV cache",
        bands=bands,
        words=Words(
            text=f"{looks_text(rounds)} At most {told(most * 100.0)} % of the cache in those.",
            head=("Level", "looks", "mean", "most"),
            rows=gauge_rows(levels, ("kv_cache",), 100.0, " %"),
        ),
    )


def _gpu_memory(record: RunRecord, bands: Sequence[Band]) -> Plot | None:
    totals = {
        str(gpu.get("bdf")): total / _GIB
        for gpu in mappings(record.gpus.get("gpus"))
        if (total := number(gpu.get("vram_total_bytes")))
    }
    marks = {f"GPU has {max(totals.values()):.1f} GiB": max(totals.values())} if totals else {}
    columns = [
        (_name(gpu), _with_peak(column, gpu))
        for gpu, column in _sampled(record, "vram_used_bytes", _GIB)
    ]
    return _of_gpus(columns, names=("GPU memory in use", "GiB"), marks=marks, bands=bands)


def _gpu_power(record: RunRecord, bands: Sequence[Band]) -> Plot | None:
    columns = [(_name(gpu), column) for gpu, column in _sampled(record, "power_w", 1.0)]
    return _of_gpus(columns, names=("GPU power", "W"), marks={}, bands=bands)


def _sampled(
    record: RunRecord, quantity: str, per: float
) -> Iterator[tuple[Mapping[str, Any], Column]]:
    """Yield each sampled GPU with a quantity over time, divided by `per`."""
    samples = record.gpu_samples
    times = [number(at) for at in items(samples.get("time_s"))]
    for gpu in mappings(samples.get("gpus")):
        values = [measured(value) for value in items(gpu.get(quantity))]
        yield (
            gpu,
            [
                (at, None if value is None else value / per)
                for at, value in zip(times, values, strict=False)
                if at is not None
            ],
        )


def _name(gpu: Mapping[str, Any]) -> str:
    return one_line(f"GPU {gpu.get('index')}", 20)


def _of_gpus(
    sampled: Sequence[tuple[str, Column]],
    *,
    names: tuple[str, str],
    marks: Mapping[str, float],
    bands: Sequence[Band],
) -> Plot | None:
    title, unit = names
    columns = [(name, column) for name, column in sampled if _most(column) is not None]
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


def _with_peak(column: Column, gpu: Mapping[str, Any]) -> Column:
    """Put the highest use of memory where it was: of a long run only some samples are kept."""
    peak, at = measured(gpu.get("vram_peak_bytes")), number(gpu.get("vram_peak_s"))
    if peak is None or at is None or peak / _GIB <= (_most(column) or 0.0):
        return column
    return sorted([*column, (at, peak / _GIB)], key=lambda point: point[0])


def _most(column: Column) -> float | None:
    return max((value for _, value in column if value is not None), default=None)
