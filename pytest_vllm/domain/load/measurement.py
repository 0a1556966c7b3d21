"""The figures of one load, by the definitions of the field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """A percentile by nearest rank with its distribution-free interval, or why there is none.

    Attributes:
        value: The figure, `None` when the sample cannot support it.
        low: Lower end of its interval of 95 % (binomial order statistics), `None` when open.
        high: Upper end, `None` when open.
        needs: Requests that this percentile needs (MLPerf's early-stopping floor).
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    needs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Values of one metric over requests (or events), in milliseconds.

    Attributes:
        count: Values.
        requests: Requests that they come from; this is what percentiles are supported by.
        mean: Their mean, `None` without values.
        least: Smallest value.
        most: Largest value.
        percentiles: By name: `p50`, `p90`, `p95`, `p99`, `p99.9`.
        adjusted: The same with each failed request as infinitely slow (`None`: infinite).
        curve: Ordered values from the smallest to the largest for a plot, 101 at most, at even
            steps of rank: the i-th of k is the value at place `i * (count - 1) // (k - 1)` from 0.
            Nothing is made up in between, so a small sample has as few as it has values. Empty
            where nobody asked.
    """

    count: int
    requests: int
    mean: float | None = None
    least: float | None = None
    most: float | None = None
    percentiles: Mapping[str, Percentile] = field(default_factory=dict)
    adjusted: Mapping[str, float | None] = field(default_factory=dict)
    curve: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one load measured.

    Attributes:
        distributions: By metric: `ttft`, `ttft_sched`, `ttft_content`, `tpot`, `itl`, `icl`,
            `stall` (worst gap of a request), `e2el`, `e2el_sched`, `e2e_close`, `normalized`
            (E2EL for each token written). A metric that is not defined for the load is left out.
        figures: Every plain number by name, the ones that a gate can compare among them:
            `output_tokens_per_s`, `total_tokens_per_s`, `requests_per_s` (all in the steady
            window), `..._whole` for the whole run, `goodput_per_s`, `goodput_share`,
            `ttft_p50_ms`, `ttft_p99_ms`, `tpot_p50_ms`, ... (only percentiles that are supported).
        requests: Requests that were issued, without warm-up.
        failures: How many failed, by the name of the `Ending` in lower case.
        window_s: Length of the steady window.
        steady: Whether that window is long enough (three times the median E2EL).
        multi_token_chunks: Whether events carried several tokens without telling how many; ITL is
            then left out.
        flags: What a reader must know, such as `multi_token_chunks`, in words.
        server: The server's own figures over the same window: histograms, gauges, counters.
        gpus: The GPUs during the window, by address.
        client: How it was measured: `CollectorFacts` as plain data.
        slo: What a good request had to keep, as plain data, without what was not asked.
    """

    distributions: Mapping[str, Distribution]
    figures: Mapping[str, float]
    requests: int
    failures: Mapping[str, int] = field(default_factory=dict)
    window_s: float = 0.0
    steady: bool = True
    multi_token_chunks: bool = False
    flags: tuple[str, ...] = ()
    server: Mapping[str, object] = field(default_factory=dict)
    gpus: Mapping[str, object] = field(default_factory=dict)
    client: Mapping[str, object] = field(default_factory=dict)
    slo: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a request must keep to count as good; `None` where nothing is asked.

    Attributes:
        ttft_ms: Longest TTFT (from the schedule in an open loop).
        tpot_ms: Longest TPOT. A request of one token keeps it if it keeps `ttft_ms`.
        e2el_ms: Longest time from the send (or schedule) to the last token.
        stall_ms: Longest gap between two events.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2el_ms: float | None = None
    stall_ms: float | None = None
