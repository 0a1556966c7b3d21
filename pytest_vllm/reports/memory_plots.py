"""The memory of a run as bars: the forecast, what the server's log says, and what each GPU held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.plain import items, mapping, mappings, number
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.memory import memory_rows
from pytest_vllm.reports.plots import Bar, Plot, Words, bar_plot, drawn, stacked_plot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.record import RunRecord

_GIB = 2**30
_LOADED = ("weights", "rope", "MLA copies", "padding")
_WEIGHTS, _OURS, _OTHERS = "weights", "held in this run", "in use before"
_SAID = {
    _WEIGHTS: "weights_gib",
    "context": "non_torch_gib",
    "activation": "peak_activation_gib",
    "graphs": "graph_gib",
    "KV cache": "kv_cache_gib",
}
"""What the log says of each part of the forecast."""
_ORDER = ("in use", _WEIGHTS, "context", "activation", "graphs", "KV cache", "margin")
_GPUS_DRAWN = 16
_FEWEST_GIB = 0.005


def memory_plots(record: RunRecord) -> list[Plot]:
    """Draw the forecast of the tightest rank beside what was measured."""
    columns: dict[str, dict[str, float]] = {}
    if parts := _forecast(record.forecast):
        columns["forecast"] = parts
    if said := _said(record):
        columns["server's log"] = said
    gpus = _gpus(record)
    for name, before, most in gpus[:_GPUS_DRAWN]:
        columns[name] = {_OTHERS: before, _OURS: max(0.0, most - before)}
    if not columns:
        return []
    names = tuple(columns)
    known = dict.fromkeys(part for column in columns.values() for part in column)
    order = [part for part in (*_ORDER, *known) if part in known]
    parts_of = {part: [columns[name].get(part) for name in names] for part in dict.fromkeys(order)}
    marks = _marks(record)
    return drawn(
        _waterfall(columns.get("forecast", {}), columns.get("server's log", {}), marks),
        stacked_plot(
            f"Memory{' of each GPU' if gpus else ''}, forecast and measured",
            names,
            parts_of,
            x="GiB",
            marks=marks,
            words=_words(record, columns, gpus, marks),
        ),
    )


def _waterfall(
    forecast: Mapping[str, float], said: Mapping[str, float], marks: Mapping[str, float]
) -> Plot | None:
    """Draw part after part, each from where the one before it ends; both sides by themselves."""
    if not forecast:
        return None
    bars, rows = [], []
    ends = {"forecast": 0.0, "measured": 0.0}
    for part in (*(p for p in _ORDER if p in forecast), *(p for p in forecast if p not in _ORDER)):
        sides = {"forecast": forecast[part], "measured": said.get(part)}
        for side, size in sides.items():
            if size is None:
                continue
            name = f"{part if side == 'forecast' else 'measured'}  {size:.2f}"
            label = f"{part}, {side}: {size:.2f} GiB"
            bars.append(Bar(name=name, value=size, start=ends[side], group=side, label=label))
            ends[side] += size
        rows.append((part, f"{forecast[part]:.2f}", _told(said.get(part))))
    known = ", ".join(said) or "nothing"
    return bar_plot(
        "Memory waterfall of the tightest rank",
        bars,
        x="GiB",
        marks=marks,
        words=Words(
            text=f"Each part begins where the one before it ends. Measured, by the server's log: "
            f"{known}.",
            head=("Part", "Forecast (GiB)", "Measured (GiB)"),
            rows=rows,
        ),
    )


def _told(size: float | None) -> str:
    return "-" if size is None else f"{size:.2f}"


def _words(
    record: RunRecord,
    columns: Mapping[str, Mapping[str, float]],
    gpus: list[tuple[str, float, float]],
    marks: Mapping[str, float],
) -> Words:
    told = []
    for name, column in columns.items():
        if name in ("forecast", "server's log"):
            size = sum(v for part, v in column.items() if part != "margin")
            told.append(f"{name} {size:.1f} GiB")
    if gpus:
        name, _, most = max(gpus, key=lambda gpu: gpu[2])
        told.append(f"at most {most:.1f} GiB in use on {name}")
    told += list(marks)
    shown = ", ".join(told)
    hidden = len(gpus) - _GPUS_DRAWN
    more = f" The first {_GPUS_DRAWN} of {len(gpus)} GPUs are drawn." if hidden > 0 else ""
    rows = [*memory_rows(record)]
    rows += [
        (name, "", f"{most:.2f} GiB at most, {before:.2f} before", "")
        for name, before, most in gpus
    ]
    return Words(
        text=f"Of the tightest rank: {shown}.{more}",
        head=("Quantity", "Forecast", "Measured", "Error"),
        rows=rows,
    )


def _forecast(forecast: Mapping[str, Any]) -> dict[str, float]:
    """Return the parts of the forecast in GiB; what is there once a model is loaded is one."""
    found: dict[str, float] = {}
    for part in mappings(forecast.get("parts")):
        size = number(part.get("bytes"))
        if size is None or size / _GIB < _FEWEST_GIB:
            continue
        name = str(part.get("name"))
        name = _WEIGHTS if name in _LOADED else one_line(name, 40)
        found[name] = found.get(name, 0.0) + size / _GIB
    return found


def _said(record: RunRecord) -> dict[str, float]:
    facts = record.server_facts
    if facts is None:
        return {}
    sizes = {part: number(getattr(facts, field)) for part, field in _SAID.items()}
    return {part: size for part, size in sizes.items() if size is not None and size >= _FEWEST_GIB}


def _gpus(record: RunRecord) -> list[tuple[str, float, float]]:
    """Return of each sampled GPU its name, what was in use at first and at most, in GiB."""
    found = []
    for gpu in mappings(record.gpu_samples.get("gpus")):
        used = [size for v in items(gpu.get("vram_used_bytes")) if (size := number(v)) is not None]
        peak = number(gpu.get("vram_peak_bytes"))
        most = max([*used, *([] if peak is None else [peak])], default=None)
        if most is not None:
            first = used[0] if used else 0.0
            found.append((one_line(f"GPU {gpu.get('index')}", 20), first / _GIB, most / _GIB))
    return found


def _marks(record: RunRecord) -> dict[str, float]:
    """Return the size of the GPU and the share of it that the server may take."""
    forecast, marks = record.forecast, {}
    devices = mappings(forecast.get("devices"))
    total = number(mapping(devices[0] if devices else None).get("total_bytes"))
    said = record.server_facts.gpu_total_gib if record.server_facts is not None else None
    total_gib = total / _GIB if total else number(said)
    asked = number(forecast.get("requested_bytes"))
    if asked and str(forecast.get("platform")) != "cpu":
        share = number(forecast.get("utilization"))
        of = "" if share is None else f" ({share:g} of it)"
        marks[f"may take {asked / _GIB:.1f} GiB{of}"] = asked / _GIB
    if total_gib:
        holder = "host" if str(forecast.get("platform")) == "cpu" else "GPU"
        marks[f"{holder} has {total_gib:.1f} GiB"] = total_gib
    return marks
