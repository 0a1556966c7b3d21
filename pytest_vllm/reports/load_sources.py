"""Words for what the server, the GPUs and the client say of a load beside its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.load_words import NAMES, milliseconds, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_vllm.domain.load.calibration import Calibration
    from pytest_vllm.domain.load.measurement import Measurement

_GIB = 2**30
_TIMES = ("ttft", "queue", "prefill", "decode", "tpot", "itl", "e2el")
_GAUGES = (("running", "running"), ("waiting", "waiting"))
_NS_PER_MS = 1e6
_SECOND_MS = 1000.0


def server_words(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """Say what the server told: its own times, how full it was, and what the client adds."""
    told: Mapping[str, Any] = measurement.server
    where = "over the window" if told.get("span") == "window" else "over the whole load"
    times = told.get("histograms", {})
    parts = [
        f"{NAMES.get(name, name)} {milliseconds(times[name]['mean_ms'])}{_bounds(times[name])}"
        for name in _TIMES
        if name in times
    ]
    if parts:
        yield "Server", f"its own means {where}: {', '.join(parts)}"
    state = [*_state(told)]
    if state:
        yield "" if parts else "Server", ", ".join(state)
    beyond = [*_beyond(told)]
    if beyond:
        yield "Beyond it", f"transport and client on top of the server's time: {', '.join(beyond)}"
    for note in told.get("notes", ()):
        yield "Server", one_line(str(note))


def gpu_words(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """Say what the GPUs did in the window."""
    told: Mapping[str, Any] = measurement.gpus
    gpus = told.get("gpus", {})
    working = [gpus[bdf] for bdf in told.get("working", ()) if bdf in gpus]
    parts = []
    if "power_w" in told:
        parts.append(f"{told['power_w']:.0f} W")
    if "joules_per_output_token" in measurement.figures:
        parts.append(f"{number(measurement.figures['joules_per_output_token'])} J per output token")
    for name, unit, scale in (
        ("activity_percent", "% active", 1.0),
        ("gfx_clock_mhz", "MHz", 1.0),
        ("vram_used_bytes", "GiB of VRAM at most on one", 1 / _GIB),
    ):
        values = [gpu[name] for gpu in working if name in gpu]
        if name == "vram_used_bytes" and values:
            parts.append(f"{max(value['most'] for value in values) * scale:.1f} {unit}")
        elif values:
            parts.append(f"{sum(v['mean'] for v in values) / len(values) * scale:.0f} {unit}")
    if parts:
        yield "GPUs", f"{len(working)} at work in the window: {', '.join(parts)}"
    for note in told.get("notes", ()):
        yield "GPUs", one_line(str(note))


def client_words(
    measurement: Measurement, calibration: Calibration | None
) -> Iterator[tuple[str, str]]:
    """Say how the load was measured, and how exact that is."""
    told: Mapping[str, Any] = measurement.client
    if told:
        yield "Client", ", ".join(_how(told))
        for note in told.get("notes", ()):
            yield "Client", one_line(str(note))
    if calibration is not None:
        capacity = f"{calibration.capacity_events_per_s:,.0f}"
        told_at = f"{calibration.streams} streams and {calibration.events_per_s:,.0f} events/s"
        text = (
            f"error of TTFT p50 {_us(calibration.ttft_error_p50_us)}, "
            f"p99 {_us(calibration.ttft_error_p99_us)}; of a gap "
            f"p50 {_us(calibration.itl_error_p50_us)}, p99 {_us(calibration.itl_error_p99_us)}, "
            f"at {told_at}; one core takes up to {capacity} events/s"
        )
        yield "Calibrated", text


def _how(told: Mapping[str, Any]) -> Iterator[str]:
    why = f" ({one_line(str(told['reason']))})" if told.get("reason") else ""
    yield f"path {one_line(str(told.get('path', '?')), 20)}{why}"
    kernel = told.get("clock") == "kernel"
    yield (
        "arrival times by the kernel" if kernel else "arrival times by the program, after the read"
    )
    if told.get("wall_s"):
        yield f"{told['cpu_s'] / told['wall_s']:.0%} of a core"
    if told.get("reads"):
        yield f"{told['coalesced_reads'] / told['reads']:.1%} of reads with several events"
    late = told.get("lateness_ns") or (0, 0, 0)
    yield f"sends late by p99 {milliseconds(late[1] / _NS_PER_MS)}"


def _bounds(told: Mapping[str, Any]) -> str:
    """Say between which edges of its buckets a histogram has its p99, else its p50."""
    for label in ("p99", "p50"):
        if label in told:
            low, high = told[label]
            if high is None:
                return f" ({label} above {milliseconds(low)})"
            scale, unit = (1e-3, "s") if high >= _SECOND_MS else (1.0, "ms")
            return f" ({label} in {low * scale:g}-{high * scale:g} {unit})"
    return ""


def _state(told: Mapping[str, Any]) -> Iterator[str]:
    gauges, counters = told.get("gauges", {}), told.get("counters", {})
    for name, word in _GAUGES:
        if name in gauges:
            yield f"{gauges[name]['mean']:.1f} {word} (at most {gauges[name]['most']:.0f})"
    if "kv_cache" in gauges:
        used = gauges["kv_cache"]
        yield f"KV cache {used['mean']:.1%} in use (at most {used['most']:.1%})"
    if "preemptions" in counters:
        yield f"{counters['preemptions']:.0f} preemptions"
    if "prefix_hit_share" in told:
        yield f"{told['prefix_hit_share']:.1%} of prompt tokens from the prefix cache"
    if "acceptance_share" in told:
        yield f"{told['acceptance_share']:.1%} of drafted tokens accepted"


def _beyond(told: Mapping[str, Any]) -> Iterator[str]:
    for name, means in told.get("means", {}).items():
        yield f"{NAMES.get(name, name)} {milliseconds(means['beyond_ms'])} in the mean"
    first = told.get("by_request", {}).get("ttft")
    if first:
        p99 = first["percentiles"]["p99"]["value"]
        tail = f", p99 {milliseconds(p99)}" if p99 is not None else ""
        yield f"by its own times of each request {milliseconds(first['mean'])}{tail}"


def _us(value: float) -> str:
    return f"{value:,.0f} us"
