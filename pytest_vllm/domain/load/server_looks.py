"""What a server said of itself at `/metrics` while a load ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.metrics import Metrics

HISTOGRAMS: dict[str, tuple[str, ...]] = {
    "ttft": ("vllm:time_to_first_token_seconds",),
    # named after TPOT before 0.11, though each step of a request was one value
    "itl": ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    "tpot": ("vllm:request_time_per_output_token_seconds",),
    "e2el": ("vllm:e2e_request_latency_seconds",),
    "queue": ("vllm:request_queue_time_seconds", "vllm:time_in_queue_requests"),
    "prefill": ("vllm:request_prefill_time_seconds",),
    "decode": ("vllm:request_decode_time_seconds",),
}
"""Histograms of time in seconds, the newer name first."""

GAUGES: dict[str, tuple[str, ...]] = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_cache": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
}
"""What is so at a moment; `kv_cache` is the share in use, 0 to 1."""

COUNTERS: dict[str, tuple[str, ...]] = {
    "preemptions": ("vllm:num_preemptions_total",),
    "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "prefix_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    "prompt_tokens": ("vllm:prompt_tokens_total",),
    "generation_tokens": ("vllm:generation_tokens_total",),
    "finished": ("vllm:request_success_total",),
    "drafted_tokens": ("vllm:spec_decode_num_draft_tokens_total",),
    "accepted_tokens": ("vllm:spec_decode_num_accepted_tokens_total",),
}
"""What only grows."""

PREFIXES = tuple(
    sorted({name for table in (HISTOGRAMS, GAUGES, COUNTERS) for t in table.values() for name in t})
)
"""How the lines that matter here begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A histogram as it was at a moment, of all engines together.

    Attributes:
        count: Values up to then.
        total: Their sum, in seconds.
        buckets: By upper edge in seconds, how many values were at most that.
    """

    count: float
    total: float
    buckets: Mapping[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLook:
    """One look at `/metrics`.

    Attributes:
        at_ns: When it was asked, CLOCK_MONOTONIC.
        took_ns: How long the answer took.
        histograms: By our name.
        gauges: By our name: the sum of all engines, for `kv_cache` the fullest.
        counters: By our name.
    """

    at_ns: int
    took_ns: int = 0
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLooks:
    """The looks at a server around and during a load, in the order of time.

    Attributes:
        looks: The first was before the load and the last after it.
        failed: Looks that got no answer.
        notes: What a reader must know.
    """

    looks: Sequence[ServerLook] = ()
    failed: int = 0
    notes: tuple[str, ...] = ()


def read_look(metrics: Metrics, *, at_ns: int, took_ns: int) -> ServerLook:
    """Take from `/metrics` what is told of a load."""
    return ServerLook(
        at_ns=at_ns,
        took_ns=took_ns,
        histograms={
            name: told
            for name, known in HISTOGRAMS.items()
            if (told := _histogram(metrics, known)) is not None
        },
        gauges={
            name: max(values) if name == "kv_cache" else sum(values)
            for name, known in GAUGES.items()
            if (values := [sample.value for sample in metrics.find(*known)])
        },
        counters={
            name: sum(values)
            for name, known in COUNTERS.items()
            if (values := [sample.value for sample in metrics.find(*known)])
        },
    )


def _histogram(metrics: Metrics, known: Sequence[str]) -> Histogram | None:
    for name in known:
        counts, sums = metrics.find(f"{name}_count"), metrics.find(f"{name}_sum")
        if not counts or not sums:
            continue
        buckets: dict[float, float] = {}
        for sample in metrics.find(f"{name}_bucket"):
            edge = _edge(sample.labels.get("le", ""))
            if edge is not None:
                buckets[edge] = buckets.get(edge, 0.0) + sample.value
        return Histogram(
            count=sum(sample.value for sample in counts),
            total=sum(sample.value for sample in sums),
            buckets=buckets,
        )
    return None


def _edge(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
