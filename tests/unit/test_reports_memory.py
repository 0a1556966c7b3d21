"""What was forecast of the memory, beside what the server said."""

from __future__ import annotations

from typing import Any

from pytest_vllm.domain.fit import Gate
from pytest_vllm.domain.server_facts import ServerFacts
from pytest_vllm.reports.markdown import report_md
from pytest_vllm.reports.memory import (
    at_gate,
    figures,
    forecast_line,
    memory_line,
    memory_rows,
    notes,
)
from pytest_vllm.reports.terminal import summary
from tests.unit.records import make_record

GIB = 2**30
FORECAST: dict[str, Any] = {
    "verdict": "FITS",
    "gate": None,
    "reason": "58.4 GiB of cache hold 31 requests of 4,096 tokens",
    "kv_bytes_per_rank": round(58.4 * GIB),
    "kv_tokens": 127_600,
    "blocks": 7975,
    "max_concurrency": 31.15,
    "parts": [
        {"name": "weights", "bytes": round(12.87 * GIB), "estimated": False},
        {"name": "rope", "bytes": 2**20, "estimated": False},
        {"name": "context", "bytes": GIB // 4, "estimated": True},
        {"name": "activation", "bytes": GIB, "estimated": True},
        {"name": "margin", "bytes": 5 * GIB, "estimated": True},
    ],
    "notes": ["weights by: closed form"],
}
FACTS = ServerFacts(
    weights_gib=12.87, peak_activation_gib=0.91, kv_cache_gib=58.84, kv_tokens=128_528
)


def test_what_was_forecast_stands_beside_what_was_measured() -> None:
    record = make_record(forecast=FORECAST, server_facts=FACTS)
    rows = {name: rest for name, *rest in memory_rows(record)}
    assert rows["Weights, loaded"] == ["12.87 GiB", "12.87 GiB", "+0.0%"]
    assert rows["KV cache"] == ["58.40 GiB", "58.84 GiB", "-0.7%"]
    assert rows["KV cache, tokens"] == ["127,600 tokens", "128,528 tokens", "-0.7%"]
    assert rows["KV cache, blocks"] == ["7,975 blocks", "", ""]
    assert rows["Concurrency, requests"] == ["31.15 requests", "", ""]
    assert rows["Outside PyTorch"] == ["0.25 GiB", "", ""]
    assert "Graphs" not in rows  # nobody said anything about them


def test_the_line_has_verdict_weights_and_tokens() -> None:
    record = make_record(forecast=FORECAST, server_facts=FACTS)
    line = memory_line(record)
    assert line == (
        "forecast FITS: weights 12.87 GiB (measured 12.87 GiB, +0.0%), "
        "KV 127,600 tokens (measured 128,528 tokens, -0.7%)"
    )
    assert "Memory    forecast FITS: weights 12.87 GiB" in summary(
        record, width=160, color=False, evidence="x"
    )
    before = memory_line(make_record(forecast=FORECAST, server_facts=None))
    assert before == "forecast FITS: weights 12.87 GiB, KV 127,600 tokens"


def test_a_launch_that_does_not_fit_names_its_gate() -> None:
    forecast = {**FORECAST, "verdict": "DOES_NOT_FIT", "gate": "weights", "reason": "too large"}
    assert forecast_line(make_record(forecast=forecast)) == "DOES_NOT_FIT at the weights: too large"
    words = {
        Gate.INVALID: "with these arguments",
        Gate.STARTUP: "at the start-up check",
        Gate.WEIGHTS: "at the weights",
        Gate.BLOCKS: "at the cache blocks",
        Gate.LENGTH: "at the longest request",
    }
    assert {gate: at_gate(gate).strip() for gate in Gate} == words
    assert at_gate(None) == at_gate("") == ""


def test_without_a_forecast_the_reason_stands_in_the_report_and_no_line_in_the_summary() -> None:
    record = make_record(forecast={"notes": ["no forecast: no GPU is known on this host"]})
    assert memory_line(record) == ""
    assert forecast_line(record) == ""
    assert "no GPU is known on this host" in report_md(record)
    assert "Memory  " not in summary(record, width=100, color=False, evidence="x")
    assert "## Memory" not in report_md(make_record())


def test_the_report_has_a_table() -> None:
    text = report_md(make_record(forecast=FORECAST, server_facts=FACTS))
    assert "| KV cache, tokens | `127,600 tokens` | `128,528 tokens` | `-0.7%` |" in text
    assert "- `weights by: closed form`" in text


def test_a_record_of_another_version_may_hold_anything() -> None:
    odd = {"verdict": 1, "gate": [], "parts": ["x", {"bytes": "y"}], "notes": "z", "blocks": True}
    record = make_record(forecast=odd, server_facts=FACTS)
    assert figures(record)[0].expected is None
    assert notes(record) == ()
    assert memory_line(record).startswith("forecast 1")
    assert "Weights, loaded" in report_md(record)
