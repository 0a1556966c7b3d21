"""Words for what the GPUs did in a run: a line for the terminal, a table for the report."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.plain import items, mappings, number
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_vllm.domain.record import RunRecord

_GIB = 2**30
_BARS, _UNKNOWN = "▁▂▃▄▅▆▇█", "·"
_HIGHEST = len(_BARS) - 1
_BINS = 40
_GPUS_SHOWN = 64
HEAD = ("GPU", "VRAM in use", "Before, most, after", "Activity", "Power", "Hottest", "Errors")
"""Head of the table; the second column is a curve from the start of the run to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """The numbers of a quantity, those that were not told left out."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


def gpu_use_line(record: RunRecord) -> str:
    """Say in one line what the GPUs did; empty where nobody sampled them."""
    gpus = list(_gpus(record.gpu_samples))
    peaks = [_peak(gpu) for gpu in gpus]
    known = [peak for peak in peaks if peak is not None]
    if not known:
        return ""
    busiest = peaks.index(max(known))
    used = _column(gpus[busiest], "vram_used_bytes").values
    parts = [f"at most {max(known) / _GIB:.1f} GiB of VRAM on {_name(gpus[busiest])}"]
    if used:
        parts.append(f"{used[0] / _GIB:.1f} GiB before and {used[-1] / _GIB:.1f} GiB after")
    power = sum(column.mean for gpu in gpus if (column := _column(gpu, "power_w")).values)
    heat = [value for gpu in gpus for value in _column(gpu, "temperature_c").values]
    parts += [f"{power:.0f} W in the mean of all"] if power else []
    parts += [f"{max(heat):.0f} °C"] if heat else []
    errors = sum(_new_errors(gpu) or 0 for gpu in gpus)
    parts += [f"{errors:.0f} MEMORY ERRORS that could not be corrected"] if errors else []
    return one_line(", ".join(parts))


def gpu_use_rows(record: RunRecord) -> list[tuple[str, ...]]:
    """Return a row for each GPU, as `HEAD` names the cells; none where nobody sampled."""
    totals = {
        str(gpu.get("bdf")): number(gpu.get("vram_total_bytes")) for gpu in _gpus(record.gpus)
    }
    return [
        (
            _name(gpu),
            curve(_raw(gpu, "vram_used_bytes"), top=totals.get(str(gpu.get("bdf")))),
            _span(gpu),
            _mean_and_most(gpu, "activity_percent", "%"),
            _mean_and_most(gpu, "power_w", "W"),
            _most(gpu, "temperature_c", "°C"),
            "" if (errors := _new_errors(gpu)) is None else f"{errors:.0f}",
        )
        for gpu in list(_gpus(record.gpu_samples))[:_GPUS_SHOWN]
    ]


def gpu_memory(record: RunRecord) -> dict[str, dict[str, float]]:
    """Return the bytes in use of each GPU by its name: `before`, `most` and `after`."""
    seen = {}
    for gpu in _gpus(record.gpu_samples):
        used, peak = _column(gpu, "vram_used_bytes").values, _peak(gpu)
        if used and peak is not None:
            seen[_name(gpu)] = {"before": used[0], "most": peak, "after": used[-1]}
    return seen


def sample_notes(record: RunRecord) -> tuple[str, ...]:
    """Say how often was looked, and what was noted meanwhile."""
    samples = record.gpu_samples
    times = samples.get("time_s")
    if not isinstance(times, list) or not times:
        return ()
    said = samples.get("notes")
    every = number(samples.get("interval_s")) or 0.0
    cost = number(samples.get("cpu_s")) or 0.0
    first = (
        f"{len(times)} samples by {samples.get('monitor')}, one every {every:g} s; "
        f"they took {cost:.2f} s of a core"
    )
    return (one_line(first), *(one_line(str(note)) for note in items(said)))


def curve(values: Sequence[object], *, top: float | None = None, bins: int = _BINS) -> str:
    """Draw numbers as bars, the highest of each bin; a dot where nothing is known.

    Args:
        values: Numbers, or anything else for what was not told.
        top: What a full bar stands for; the highest value when it is not known.
        bins: Most bars.
    """
    numbers = [number(value) for value in values]
    most = top or max((known for known in numbers if known is not None), default=0.0)
    if most <= 0 or not numbers:
        return ""
    count = min(bins, len(numbers))
    edges = [index * len(numbers) // count for index in range(count + 1)]
    drawn = []
    for begin, end in pairwise(edges):
        told = [known for known in numbers[begin:end] if known is not None]
        level = max(told) / most * len(_BARS) if told else None
        drawn.append(_UNKNOWN if level is None else _BARS[max(min(int(level), _HIGHEST), 0)])
    return "".join(drawn)


def _gpus(facts: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the GPUs; the record of an earlier run may hold anything."""
    yield from mappings(facts.get("gpus"))


def _name(gpu: Mapping[str, Any]) -> str:
    return one_line(f"{gpu.get('index')} ({gpu.get('bdf')})", 60)


def _raw(gpu: Mapping[str, Any], name: str) -> list[Any]:
    return items(gpu.get(name))


def _column(gpu: Mapping[str, Any], name: str) -> _Column:
    numbers = (number(value) for value in _raw(gpu, name))
    return _Column(values=tuple(known for known in numbers if known is not None))


def _peak(gpu: Mapping[str, Any]) -> float | None:
    """Return the highest use: the exact one, else that of the samples that were kept."""
    known = number(gpu.get("vram_peak_bytes"))
    return known if known is not None else max(_column(gpu, "vram_used_bytes").values, default=None)


def _span(gpu: Mapping[str, Any]) -> str:
    used, peak = _column(gpu, "vram_used_bytes").values, _peak(gpu)
    if not used or peak is None:
        return ""
    return f"{used[0] / _GIB:.2f}, {peak / _GIB:.2f}, {used[-1] / _GIB:.2f} GiB"


def _mean_and_most(gpu: Mapping[str, Any], name: str, unit: str) -> str:
    column = _column(gpu, name)
    if not column.values:
        return ""
    return f"{column.mean:.0f} {unit}, at most {max(column.values):.0f} {unit}"


def _most(gpu: Mapping[str, Any], name: str, unit: str) -> str:
    values = _column(gpu, name).values
    return f"{max(values):.0f} {unit}" if values else ""


def _new_errors(gpu: Mapping[str, Any]) -> float | None:
    """Count the errors that came in the run; the driver counts since it was loaded."""
    values = _column(gpu, "ecc_errors").values
    return values[-1] - values[0] if values else None
