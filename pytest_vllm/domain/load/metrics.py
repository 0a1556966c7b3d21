"""Make the figures of a load out of its columns, by the definitions of the field."""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import median_low
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.load.columns import UNTOLD
from pytest_vllm.domain.load.cross_check import (
    check_means,
    check_requests,
    disagreements,
    other_traffic,
)
from pytest_vllm.domain.load.failures import is_open, sort
from pytest_vllm.domain.load.flags import flag, flag_prompts
from pytest_vllm.domain.load.gpu_window import cut_gpus
from pytest_vllm.domain.load.latency import read_latencies
from pytest_vllm.domain.load.measurement import Measurement, Slo
from pytest_vllm.domain.load.percentile import distribute
from pytest_vllm.domain.load.rates import asks, keep, output
from pytest_vllm.domain.load.server_window import cut_server
from pytest_vllm.domain.load.steady import LENGTHS, steady_window, whole_load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.failures import Sorted
    from pytest_vllm.domain.load.latency import Latencies
    from pytest_vllm.domain.load.measurement import Distribution
    from pytest_vllm.domain.load.plan import LoadPlan
    from pytest_vllm.domain.load.rates import Output
    from pytest_vllm.domain.load.server_looks import ServerLooks
    from pytest_vllm.domain.load.steady import Window

ORDER = (
    "ttft",
    "ttft_sched",
    "ttft_content",
    "tpot",
    "itl",
    "icl",
    "stall",
    "e2el",
    "e2el_sched",
    "e2e_close",
    "normalized",
)
"""Metrics of latency in the order in which they are told."""
CURVES = ("ttft", "tpot", "itl", "e2el")
"""Metrics whose distribution is kept for plots where that is asked for."""


def measure(  # noqa: PLR0913 - what is known of a load
    plan: LoadPlan,
    columns: Columns,
    *,
    slo: Slo | None = None,
    server: ServerLooks | None = None,
    gpus: Mapping[str, Any] | None = None,
    curves: bool = False,
) -> Measurement:
    """Make the figures of a load.

    Args:
        plan: What was sent.
        columns: What came back.
        slo: What a good request keeps; without one there is no goodput.
        server: What the server told of itself meanwhile (`ServerWatch.looks`).
        gpus: Samples of the GPUs, as `Sampler.columns` gives them.
        curves: Whether the distributions of `CURVES` get values for a plot.

    Raises:
        ValueError: The columns are not those of this plan.
    """
    slo = slo or Slo()
    ends = sort(plan, columns)
    scheduled = is_open(plan)
    latencies = read_latencies(columns, ends, scheduled=scheduled)
    window, whole = steady_window(plan, columns, ends), whole_load(columns, ends)
    good = keep(latencies, ends, slo, scheduled=scheduled)
    distributions = _distributions(latencies, ends, curves=curves)
    figures = {
        **_rates(output(plan, columns, ends, good, window), window, slo),
        **_rates(output(plan, columns, ends, good, whole), whole, slo, suffix="_whole"),
        **_totals(columns, ends),
        **_latency_figures(distributions),
    }
    if asks(slo) and ends.issued:
        figures["goodput_share"] = len(good) / len(ends.issued)
    own, disagree = _own_words(columns, ends, server, window)
    cards = cut_gpus(gpus, window) if gpus else {}
    power_w, written = cards.get("power_w"), figures.get("output_tokens_per_s")
    if isinstance(power_w, float) and written:
        figures["joules_per_output_token"] = power_w / written
    taken = latencies.by_request.get("e2el")
    median_ms = median_low(taken.values()) / 1e6 if taken else None
    long_enough = window.seconds * 1e3 >= LENGTHS * (median_ms or 0.0)
    return Measurement(
        distributions=distributions,
        figures=figures,
        requests=len(ends.issued),
        failures=ends.failures,
        window_s=window.seconds,
        steady=window.reached and long_enough,
        multi_token_chunks=latencies.bundled > 0,
        flags=(
            *flag(ends, latencies, window, median_e2el_ms=median_ms),
            *flag_prompts(plan, columns, ends),
            *disagree,
        ),
        server=own,
        gpus=cards,
        client=asdict(columns.facts) if columns.facts else {},
        slo={name: part for name, part in asdict(slo).items() if part is not None},
    )


def _own_words(
    columns: Columns, ends: Sorted, server: ServerLooks | None, window: Window
) -> tuple[dict[str, object], tuple[str, ...]]:
    """Return what the server says of the window, and what in it cannot be."""
    by_request = check_requests(columns, ends.done)
    means = check_means(columns, server) if server is not None else {}
    told = cut_server(server, window) if server is not None else {}
    for name, checked in (("by_request", by_request), ("means", means)):
        if checked:
            told[name] = checked
    flags = list(disagreements(by_request, means))
    others = other_traffic(columns, server) if server is not None else 0
    if others:
        told["other_requests"] = others
        flags.append(
            f"the server finished {others} requests more than this load sent: others used it "
            "meanwhile, so that these figures are not those of the load alone"
        )
    return told, tuple(flags)


def _distributions(latencies: Latencies, ends: Sorted, *, curves: bool) -> dict[str, Distribution]:
    found = {
        metric: distribute(
            list(values.values()),
            requests=len(values),
            failed=ends.failed,
            curve=curves and metric in CURVES,
        )
        for metric, values in latencies.by_request.items()
    }
    if latencies.icl:
        gaps = {"requests": latencies.gapped, "failed": ends.failed}
        alike = latencies.counted and latencies.itl is None
        pooled = distribute(latencies.icl, **gaps, curve=curves and alike)
        found["icl"] = replace(pooled, curve=())
        if alike:
            found["itl"] = pooled
        elif latencies.itl is not None:
            found["itl"] = distribute(latencies.itl, **gaps, curve=curves)
    return {metric: found[metric] for metric in ORDER if metric in found}


def _rates(brought: Output, window: Window, slo: Slo, *, suffix: str = "") -> dict[str, float]:
    """Divide what came within a window by its length."""
    if window.seconds <= 0:
        return {}
    rates = {"requests_per_s": brought.requests / window.seconds}
    if brought.output_tokens is not None:
        rates["output_tokens_per_s"] = brought.output_tokens / window.seconds
        if brought.prompt_tokens is not None:
            total = brought.output_tokens + brought.prompt_tokens
            rates["total_tokens_per_s"] = total / window.seconds
    if asks(slo):
        rates["goodput_per_s"] = brought.good / window.seconds
    return {f"{name}{suffix}": value for name, value in rates.items()}


def _totals(columns: Columns, ends: Sorted) -> dict[str, float]:
    totals: dict[str, float] = {}
    tokens = [ends.tokens[row] for row in ends.done]
    if tokens and UNTOLD not in tokens:
        totals["output_tokens"] = sum(tokens)
    prompts = [columns.prompt_tokens[row] for row in ends.done]
    if prompts and UNTOLD not in prompts:
        totals["prompt_tokens"] = sum(prompts)
    cached = [columns.cached_tokens[row] for row in ends.done]
    if cached and UNTOLD not in cached:
        totals["cached_tokens"] = sum(cached)
    if ends.issued:
        totals["failed_share"] = ends.failed / len(ends.issued)
    return totals


def _latency_figures(distributions: Mapping[str, Distribution]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for metric, distribution in distributions.items():
        if distribution.mean is not None:
            figures[f"{metric}_mean_ms"] = distribution.mean
        for name, told in distribution.percentiles.items():
            if told.value is not None:
                figures[f"{metric}_{name}_ms"] = told.value
    return figures
