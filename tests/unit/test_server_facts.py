"""Figures that servers state in their logs."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.server_facts import ServerFacts, read_facts
from pytest_vllm.reports.startfacts import server_rows

LOGS = Path(__file__).parent.parent / "data" / "logs"


def facts_of(name: str) -> ServerFacts:
    text = (LOGS / name).read_bytes().decode()
    return read_facts(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))


ON_H100 = {
    "version": "0.26.0",
    "dtype": "bfloat16",
    "quantization": "none",
    "kv_cache_dtype": "auto",
    "device": "cuda",
    "enforce_eager": False,
    "max_model_len": 4096,
    "tensor_parallel": 1,
    "gpu_total_gib": 79.18,
    "gpu_free_gib": 78.66,
    "utilization": 0.92,
    "non_torch_gib": 0.22,
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "h100-0.26/ds7b.log",
            {
                **ON_H100,
                "model": "/models/deepseek-llm-7b",
                "architecture": "LlamaForCausalLM",
                "attention_backend": "FLASH_ATTN",
                "weights_gib": 12.87,
                "load_s": 4.049841,
                "kv_cache_gib": 58.84,
                "kv_tokens": 128_528,
                "max_concurrency": 31.38,
                "graph_gib": 0.71,
                "graph_s": 5.0,
                "peak_activation_gib": 0.91,
                "compile_s": 23.69,
                "init_s": 50.32,
            },
        ),
        (
            "h100-0.26/v2lite.log",
            {
                **ON_H100,
                "architecture": "DeepseekV2ForCausalLM",
                "attention_backend": "FLASH_ATTN_MLA",
                "weights_gib": 29.31,
                "kv_cache_gib": 42.21,
                "kv_tokens": 1_457_104,
                "max_concurrency": 355.74,
                "graph_gib": 1.2,
                "peak_activation_gib": 1.1,
                "compile_s": 26.34,
                "init_s": 74.84,
            },
        ),
        (
            "h100-0.26/free_mem_error.log",
            {"enforce_eager": True, "weights_gib": None, "kv_tokens": None, "gpu_free_gib": None},
        ),
        (
            "cpu-0.32/ok_startup.log",
            {
                "version": "0.32.0",
                "device": "cpu",
                "checkpoint_gib": 0.25,
                "weights_s": 1.69,
                "kv_cache_gib": 1.0,
                "kv_tokens": 46_592,
                "max_concurrency": 22.75,
                "init_s": 85.75,
                "attention_backend": "",
            },
        ),
        (
            "old-formats/v0-0.6.log",
            {
                "version": "0.6.2",
                "attention_backend": "ROCmFlashAttention",
                "weights_gib": 6.016,
                "kv_blocks": 35025,
                "graph_s": 17.0,
                "graph_gib": None,
            },
        ),
        (
            "old-formats/v0-0.6-tp.log",
            {
                "tensor_parallel": 2,
                "weights_gib": 18.5002,
                "kv_cache_gib": 34.78,
                "max_concurrency": 2967.89,
            },
        ),
        (
            "old-formats/v1-0.8.log",
            {"attention_backend": "Triton Attention", "download_s": 127.214501, "compile_s": 46.14},
        ),
        (
            "old-formats/v1-0.11-rocm.log",
            {"quantization": "fp8", "aiter_modules": 2, "aiter_s": 256.1},
        ),
        (
            "old-formats/v1-0.18-rocm.log",
            {
                "attention_backend": "TRITON_ATTN",
                "kv_cache_dtype": "fp8",
                "weights_gib": 9.71,
                "kv_cache_gib": 4.02,
            },
        ),
    ],
)
def test_the_figures_are_those_of_the_log(name: str, expected: dict[str, Any]) -> None:
    facts = asdict(facts_of(name))
    assert {key: facts[key] for key in expected} == expected


def test_a_length_that_was_fitted_replaces_the_one_asked_for() -> None:
    said = "INFO [a.py:1] Auto-fit max_model_len: reduced from 8192 to 4096 to fit in available"
    assert read_facts(["Using max model len 8192", said]).max_model_len == 4096


@given(st.lists(st.text() | st.from_regex(r"Model loading took [\d.]+ GiB"), max_size=8))
def test_no_text_breaks_it(lines: list[str]) -> None:
    read_facts(lines)


def test_a_line_that_says_nothing_costs_little() -> None:
    lines = [
        "(EngineCore pid=7) INFO 01-01 00:00:00 [loggers.py:1] Engine 000: 1 tokens/s"
    ] * 20_000
    began = time.process_time()
    read_facts(lines)
    assert time.process_time() - began < 2.0


def test_the_report_says_what_the_log_says_and_nothing_else() -> None:
    rows = dict(server_rows(facts_of("h100-0.26/ds7b.log")))
    assert rows["Weights on a GPU"] == "12.87 GiB"
    assert rows["KV cache"] == "58.84 GiB, 128,528 tokens, type auto"
    assert rows["Concurrency"] == "31.38 requests of full length"
    assert rows["Graph memory"] == "0.71 GiB in 5.0 s"
    assert rows["Memory of a GPU"] == "78.66 of 79.18 GiB free at the start, utilization 0.92"
    assert "AITER modules built" not in rows
    assert server_rows(ServerFacts()) == []
    assert server_rows(None) == []
