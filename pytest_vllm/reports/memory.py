"""Words for the memory of a run: what was forecast before the launch, and what the server said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.plain import items, mappings, number
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.domain.server_facts import ServerFacts

_GIB = 2**30
_LOADED = ("weights", "rope", "MLA copies", "padding")
"""Parts that are in memory once a model is loaded: what `Model loading took` counts."""
_AT = {"invalid": " with these arguments", "max length": " at the longest request"}
_SMALL = 10.0
_FEW = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One quantity, before and after. Sizes are GiB of the tightest device.

    Attributes:
        name: What it is.
        unit: `GiB`, or what is counted.
        expected: The forecast, `None` when it has none.
        measured: What the server said, `None` when it said nothing.
    """

    name: str
    unit: str
    expected: float | None
    measured: float | None

    @property
    def error(self) -> float | None:
        """How far the forecast is off, as a share of what was measured; `None` without both."""
        if self.expected is None or not self.measured:
            return None
        return self.expected / self.measured - 1


def figures(record: RunRecord) -> tuple[Figure, ...]:
    """Hold the forecast against the log; what neither of them has is left out."""
    forecast, facts = record.forecast, record.server_facts
    rows = (
        Figure(name=name, unit=unit, expected=expected, measured=_measured(facts, field))
        for name, unit, expected, field in (
            ("Weights, loaded", "GiB", _parts(forecast, *_LOADED), "weights_gib"),
            ("Peak activation", "GiB", _parts(forecast, "activation"), "peak_activation_gib"),
            ("Outside PyTorch", "GiB", _parts(forecast, "context"), "non_torch_gib"),
            ("Graphs", "GiB", _parts(forecast, "graphs"), "graph_gib"),
            ("KV cache", "GiB", _gib(forecast.get("kv_bytes_per_rank")), "kv_cache_gib"),
            ("KV cache", "blocks", number(forecast.get("blocks")), "kv_blocks"),
            ("KV cache", "tokens", number(forecast.get("kv_tokens")), "kv_tokens"),
            (
                "Concurrency",
                "requests",
                number(forecast.get("max_concurrency")),
                "max_concurrency",
            ),
        )
    )
    return tuple(row for row in rows if row.expected or row.measured is not None)


def memory_rows(record: RunRecord) -> list[tuple[str, str, str, str]]:
    """Return name, forecast, measurement and error of each quantity; none without a forecast."""
    if not record.forecast:
        return []
    return [
        (
            figure.name if figure.unit == "GiB" else f"{figure.name}, {figure.unit}",
            _amount(figure.expected, figure.unit),
            _amount(figure.measured, figure.unit),
            "" if figure.error is None else f"{figure.error:+.1%}",
        )
        for figure in figures(record)
    ]


def forecast_line(record: RunRecord) -> str:
    """Say in one line what was forecast; empty without a forecast."""
    verdict = record.forecast.get("verdict")
    if not verdict:
        return ""
    gate = record.forecast.get("gate")
    reason = str(record.forecast.get("reason") or "")
    return one_line(f"{verdict}{at_gate(gate)}{f': {reason}' if reason else ''}")


def at_gate(gate: object) -> str:
    """Say where a launch ends; empty where it fits. The gate is one of `domain.fit.Gate`."""
    if not gate:
        return ""
    return _AT.get(str(gate), f" at the {gate}")


def memory_line(record: RunRecord) -> str:
    """Say verdict, weights and KV cache in one line, each with what was measured; or nothing."""
    if not record.forecast.get("verdict"):
        return ""
    known = {(figure.name, figure.unit): figure for figure in figures(record)}
    told = [
        f"{word} {_both(figure)}"
        for word, key in (("weights", ("Weights, loaded", "GiB")), ("KV", ("KV cache", "tokens")))
        if (figure := known.get(key)) is not None and figure.expected is not None
    ]
    return one_line(f"forecast {record.forecast['verdict']}: {', '.join(told)}", 200)


def notes(record: RunRecord) -> tuple[str, ...]:
    """Return what a reader of the forecast should know, or why there is none."""
    return tuple(str(note) for note in items(record.forecast.get("notes")))


def _both(figure: Figure) -> str:
    expected = _amount(figure.expected, figure.unit)
    if figure.measured is None:
        return expected
    error = f", {figure.error:+.1%}" if figure.error is not None else ""
    return f"{expected} (measured {_amount(figure.measured, figure.unit)}{error})"


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "GiB":
        return f"{value:.2f} GiB"
    few = unit == "requests" or value < _FEW
    return f"{value:,.2f} {unit}" if few and value % 1 else f"{value:,.0f} {unit}"


def _parts(forecast: Mapping[str, Any], *names: str) -> float | None:
    """Add up parts of the waterfall; `None` when it has none of them."""
    sizes = [size for name, size in _named_parts(forecast) if name in names]
    return sum(sizes) / _GIB if sizes else None


def _named_parts(forecast: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for part in mappings(forecast.get("parts")):
        if (size := number(part.get("bytes"))) is not None:
            yield str(part.get("name")), size


def _measured(facts: ServerFacts | None, field: str) -> float | None:
    return None if facts is None else number(getattr(facts, field))


def _gib(value: object) -> float | None:
    found = number(value)
    return None if found is None else found / _GIB
