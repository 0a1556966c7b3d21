"""The memory of a run as bars: the forecast, what the server's log says, and what each GPU held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.plain import items, mapping, mappings, number
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.memory import memory_rows
from pytest_vllm.reports.plots import Bar, Plot, Words, bar_plot, drawn, stacked_plot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.record import RunRecord

_GIB = 2**30
_LOADED = ("weights", "rope", "MLA copies", "padding")
_IN_USE, _WEIGHTS, _OURS = "in use", "weights", "held in this run"
_SAID = {
    _WEIGHTS: "weights_gib",
    "context": "non_torch_gib",
    "activation": "peak_activation_gib",
    "graphs": "graph_gib",
    "KV cache": "kv_cache_gib",
}
"""What the log says of each part of the forecast."""
_ORDER = (_IN_USE, _WEIGHTS, "context", "activation", "graphs", "KV cache", "margin")
_GPUS_DRAWN = 16
_FEWEST_GIB = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gpu:
    """What a sampled GPU held, in GiB.

    Attributes:
        name: What it is called.
        bdf: Its PCI address.
        before: In use at first.
        most: In use at most.
    """

    name: str
    bdf: str
    before: float
    most: float


def memory_plots(record: RunRecord) -> list[Plot]:
    """Draw the forecast of the tightest rank beside what was measured."""
    columns: dict[str, dict[str, float]] = {}
    gpus, said, parts = _gpus(record), _said(record), _forecast(record.forecast)
    before = _before(record, gpus)
    held = {} if before is None else {_IN_USE: before.before}
    if parts:
        columns["forecast"] = parts
    if any(size >= _FEWEST_GIB for size in said.values()):
        foreseen = {_IN_USE: parts[_IN_USE]} if _IN_USE in parts else {}
        columns["server's log"] = {**foreseen, **held, **said}
    for gpu in gpus[:_GPUS_DRAWN]:
        columns[gpu.name] = {_IN_USE: gpu.before, _OURS: max(0.0, gpu.most - gpu.before)}
    if not columns:
        return []
    names = tuple(columns)
    known = dict.fromkeys(part for column in columns.values() for part in column)
    order = [part for part in (*_ORDER, *known) if part in known]
    parts_of = {part: [columns[name].get(part) for name in names] for part in dict.fromkeys(order)}
    marks = _marks(record, parts.get(_IN_USE, 0.0))
    return drawn(
        _waterfall(parts, {**held, **said}, marks, _source(said, before)),
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
    forecast: Mapping[str, float], seen: Mapping[str, float], marks: Mapping[str, float], by: str
) -> Plot | None:
    """Draw part after part, each from where the one before it ends; both sides by themselves.

    Args:
        forecast: Each part in GiB.
        seen: Each part that was measured, in GiB.
        marks: Bounds by name.
        by: What says how large the measured parts are.
    """
    if not forecast:
        return None
    bars, rows = [], []
    end = 0.0
    seen_end: float | None = 0.0
    for part in dict.fromkeys((*_ORDER, *forecast)):
        sizes = {"forecast": forecast.get(part), "measured": seen.get(part)}
        if not any(size is not None and size >= _FEWEST_GIB for size in sizes.values()):
            continue
        begins = {"forecast": end, "measured": end if seen_end is None else seen_end}
        for side, size in sizes.items():
            if size is None or size < _FEWEST_GIB:
                continue
            name = f"{part if side == 'forecast' else 'measured'}  {size:.2f}"
            label = f"{part}, {side}: {size:.2f} GiB"
            bars.append(Bar(name=name, value=size, start=begins[side], group=side, label=label))
        rows.append((part, *(_told(size) for size in sizes.values())))
        end += sizes["forecast"] or 0.0
        seen_end = None if (size := sizes["measured"]) is None else begins["measured"] + size
    return bar_plot(
        "Memory waterfall of the tightest rank",
        bars,
        x="GiB",
        marks=marks,
        words=Words(
            text="Each part begins where the one before it ends; a measured one where the forecast "
            f"has it if the one before it was not measured. {by}",
            head=("Part", "Forecast (GiB)", "Measured (GiB)"),
            rows=rows,
        ),
    )


def _source(said: Mapping[str, float], before: _Gpu | None) -> str:
    """Say where the measured parts are from."""
    held = (
        "that of the forecast, for nobody measured it"
        if before is None
        else f"the first sample of {before.name}"
    )
    return (
        f"Measured, by the server's log: {', '.join(said) or 'nothing'}. What was in use before, "
        f"and is not the server's, is {held}."
    )


def _told(size: float | None) -> str:
    return "-" if size is None else f"{size:.2f}"


def _words(
    record: RunRecord,
    columns: Mapping[str, Mapping[str, float]],
    gpus: Sequence[_Gpu],
    marks: Mapping[str, float],
) -> Words:
    told = []
    for name, column in columns.items():
        if name in ("forecast", "server's log"):
            size = sum(v for part, v in column.items() if part != "margin")
            before = column.get(_IN_USE, 0.0)
            of = f" ({before:.1f} of it in use before)" if before >= _FEWEST_GIB else ""
            told.append(f"{name} {size:.1f} GiB{of}")
    if gpus:
        fullest = max(gpus, key=lambda gpu: gpu.most)
        told.append(f"at most {fullest.most:.1f} GiB in use on {fullest.name}")
    told += list(marks)
    shown = ", ".join(told)
    hidden = len(gpus) - _GPUS_DRAWN
    more = f" The first {_GPUS_DRAWN} of {len(gpus)} GPUs are drawn." if hidden > 0 else ""
    rows = [*memory_rows(record)]
    rows += [
        (gpu.name, "", f"{gpu.most:.2f} GiB at most, {gpu.before:.2f} before", "") for gpu in gpus
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
    """Return each part of which the log tells, in GiB; one of 0 is known to be nothing."""
    facts = record.server_facts
    if facts is None:
        return {}
    sizes = {part: number(getattr(facts, field)) for part, field in _SAID.items()}
    return {part: size for part, size in sizes.items() if size is not None and size >= 0}


def _gpus(record: RunRecord) -> list[_Gpu]:
    """Return each sampled GPU."""
    found = []
    for gpu in mappings(record.gpu_samples.get("gpus")):
        used = [size for v in items(gpu.get("vram_used_bytes")) if (size := number(v)) is not None]
        peak = number(gpu.get("vram_peak_bytes"))
        most = max([*used, *([] if peak is None else [peak])], default=None)
        if most is not None:
            found.append(
                _Gpu(
                    name=one_line(f"GPU {gpu.get('index')}", 20),
                    bdf=str(gpu.get("bdf")),
                    before=(used[0] if used else 0.0) / _GIB,
                    most=most / _GIB,
                )
            )
    return found


def _before(record: RunRecord, gpus: Sequence[_Gpu]) -> _Gpu | None:
    """Return the GPU of the tightest rank if it was sampled before the launch.

    It is the one of which the forecast has as much in use. A server that ran before the run held
    its memory at the first sample.
    """
    if record.backend == "attach":
        return None
    parts = mappings(record.forecast.get("parts"))
    held = next((number(part.get("bytes")) for part in parts if part.get("name") == _IN_USE), None)
    tightest = {
        str(device.get("bdf"))
        for device in mappings(record.forecast.get("devices"))
        if (total := number(device.get("total_bytes"))) is not None
        and (free := number(device.get("free_bytes"))) is not None
        and max(total - free, 0.0) == held
    }
    return next((gpu for gpu in gpus if gpu.bdf in tightest), None)


def _marks(record: RunRecord, in_use: float) -> dict[str, float]:
    """Return the size of the GPU, and how far the share of it reaches that the server may take.

    Args:
        record: The run.
        in_use: What is in use before, in GiB: the share begins behind it.
    """
    forecast, marks = record.forecast, {}
    devices = mappings(forecast.get("devices"))
    total = number(mapping(devices[0] if devices else None).get("total_bytes"))
    said = record.server_facts.gpu_total_gib if record.server_facts is not None else None
    total_gib = total / _GIB if total else number(said)
    asked = number(forecast.get("requested_bytes"))
    if asked and str(forecast.get("platform")) != "cpu":
        share = number(forecast.get("utilization"))
        of = "" if share is None else f" ({share:g} of it)"
        marks[f"may take {asked / _GIB:.1f} GiB{of}"] = in_use + asked / _GIB
    if total_gib:
        holder = "host" if str(forecast.get("platform")) == "cpu" else "GPU"
        marks[f"{holder} has {total_gib:.1f} GiB"] = total_gib
    return marks
