"""Service-level objectives of a profile: absolute bounds, and allowed changes since a baseline."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.measurement import Slo
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Mapping

LATENCIES = ("ttft", "ttft-sched", "ttft-content", "tpot", "itl", "icl", "stall", "e2el")
"""Latencies that an objective can bound, by their names in a `Measurement` with `-` for `_`."""
PERCENTILES = ("p50", "p90", "p95", "p99", "p99.9")
RATES = ("output-tokens-per-s", "total-tokens-per-s", "requests-per-s")
OF_A_REQUEST = ("ttft", "tpot", "e2el", "stall")
_OTHERS = ("goodput", "concurrency", "request", "change")
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min)\s*")
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "min": 60_000.0}
_WHOLE = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The most that a percentile of a latency may be.

    Attributes:
        metric: Name of the latency in a `Measurement`, such as `ttft`.
        percentile: Such as `p99`.
        most_ms: Milliseconds.
    """

    metric: str
    percentile: str
    most_ms: float

    @property
    def key(self) -> str:
        """The key of the profile that says so."""
        return f"{self.metric.replace('_', '-')}-{self.percentile}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What a profile asks of the performance.

    Attributes:
        latencies: Bounds of percentiles.
        rates: The least of a rate, by figure, such as `output_tokens_per_s`.
        request: What one request must keep to be good.
        goodput: The least share of all requests that must be good; `None` asks for none.
        concurrency: Load level at which all this is asked; 0 is the level that is compared.
        changes: Allowed change for the worse since the baseline, as a share, by figure.
    """

    latencies: tuple[Bound, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    request: Slo = field(default_factory=Slo)
    goodput: float | None = None
    concurrency: int = 0
    changes: Mapping[str, float] = field(default_factory=dict)

    @property
    def declared(self) -> bool:
        """Whether anything absolute is asked."""
        return bool(self.latencies or self.rates) or self.goodput is not None


def read_objectives(where: str, table: Mapping[str, object]) -> Objectives:
    """Validate the table `[slo]` of a profile.

    Args:
        where: The profile, for error messages.
        table: Such as `{"ttft-p99": "500ms", "request": {"ttft": "1s"}, "change": {...}}`.

    Raises:
        TargetError: A key is unknown or a value wrong; profile and key are named.
    """
    here = f"{where} [slo]"
    bounds = tuple(f"{metric}-{name}" for metric in LATENCIES for name in PERCENTILES)
    latencies, rates = [], {}
    for key, value in table.items():
        if key in bounds:
            metric, _, percentile = key.rpartition("-")
            latencies.append(
                Bound(
                    metric=metric.replace("-", "_"),
                    percentile=percentile,
                    most_ms=_milliseconds(here, key, value),
                )
            )
        elif key in RATES:
            rates[figure(key)] = _above_zero(here, key, value)
        elif key not in _OTHERS:
            _refuse(here, key, (*bounds, *RATES, *_OTHERS))
    request = _request(f"{where} [slo.request]", _table(here, table, "request"))
    goodput = _share(here, "goodput", table["goodput"]) if "goodput" in table else None
    if goodput is not None and request == Slo():
        raise TargetError(
            f"{here}: key goodput asks for good requests, and nothing says what a good one is",
            advice='add [slo.request] with ttft = "500ms" or tpot = "50ms"',
        )
    return Objectives(
        latencies=tuple(latencies),
        rates=rates,
        request=request,
        goodput=goodput,
        concurrency=_concurrency(here, table.get("concurrency", 0)),
        changes=_changes(f"{where} [slo.change]", _table(here, table, "change"), bounds),
    )


def figure(key: str) -> str:
    """Return the figure of a `Measurement` that a key of the profile is about."""
    name = key.replace("-", "_")
    return f"{name}_ms" if key.rpartition("-")[2] in PERCENTILES else name


def _request(where: str, table: Mapping[str, object]) -> Slo:
    for key in table:
        if key not in OF_A_REQUEST:
            _refuse(where, key, OF_A_REQUEST)
    return Slo(**{f"{key}_ms": _milliseconds(where, key, value) for key, value in table.items()})


def _changes(where: str, table: Mapping[str, object], bounds: tuple[str, ...]) -> dict[str, float]:
    known = (*bounds, *RATES)
    for key in table:
        if key not in known:
            _refuse(where, key, known)
    return {figure(key): _share(where, key, value) for key, value in table.items()}


def _refuse(where: str, key: str, known: tuple[str, ...]) -> None:
    raise TargetError(
        f"{where}: unknown key {key!r}{closest(key, known)}",
        advice=f"use {', '.join(name for name in known if not name.endswith(('p90', 'p95', '.9')))}"
        + (" or another percentile (p90, p95, p99.9)" if "ttft-p90" in known else ""),
    )


def _table(where: str, table: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise TargetError(
            f"{where}: key {key} is {value!r}, not a table", advice=f"write [slo.{key}]"
        )
    return value


def _milliseconds(where: str, key: str, value: object) -> float:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    found = float(match[1]) * _MS[match[2]] if match else 0.0
    if found <= 0:
        raise TargetError(
            f"{where}: key {key} is {value!r}, not a time above 0",
            advice=f'write a number with its unit (us, ms, s, min): {key} = "200ms"',
        )
    return found


def _share(where: str, key: str, value: object) -> float:
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    found = float(match[1]) if match else 0.0
    if not 0 < found <= _WHOLE:
        raise TargetError(
            f"{where}: key {key} is {value!r}, not a share above 0 % and up to 100 %",
            advice=f'write it in percent: {key} = "5%"',
        )
    return found / _WHOLE


def _above_zero(where: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15:  # noqa: PLR2004
        raise TargetError(
            f"{where}: key {key} is {value!r}, not a number above 0", advice=f"e.g. {key} = 1000"
        )
    return float(value)


def _concurrency(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TargetError(
            f"{where}: key concurrency is {value!r}, not a whole number above 0",
            advice="name the requests at a time at which the objectives hold: concurrency = 8",
        )
    return value
