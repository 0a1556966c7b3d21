"""`metrics.prom`, read back by the parsers of OpenMetrics and of Prometheus' text format."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from pytest_vllm.domain import rounds
from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.load.over_rounds import Ranged
from pytest_vllm.domain.metric_change import Effect, Form, Judgement, MetricChange
from pytest_vllm.domain.record import Comparison
from pytest_vllm.domain.server_facts import ServerFacts
from pytest_vllm.domain.students_t import t_quantile
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.openmetrics import metrics_prom
from tests.unit.performances import performance
from tests.unit.records import (
    DIGEST,
    all_not_run,
    hostile_record,
    make_failure,
    make_record,
    make_result,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.domain.record import RunRecord

PREFIX = "vllm_acceptance_"
GPU = {"name": "AMD Instinct MI300X", "gfx": "gfx942", "bdf": "0000:05:00.0", "index": 0}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(record: RunRecord) -> Samples:
    """Return all samples without their common labels, the same by both parsers."""
    text = metrics_prom(record)
    assert text.endswith("# EOF\n")
    told: list[Samples] = []
    for families in (
        openmetrics.text_string_to_metric_families(text),  # type: ignore[no-untyped-call]
        text_string_to_metric_families(text),  # the textfile collector's format
    ):
        found: Samples = {}
        for family in families:
            assert family.name.startswith(PREFIX)
            assert family.type == "gauge"
            assert family.documentation
            for sample in family.samples:
                labels = {k: v for k, v in sample.labels.items() if k not in COMMON}
                assert set(sample.labels) >= COMMON
                key = (sample.name.removeprefix(PREFIX), frozenset(labels.items()))
                assert key not in found
                found[key] = sample.value
        told.append(found)
    assert told[0] == told[1]
    return told[0]


COMMON = {"image_digest", "model", "gfx"}


@pytest.fixture
def ask() -> Callable[..., float | None]:
    """Return a function that looks a sample up."""

    def value(record: RunRecord, name: str, **labels: str) -> float | None:
        return read(record).get((name, frozenset(labels.items())))

    return value


@pytest.mark.parametrize("decision", Decision)
def test_the_verdict_is_one_of_three(ask: Callable[..., float], decision: Decision) -> None:
    results = {
        Decision.PROMOTE: (make_result(),),
        Decision.REJECT: (make_result(outcome=Outcome.FAIL),),
        Decision.INCONCLUSIVE: (make_result(outcome=Outcome.ERROR),),
    }[decision]
    record = make_record(results)
    seen = {verdict: ask(record, "result", verdict=verdict.value) for verdict in Decision}
    assert seen == {verdict: float(verdict is decision) for verdict in Decision}


def test_every_sample_says_what_was_accepted() -> None:
    record = make_record(gpus={"monitor": "amd", "gpus": [GPU, GPU]})
    text = metrics_prom(record)
    for family in openmetrics.text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            assert sample.labels["image_digest"] == DIGEST
            assert sample.labels["model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
            assert sample.labels["gfx"] == "gfx942"


def test_checks_are_counted_by_suite_level_and_outcome(ask: Callable[..., float]) -> None:
    should = make_result("chat.a.b", Outcome.FAIL, "no", level=Level.SHOULD)
    record = make_record((make_result("chat.c.d"), make_result("chat.e.f"), should))
    assert ask(record, "checks", suite="chat", level="MUST", outcome="pass") == 2
    assert ask(record, "checks", suite="chat", level="MUST", outcome="fail") == 0
    assert ask(record, "checks", suite="chat", level="SHOULD", outcome="fail") == 1


def test_times_are_seconds(ask: Callable[..., float]) -> None:
    record = make_record()
    assert ask(record, "duration_seconds") == 41.7
    assert ask(record, "checks_seconds") == 12.2
    assert ask(record, "phase_seconds", phase="load") == 2.0
    assert ask(record, "start_timestamp_seconds") == 1_795_371_570


def test_a_time_without_a_zone_is_the_same_on_every_host(
    ask: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(started="2026-11-22T18:19:30")
    try:
        monkeypatch.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        assert ask(record, "start_timestamp_seconds") == 1_795_371_570
    finally:
        monkeypatch.undo()
        time.tzset()


def test_an_image_that_no_registry_knows_has_an_id_and_no_digest() -> None:
    local = make_record(launch={"image": {"asked": "mine:1", "runs": DIGEST}})
    for record, digest, image_id in ((make_record(), DIGEST, ""), (local, "", DIGEST)):
        families = openmetrics.text_string_to_metric_families(metrics_prom(record))  # type: ignore[no-untyped-call]
        samples = [sample for family in families for sample in family.samples]
        assert {sample.labels["image_digest"] for sample in samples} == {digest}
        ids = [sample.labels["image_id"] for sample in samples if "image_id" in sample.labels]
        assert ids == [image_id]


def test_figures_do_not_hang_on_the_last_digit_of_a_c_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half the interval, by a quantile that is off by its last digits: the bytes are the same."""
    record = make_record(performance=performance())
    text = metrics_prom(record)

    def elsewhere(alpha: float, freedom: float) -> float:
        return t_quantile(alpha, freedom) * (1 + 4e-16)

    monkeypatch.setattr(rounds, "t_quantile", elsewhere)
    assert metrics_prom(record) == text
    low, estimate, high = 1e-17, 1 / 3, 2 / 3
    monkeypatch.setattr(
        "pytest_vllm.reports.openmetrics.rate_in",
        lambda _rounds, _figure: Ranged(value=estimate, low=low, high=high),
    )
    seen = {
        dict(labels)["bound"]: value
        for (name, labels), value in read(record).items()
        if name == "load_output_tokens_per_second"
    }
    assert seen == {"estimate": 0.333333333333, "low": 0.0, "high": 0.666666666667}


@pytest.mark.parametrize("told", [1e308, float("nan"), float("inf"), "fast", None])
def test_a_figure_that_nobody_measured_is_left_out(told: object) -> None:
    loads = performance()
    for one in loads["levels"][0]["rounds"]:
        one["figures"]["output_tokens_per_s"] = told
    names = {name for name, _ in read(make_record(performance=loads))}
    assert "load_requests" in names
    assert "load_output_tokens_per_second" not in names


def test_a_load_has_its_figures_with_intervals(ask: Callable[..., float]) -> None:
    loads = performance()
    loads["levels"][0]["concurrency"] = 8
    loads["levels"][0]["latencies"] = {
        "ttft": {"percentiles": {"p50": {"value": 200.0, "low": 190.0, "high": None, "needs": 11}}}
    }
    record = make_record(performance=loads)
    level = {"level": "c8", "concurrency": "8"}
    low, mean, high = (
        ask(record, "load_output_tokens_per_second", **level, bound=bound)
        for bound in ("low", "estimate", "high")
    )
    assert low < mean < high
    assert mean == pytest.approx(1234, rel=0.05)
    asked = {**level, "metric": "ttft", "quantile": "0.5"}
    assert ask(record, "load_latency_seconds", **asked, bound="estimate") == 0.2
    assert ask(record, "load_latency_seconds", **asked, bound="low") == 0.19
    assert ask(record, "load_latency_seconds", **asked, bound="high") is None
    assert ask(record, "load_requests", **level) == 5 * 64
    assert ask(record, "load_failed_requests", **level) == 0


def test_memory_is_bytes_forecast_and_measured(ask: Callable[..., float]) -> None:
    record = make_record(
        forecast={"verdict": "FITS", "kv_bytes_per_rank": 2**30, "kv_tokens": 1000},
        server_facts=ServerFacts(kv_cache_gib=2.0, kv_tokens=2000),
        gpu_samples={"gpus": [{**GPU, "vram_used_bytes": [1, None, 9, 2]}]},
    )
    assert ask(record, "memory_bytes", part="KV cache", source="forecast") == 2**30
    assert ask(record, "memory_bytes", part="KV cache", source="measured") == 2**31
    assert ask(record, "capacity", of="tokens", source="measured") == 2000
    seen = [
        ask(record, "gpu_memory_bytes", gpu="0 (0000:05:00.0)", when=when)
        for when in ("before", "most", "after")
    ]
    assert seen == [1, 9, 2]


def test_changes_have_ratio_interval_and_effect(ask: Callable[..., float]) -> None:
    change = MetricChange(
        metric="ttft_p50_ms", effect=Effect.WORSE, tolerance=0.1, ratio=1.4, low=1.3, high=1.5
    )
    metrics = Judgement(form=Form.STORED, changes=(change,))
    comparison = Comparison(run_id="r", decision=Decision.PROMOTE, metrics=metrics)
    record = make_record(comparison=comparison)
    assert ask(record, "change_ratio", metric="ttft_p50_ms", bound="estimate") == 1.4
    assert ask(record, "change_ratio", metric="ttft_p50_ms", bound="high") == 1.5
    assert ask(record, "change_effect", metric="ttft_p50_ms", effect="worse") == 1
    assert ask(record, "change_effect", metric="ttft_p50_ms", effect="better") == 0


def test_a_failed_start_is_a_run_too(ask: Callable[..., float]) -> None:
    record = make_record(all_not_run(), failure=make_failure())
    assert ask(record, "result", verdict="REJECT") == 1
    assert ask(record, "checks", suite="chat", level="MUST", outcome="not run") == 8


def test_hostile_text_is_a_label_and_nothing_else() -> None:
    assert read(hostile_record())


@given(st.text(st.characters()))
def test_any_text_can_be_a_label(text: str) -> None:
    results = (make_result(f"chat.a{text}.b"), make_result(f"{text}.b.c", case=text))
    assert read(make_record(results, run_id=text, started=text, backend=text))
