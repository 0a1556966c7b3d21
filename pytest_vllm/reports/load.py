"""Words for what a load measured: one measurement, or the levels of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.load_sources import client_words, gpu_words, server_words
from pytest_vllm.reports.load_words import (
    MEANINGS,
    NAMES,
    cell,
    milliseconds,
    number,
    paragraph,
    slo_words,
    table,
    unit_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_vllm.domain.load.calibration import Calibration
    from pytest_vllm.domain.load.measurement import Distribution, Measurement

NARROW = 80
WIDE = 118
"""Columns from which on a table has room for all of them."""

_TEXT_WIDTH = 110
_GAPS = ("tpot", "itl", "icl", "stall", "normalized")
_RATES = (
    ("Output", "output_tokens_per_s", "tokens/s"),
    ("Total", "total_tokens_per_s", "tokens/s, prompts with them"),
    ("Requests", "requests_per_s", "requests/s"),
)
_GATED = ("ttft", "ttft_sched", "tpot", "stall", "e2el", "e2el_sched")


def measurement_text(
    measurement: Measurement,
    *,
    title: str = "",
    calibration: Calibration | None = None,
    width: int = NARROW,
) -> str:
    """Write one measurement.

    Args:
        measurement: What was measured.
        title: First line, such as the traffic and the workload.
        calibration: The client's own error, told beside each latency.
        width: Columns of the terminal; at least 80 are taken.
    """
    width = max(width, NARROW)
    lines = [one_line(title, width)] if title else []
    text_width = min(width, _TEXT_WIDTH)
    for label, text in _parts(measurement):
        lines += paragraph(label, text, text_width)
    lines += ["", *_latencies(measurement, calibration, width)]
    lines += _adjusted(measurement, text_width)
    lines += [""]
    for label, text in (
        *server_words(measurement),
        *gpu_words(measurement),
        *client_words(measurement, calibration),
    ):
        lines += paragraph(label, text, text_width)
    for flag in measurement.flags:
        lines += paragraph("Note", one_line(flag), text_width)
    while lines[-1] == "":
        lines.pop()
    return "\n".join(lines)


def sweep_text(
    levels: Sequence[tuple[str, Measurement]],
    *,
    calibrations: Mapping[str, Calibration] | None = None,
    width: int = NARROW,
) -> str:
    """Write the levels of a sweep as a table.

    Args:
        levels: Name of each level, such as `16` for 16 in flight, and what it measured.
        calibrations: The client's own error, by name of the level.
        width: Columns of the terminal; at least 80 are taken.
    """
    wide = width >= WIDE
    opened = any("ttft_sched" in measurement.distributions for _, measurement in levels)
    first = "ttft_sched" if opened else "ttft"
    columns = [(first, "p50"), (first, "p99"), ("tpot", "p50"), ("tpot", "p99")]
    if wide:
        columns += [("stall", "p50"), ("stall", "p99"), ("e2el", "p50")]
    upper = ["", "", "", *_group_names(columns), "", ""]
    head = ["load", "req/s", "tokens/s", *(label for _, label in columns), "good", "failed"]
    rows = [_level(name, measurement, columns) for name, measurement in levels]
    if calibrations:
        upper, head = [*upper, ""], [*head, "client"]
        rows = [
            [*row, _own_error(calibrations.get(name))]
            for row, (name, _) in zip(rows, levels, strict=True)
        ]
    lines = table([upper, head, *rows])
    for note in _sweep_notes(levels, calibrated=bool(calibrations)):
        lines += paragraph("", note, min(width, _TEXT_WIDTH))
    return "\n".join(lines)


def _parts(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """Say how many requests there were and what the server got done."""
    failed = sum(measurement.failures.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(measurement.failures.items()))
    ended = f"{failed} failed: {kinds}" if failed else "none failed"
    yield "Requests", f"{measurement.requests} issued, {ended}"
    figures = measurement.figures
    where = f" in the steady window of {measurement.window_s:.1f} s"
    for label, key, unit in _RATES:
        if key in figures:
            whole = f" ({number(figures[f'{key}_whole'])} over the whole load)"
            yield label, f"{number(figures[key])} {unit}{where}{whole}"
            where = ""
    if "goodput_share" in figures:
        rate = number(figures.get("goodput_per_s", 0.0))
        share = f"{figures['goodput_share']:.1%} of all issued"
        yield "Goodput", f"{rate} requests/s, {share}: {slo_words(measurement.slo)}"


def _latencies(measurement: Measurement, calibration: Calibration | None, width: int) -> list[str]:
    """Make the table of latencies; a percentile that the sample cannot support is not in it."""
    wide = width >= WIDE
    told = measurement.distributions
    same = "itl" in told and told["itl"] == told.get("icl")
    hidden = {"icl" if same else "", "" if wide else "e2e_close"}
    shown = {name: one for name, one in told.items() if one.count and name not in hidden}
    if not shown:
        return ["No latencies: no request ended as it should with a token event."]
    labels = ["p50", "p90", "p95", _highest(shown)] if wide else ["p50", "p90", "p99"]
    rows = [["", *(f"{label} [95 %]" for label in labels), *(["mean"] if wide else [])]]
    for name, one in shown.items():
        unit, scale = unit_of(one)
        row = [f"{NAMES.get(name, name)} {unit}"]
        row += [cell(one.percentiles[label], scale, had=one.requests) for label in labels]
        rows.append([*row, *([number((one.mean or 0.0) * scale)] if wide else [])])
    lines, notes = table(rows), [MEANINGS[name] for name in shown if name in MEANINGS]
    notes += ["ICL is the same as ITL: each event is one token"] if same else []
    if any(one.percentiles[label].value is None for one in shown.values() for label in labels):
        notes.append("refused: requests it has of those that it needs (MLPerf's early stopping)")
    if calibration is not None:
        errors = ["client us", *(f"{_error_us(name, calibration):,.0f}" for name in shown)]
        beside = table([[*row, error] for row, error in zip(rows, errors, strict=True)])
        if max(map(len, beside)) <= width:
            lines = beside
        notes.append(
            f"the client's own error in the calibration, p99: of a time "
            f"{calibration.ttft_error_p99_us:,.0f} us, of a gap "
            f"{calibration.itl_error_p99_us:,.0f} us"
        )
    return [*lines, *paragraph("", "; ".join(notes), min(width, _TEXT_WIDTH))]


def _adjusted(measurement: Measurement, width: int) -> list[str]:
    """Tell the percentiles that count each failed request as infinitely slow, if any failed."""
    if not measurement.failures:
        return []
    told = [
        f"{NAMES[name]} {label} {'infinite' if value is None else milliseconds(value)}"
        for name in _GATED
        if name in measurement.distributions
        for label in ("p50", "p99")
        for value in [measurement.distributions[name].adjusted.get(label, 0.0)]
        if label in measurement.distributions[name].adjusted
    ]
    failed = sum(measurement.failures.values())
    text = f"with the {failed} failed as infinitely slow: {', '.join(told)}"
    return paragraph("Adjusted", text, width) if told else []


def _highest(shown: Mapping[str, Distribution]) -> str:
    """Choose the highest percentile that any metric supports; p99 where none does."""
    rare = any(told.percentiles["p99.9"].value is not None for told in shown.values())
    return "p99.9" if rare else "p99"


def _error_us(metric: str, calibration: Calibration) -> float:
    """Return the client's own error of such a time: of a gap, or of one arrival."""
    return calibration.itl_error_p99_us if metric in _GAPS else calibration.ttft_error_p99_us


def _group_names(columns: Sequence[tuple[str, str]]) -> list[str]:
    """Name each metric once, above the first of its percentiles."""
    names = [NAMES[metric] for metric, _ in columns]
    return [name if n == 0 or names[n - 1] != name else "" for n, name in enumerate(names)]


def _level(name: str, measurement: Measurement, columns: Sequence[tuple[str, str]]) -> list[str]:
    figures = measurement.figures
    share = figures.get("goodput_share")
    keys = ["requests_per_s", "output_tokens_per_s", *(f"{m}_{p}_ms" for m, p in columns)]
    return [
        f"{one_line(name, 16)}{'' if measurement.steady else '*'}",
        *(number(figures[key]) if key in figures else "-" for key in keys),
        "-" if share is None else f"{share:.0%}",
        str(sum(measurement.failures.values())),
    ]


def _own_error(calibration: Calibration | None) -> str:
    return "-" if calibration is None else number(calibration.ttft_error_p99_us / 1e3)


def _sweep_notes(levels: Sequence[tuple[str, Measurement]], *, calibrated: bool) -> Iterator[str]:
    yield "latencies in ms; -: not told, or it needs more requests"
    if calibrated:
        yield "client: the p99 of its own error of a time, in ms"
    if any(not measurement.steady for _, measurement in levels):
        yield "*: the steady window is too short for rates to rely on"
    slo = next((measurement.slo for _, measurement in levels if measurement.slo), None)
    if slo:
        yield f"good: share of all issued requests that kept {slo_words(slo)}"
