"""Words for the figures of the suite `performance`, with intervals and the client's own error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.load.over_rounds import latency_figure
from pytest_vllm.domain.metric_change import Form
from pytest_vllm.domain.plain import count, items, mapping, mappings, measured
from pytest_vllm.domain.stored import is_compared
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.load_levels import goodput_in, percentile_in, rate_in
from pytest_vllm.reports.regression import HEAD as CHANGE_HEAD
from pytest_vllm.reports.regression import (
    change_cells,
    estimate_note,
    mean_words,
    share_words,
    verdict_line,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_vllm.domain.load.over_rounds import Ranged
    from pytest_vllm.domain.record import RunRecord

LEVEL_HEAD = (
    "At a time",
    "Rounds x requests",
    "Failed",
    "Output tokens/s",
    "Requests/s",
    "TTFT p50",
    "TTFT p99",
    "TPOT p50",
    "ITL p99",
    "Worst stall p99",
    "E2EL p50",
    "Goodput",
    "Client's error p99",
)
_LATENCIES = (
    ("ttft", "p50"),
    ("ttft", "p99"),
    ("tpot", "p50"),
    ("itl", "p99"),
    ("stall", "p99"),
    ("e2el", "p50"),
)
_SHOWN = (("ttft", "p50", "TTFT p50"), ("tpot", "p50", "TPOT p50"))
_FORM = {Form.PAIRS: "interleaved", Form.STORED: "stored baseline, the weak form"}
_RATES = ("output_tokens_per_s", "requests_per_s")
_MEDIANS = ("ttft", "tpot", "e2el")


def performance_lines(record: RunRecord) -> list[tuple[str, str]]:
    """Return pairs of a label and a line for the screen at the end; none without a load."""
    performance = record.performance
    lines = [("Load", _level_line(level)) for level in _levels(performance) if is_compared(level)]
    if lines and (client := _client_line(performance)):
        lines.append(("Client", client))
    if said := saturation_line(performance):
        lines.append(("Saturates", said))
    if lines and record.comparison is not None and record.comparison.metrics is not None:
        judgement = record.comparison.metrics
        lines.append(("Figures", f"{verdict_line(judgement)} ({_FORM[judgement.form]})"))
    return lines


def level_rows(record: RunRecord) -> list[tuple[str, ...]]:
    """Return the cells of each load level, under `LEVEL_HEAD`."""
    return [_row(level) for level in _levels(record.performance)]


def change_rows(record: RunRecord) -> list[tuple[str, ...]]:
    """Return the cells of each gated figure since the baseline, under `CHANGE_HEAD`."""
    metrics = record.comparison.metrics if record.comparison is not None else None
    return [change_cells(change) for change in metrics.changes] if metrics is not None else []


def performance_notes(record: RunRecord) -> list[str]:
    """Return what a reader of the figures must know."""
    performance = record.performance
    if not _levels(performance):
        return []
    notes = [f"profile {_named(performance)}; workload {_workload(performance)}"]
    if client := _client_line(performance):
        notes.append(f"the client's own error: {client}")
    if said := saturation_line(performance):
        notes.append(f"saturation: {said}")
    metrics = record.comparison.metrics if record.comparison is not None else None
    if metrics is not None:
        notes.append(f"since the baseline ({_FORM[metrics.form]}): {verdict_line(metrics)}")
        notes += [estimate_note(metrics.form)] if metrics.changes else []
        notes += [f"not comparable: {reason}" for reason in metrics.obstacles]
    notes += [str(note) for note in items(performance.get("notes"))]
    return [*notes, *dict.fromkeys(_flags(performance))]


def performance_properties(record: RunRecord) -> list[tuple[str, str]]:
    """Return the figures of each level as names and values, for files that know nothing else."""
    pairs = []
    for level in _levels(record.performance):
        told = {name: rate_in(_rounds(level), name) for name in _RATES}
        told |= {
            latency_figure(metric, "p50"): _percentile(level, metric, "p50") for metric in _MEDIANS
        }
        pairs += [
            (f"performance.{_name(level)}.{name}", f"{seen.value:.6g}")
            for name, seen in told.items()
            if seen is not None
        ]
        pairs.append((f"performance.{_name(level)}.failed", str(_failed(level))))
    metrics = record.comparison.metrics if record.comparison is not None else None
    if pairs and metrics is not None:
        pairs.append(("performance.regression", verdict_line(metrics)))
    return pairs


def saturation_line(performance: Mapping[str, Any]) -> str:
    """Say where throughput stops growing; empty without a sweep."""
    found = mapping(performance.get("saturation"))
    at_once, tokens = measured(found.get("concurrency")), measured(found.get("output_tokens_per_s"))
    if at_once is None or tokens is None:
        return ""
    rate = f"{tokens:,.0f} output tokens/s"
    if not found.get("reached"):
        return f"not up to {at_once:.0f} at a time ({rate}): throughput still grows"
    return f"from {at_once:.0f} at a time ({rate}, 95 % of the best)"


def _level_line(level: Mapping[str, Any]) -> str:
    parts = []
    if rate := rate_in(_rounds(level), "output_tokens_per_s"):
        parts.append(f"output {mean_words(rate)} tokens/s")
    for metric, percentile, name in _SHOWN:
        if seen := _percentile(level, metric, percentile):
            parts.append(f"{name} {mean_words(seen)} ms")
    if share := goodput_in(_rounds(level)):
        parts.append(f"goodput {share_words(share)} of all")
    failed = _failed(level)
    failures = f", {failed} failed" if failed else ""
    head = f"{_at_once(level)} at a time, {_size(level)} requests{failures}"
    return f"{head}: {', '.join(parts) or 'no figures'}"


def _row(level: Mapping[str, Any]) -> tuple[str, ...]:
    goodput = goodput_in(_rounds(level))
    return (
        _at_once(level),
        _size(level),
        str(_failed(level)),
        *(_rate(level, name) for name in _RATES),
        *(_latency(level, metric, name) for metric, name in _LATENCIES),
        share_words(goodput) if goodput is not None else "-",
        _own_error(mapping(level.get("calibration"))),
    )


def _own_error(told: Mapping[str, Any]) -> str:
    """Show the client's error in the calibration at the level's own streams and rate."""
    if not told:
        return "not calibrated"
    ttft, gap = _shown(told, "ttft_error_p99_us"), _shown(told, "itl_error_p99_us")
    return f"TTFT {ttft} us, gap {gap} us"


def _latency(level: Mapping[str, Any], metric: str, name: str) -> str:
    """Show a percentile over all rounds with its interval, or why there is none."""
    told = mapping(mapping(level.get("latencies")).get(metric))
    seen = mapping(mapping(told.get("percentiles")).get(name))
    if not seen:
        return "-"
    if found := _percentile(level, metric, name):
        value, _, interval = mean_words(found).partition(" ")
        return f"{value} ms {interval}".rstrip()
    return one_line(f"needs {seen.get('needs')} requests, had {told.get('requests')}", 80)


def _percentile(level: Mapping[str, Any], metric: str, name: str) -> Ranged | None:
    return percentile_in(mapping(level.get("latencies")), _rounds(level), metric, name)


def _client_line(performance: Mapping[str, Any]) -> str:
    told = mapping(performance.get("calibration"))
    if not told:
        return ""
    median, worst = _shown(told, "ttft_error_p50_us"), _shown(told, "ttft_error_p99_us")
    return one_line(
        f"TTFT error p50 {median} us, p99 {worst} us, ITL p99 {_shown(told, 'itl_error_p99_us')} "
        f"us, {_shown(told, 'cpu_share', '.0%')} of a core at {_shown(told, 'streams')} streams "
        f"and {_shown(told, 'events_per_s', ',.0f')} events/s "
        f"({told.get('clock', '?')} clock, {told.get('path', '?')} path)"
    )


def _shown(told: Mapping[str, Any], key: str, form: str = ".0f") -> str:
    value = measured(told.get(key))
    return "?" if value is None else f"{value:{form}}"


def _flags(performance: Mapping[str, Any]) -> Iterator[str]:
    for level in _levels(performance):
        for run in _rounds(level):
            for flag in items(run.get("flags")):
                yield f"{_name(level)}: {flag}"
            for limit in items(run.get("limits")):
                yield f"{_name(level)}: the client was the limit: {limit}"


def _levels(performance: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return mappings(performance.get("levels"))


def _rounds(level: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return mappings(level.get("rounds"))


def _name(level: Mapping[str, Any]) -> str:
    return one_line(str(level.get("name", "?")), 40)


def _at_once(level: Mapping[str, Any]) -> str:
    return one_line(str(level.get("concurrency", "?")), 20)


def _rate(level: Mapping[str, Any], figure: str) -> str:
    seen = rate_in(_rounds(level), figure)
    return mean_words(seen) if seen is not None else "-"


def _size(level: Mapping[str, Any]) -> str:
    return f"{len(_rounds(level))} x {one_line(str(level.get('requests')), 20)}"


def _failed(level: Mapping[str, Any]) -> int:
    return sum(count(run.get("failed")) for run in _rounds(level))


def _named(performance: Mapping[str, Any]) -> str:
    profile = performance.get("profile") or {}
    return one_line(str(profile.get("name") if isinstance(profile, dict) else profile), 80)


def _workload(performance: Mapping[str, Any]) -> str:
    told = mapping(performance.get("workload"))
    shown = [f"{key} {told[key]}" for key in ("prompt_tokens", "output_tokens") if key in told]
    return one_line(", ".join([str(told.get("name", "?")), *shown]), 200)


__all__ = [
    "CHANGE_HEAD",
    "LEVEL_HEAD",
    "change_rows",
    "level_rows",
    "performance_lines",
    "performance_notes",
    "performance_properties",
    "saturation_line",
]
