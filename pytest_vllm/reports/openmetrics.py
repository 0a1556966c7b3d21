"""`metrics.prom`: the run as OpenMetrics, for a dashboard over many runs.

All are gauges without timestamps, which the text format of Prometheus has too: so the file is also
one for the textfile collector of node_exporter, which knows neither `info` nor `stateset`.
https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.metric_change import Effect
from pytest_vllm.domain.plain import count, mapping, mappings
from pytest_vllm.domain.record_doubts import doubts
from pytest_vllm.domain.run_brief import moment
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.facts import (
    gfx_names,
    image_digest,
    image_name,
    is_image_id,
    setting,
    shown_results,
)
from pytest_vllm.reports.gpus import gpu_memory
from pytest_vllm.reports.load_levels import goodput_in, percentile_in, rate_in
from pytest_vllm.reports.memory import figures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from pytest_vllm.domain.load.over_rounds import Ranged
    from pytest_vllm.domain.record import RunRecord

_PREFIX = "vllm_acceptance_"
_LABEL_SHOWN = 300
_GIB = 2**30
_MS = 1000
_DIGITS = 12
"""Of a figure: the last ones of what is computed here differ from one C library to another."""
_RATES = {
    "output_tokens_per_s": ("load_output_tokens_per_second", "Output tokens per second."),
    "total_tokens_per_s": ("load_tokens_per_second", "Prompt and output tokens per second."),
    "requests_per_s": ("load_requests_per_second", "Answered requests per second."),
}


@dataclass(slots=True)
class _Page:
    """The metrics in the order in which they were first named, each with the run's labels."""

    own: Mapping[str, str]
    families: dict[str, Metric] = field(default_factory=dict)
    seen: set[tuple[str, ...]] = field(default_factory=set)

    def add(self, name: str, about: str, value: float | None, **labels: object) -> None:
        """Add a sample; a value that is not known has none."""
        from prometheus_client.metrics_core import Metric  # noqa: PLC0415 - only for this report

        if value is None or not math.isfinite(value):
            return
        name = f"{_PREFIX}{name}"
        texts = {key: one_line(str(text), _LABEL_SHOWN) for key, text in labels.items()}
        key = (name, *texts.values())
        if key in self.seen:  # names that differ only in what one line does not show
            return
        self.seen.add(key)
        family = self.families.setdefault(name, Metric(name, about, "gauge"))
        family.add_sample(name, {**self.own, **texts}, value)

    def collect(self) -> Iterator[Metric]:
        """Yield all, as `prometheus_client` asks its collectors."""
        yield from self.families.values()


def metrics_prom(record: RunRecord) -> str:
    """Write the run's verdict, counts, times, figures and memory, each with its labels."""
    from prometheus_client.openmetrics.exposition import generate_latest  # noqa: PLC0415 - heavy

    page = _Page(
        {
            "image_digest": "" if is_image_id(record) else image_digest(record),
            "model": one_line(_model(record), _LABEL_SHOWN),
            "gfx": ",".join(gfx_names(record)),
        }
    )
    _verdict(page, record)
    _checks(page, record)
    _times(page, record)
    _memory(page, record)
    for level in mappings(record.performance.get("levels")):
        _level(page, level)
    _changes(page, record)
    text: bytes = generate_latest(page)  # type: ignore[no-untyped-call]
    return text.decode("utf-8")


def _verdict(page: _Page, record: RunRecord) -> None:
    for decision in Decision:
        page.add(
            "result",
            "Verdict of the run: 1 for the one that it came to, 0 for the others.",
            float(record.verdict.decision is decision),
            verdict=decision.value,
        )
    page.add(
        "doubts",
        "Reasons why the record cannot be what it says; any is a changed or damaged one.",
        float(len(doubts(record))),
    )
    server = record.server
    page.add(
        "run_info",
        "What was accepted and how; always 1.",
        1.0,
        run=record.run_id,
        image=image_name(record),
        image_id=image_digest(record) if is_image_id(record) else "",
        revision=setting(record, "revision") or "",
        vllm=server.version if server is not None else "",
        backend=record.backend,
        profile=record.rules.profile if record.rules is not None else "",
        pytest_vllm=record.environment.get("pytest-vllm", ""),
    )


def _checks(page: _Page, record: RunRecord) -> None:
    counts: Counter[tuple[str, Level, Outcome]] = Counter(
        (one_line(result.check.suite, 60), result.check.level, result.outcome)
        for result in shown_results(record)
    )
    for suite, level in dict.fromkeys((suite, level) for suite, level, _ in counts):
        for outcome in Outcome:
            page.add(
                "checks",
                "Results of checks by suite, level and outcome.",
                float(counts[suite, level, outcome]),
                suite=suite,
                level=level.value,
                outcome=outcome.value,
            )


def _times(page: _Page, record: RunRecord) -> None:
    page.add("start_timestamp_seconds", "When the run began, Unix time.", _unix(record.started))
    page.add("duration_seconds", "How long the run took.", record.duration_s)
    page.add("checks_seconds", "How long the checks took all together.", record.checks_s)
    took: dict[str, float] = {}
    for phase in record.phases:  # what was interrupted comes twice
        took[phase.name] = took.get(phase.name, 0.0) + (phase.duration_s or 0.0)
    for name, seconds in took.items():
        page.add("phase_seconds", "How long a phase of the start-up took.", seconds, phase=name)
    page.add("start_retries", "Starts that failed and were tried again.", len(record.attempts))


def _memory(page: _Page, record: RunRecord) -> None:
    for figure in figures(record):
        values = {"forecast": figure.expected, "measured": figure.measured}
        for source, value in values.items():
            if figure.unit == "GiB":
                about = "Memory of the tightest device: forecast, and measured by the server."
                scaled = None if value is None else value * _GIB
                page.add("memory_bytes", about, scaled, part=figure.name, source=source)
            else:
                about = "What the KV cache holds: forecast, and measured by the server."
                page.add("capacity", about, value, of=figure.unit, source=source)
    for gpu, whens in gpu_memory(record).items():
        for when, used in whens.items():
            about = "Memory in use on a GPU before the launch, at most, and after the stop."
            page.add("gpu_memory_bytes", about, used, gpu=gpu, when=when)


def _level(page: _Page, level: Mapping[str, Any]) -> None:
    labels = {"level": level.get("name"), "concurrency": level.get("concurrency")}
    rounds = mappings(level.get("rounds"))
    for key, (name, about) in _RATES.items():
        ends = _ends(rate_in(rounds, key))
        _bounds(page, name, f"{about} Mean of the rounds, interval of 95 %.", ends, labels)
    about = "Share of all requests within the objectives, interval of 95 %."
    _bounds(page, "load_goodput_ratio", about, _ends(goodput_in(rounds)), labels)
    latencies = mapping(level.get("latencies"))
    for metric, told in latencies.items():
        for name in mapping(mapping(told).get("percentiles")):
            share = _share(name)
            quantile = "" if share is None else f"{share:g}"
            about = "Percentile of a latency over all rounds, with its interval of 95 %."
            asked = {**labels, "metric": metric, "quantile": quantile}
            ends = _ends(percentile_in(latencies, rounds, metric, name), _MS)
            _bounds(page, "load_latency_seconds", about, ends, asked)
    sent = sum(count(run.get("requests")) for run in rounds)
    failed = sum(count(run.get("failed")) for run in rounds)
    page.add("load_requests", "Requests of all rounds.", float(sent), **labels)
    page.add("load_failed_requests", "Requests that failed.", float(failed), **labels)


def _changes(page: _Page, record: RunRecord) -> None:
    comparison = record.comparison
    if comparison is None:
        return
    for kind, changed in Counter(change.kind for change in comparison.changes).items():
        about = "Checks that differ from the baseline, by kind of change."
        page.add("changed_checks", about, float(changed), kind=kind)
    for change in comparison.metrics.changes if comparison.metrics is not None else ():
        ends = {"estimate": change.ratio, "low": change.low, "high": change.high}
        about = "Candidate over baseline, with its interval."
        _bounds(page, "change_ratio", about, ends, {"metric": change.metric})
        for effect in Effect:
            page.add(
                "change_effect",
                "What became of a figure since the baseline: 1 for what it is.",
                float(change.effect is effect),
                metric=change.metric,
                effect=effect.value,
            )


def _bounds(
    page: _Page,
    name: str,
    about: str,
    ends: Mapping[str, float | None],
    labels: Mapping[str, object],
) -> None:
    """Add an estimate and its interval, all to the last digit that means something of the largest.

    A bound near zero is the difference of two large numbers, so its own digits mean less.
    """
    known = {b: value for b, value in ends.items() if value is not None and math.isfinite(value)}
    largest = max(map(abs, known.values()), default=0.0)
    digits = _DIGITS - 1 - int(f"{largest:e}".partition("e")[2])
    for bound, value in known.items():
        page.add(name, about, round(value, digits) + 0.0, **labels, bound=bound)


def _model(record: RunRecord) -> str:
    if record.server is not None:
        return record.server.model
    return str(setting(record, "model") or "")


def _unix(text: str) -> float | None:
    try:
        return moment(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _share(name: str) -> float | None:
    """Return the share of all that a percentile such as `p99` stands for."""
    try:
        return float(name.removeprefix("p")) / 100
    except ValueError:
        return None


def _ends(told: Ranged | None, scale: float = 1.0) -> dict[str, float | None]:
    """Return a figure and the ends of its interval, by the name of the bound."""
    if told is None:
        return {}
    ends = {"estimate": told.value, "low": told.low, "high": told.high}
    return {bound: None if end is None else end / scale for bound, end in ends.items()}
