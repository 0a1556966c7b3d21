"""Arguments that vLLM refuses for a model, told before it has loaded anything."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.serving import Serving
from pytest_vllm.domain.memory.validity import objections, valid_tensor_parallel
from tests.unit import oracle_cases as oracle


def said(name: str, serving: Serving, **change: Any) -> tuple[str, ...]:
    """Return the objections to a model of the record."""
    return objections(read_shape({**oracle.document()["models"][name], **change}), serving)


@pytest.mark.parametrize(
    ("name", "serving", "words"),
    [
        (
            "Qwen/Qwen2.5-7B-Instruct",
            Serving(tensor_parallel=8),
            "--tensor-parallel-size 8: 28 attention heads do not divide by it",
        ),
        (
            "microsoft/phi-4",
            Serving(tensor_parallel=4),
            "--tensor-parallel-size 4: 10 key-value heads neither divide by it nor divide it",
        ),
        (
            "microsoft/phi-4",
            Serving(tensor_parallel=5),
            "--tensor-parallel-size 5: the vocabulary, padded to 100352, does not divide by it",
        ),
        (
            "deepseek-ai/DeepSeek-V3.1",
            Serving(tensor_parallel=32),
            "--tensor-parallel-size 32: 576 rows of mlp.gate_up_proj are no whole blocks of 128",
        ),
        (
            "deepseek-ai/deepseek-llm-7b-base",
            Serving(expert_parallel=True),
            "--enable-expert-parallel: the model has no experts",
        ),
        (
            "deepseek-ai/deepseek-llm-7b-base",
            Serving(pipeline_parallel=31),
            "--pipeline-parallel-size 31: the model has 30 layers",
        ),
        (
            "Qwen/Qwen3-30B-A3B",
            Serving(tensor_parallel=32, data_parallel=16),
            "--tensor-parallel-size 32: the 768 columns of an expert do not divide by 512",
        ),
        (
            "google/gemma-3-4b-it",
            Serving(tensor_parallel=32),
            "--tensor-parallel-size 32: 8 attention heads do not divide by it",
        ),
    ],
)
def test_what_contradicts_the_model(name: str, serving: Serving, words: str) -> None:
    assert said(name, serving)[0] == words


def test_groups_that_a_rank_would_tear() -> None:
    """vLLM: `requires the MoE intermediate size per tensor-parallel partition (192) to be ...`."""
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
    stored = {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": weights}}}
    (line,) = said("Qwen/Qwen3-30B-A3B", Serving(tensor_parallel=4), quantization_config=stored)
    assert line == "--tensor-parallel-size 4: 192 columns of an expert are no whole blocks of 128"
    spread = Serving(tensor_parallel=4, expert_parallel=True)
    assert said("Qwen/Qwen3-30B-A3B", spread, quantization_config=stored) == ()


def test_groups_of_awq() -> None:
    stored = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    name = "Qwen/Qwen2.5-7B-Instruct"
    assert said(name, Serving(tensor_parallel=4), quantization_config=stored) == ()
    change = {"quantization_config": stored, "intermediate_size": 18944 + 256}
    (line,) = said(name, Serving(tensor_parallel=4), **change)
    assert line.endswith("4800 columns of mlp.down_proj are no whole groups of 128")


def test_layers_that_are_ignored_may_be_torn() -> None:
    """A dense MLP of 18432 columns tears at 32 ranks unless it is kept in 16 bits."""
    model = oracle.document()["models"]["deepseek-ai/DeepSeek-V3.1"]
    ignored = ["re:.*mlp\\.(gate_up|down)_proj", "re:.*shared_experts.*"]
    change = {**model["quantization_config"], "modules_to_not_convert": ignored}
    name = "deepseek-ai/DeepSeek-V3.1"
    assert said(name, Serving(tensor_parallel=32), quantization_config=change) == ()


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", (1, 2, 4)),
        ("deepseek-ai/DeepSeek-V3.1", (1, 2, 4, 8, 16)),
        ("microsoft/phi-4", (1, 2)),
        ("openai-community/gpt2", (1, 2, 3, 4, 6, 12)),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", (1, 2, 4, 8)),
    ],
)
def test_sizes_that_a_model_takes(name: str, sizes: tuple[int, ...]) -> None:
    assert valid_tensor_parallel(read_shape(oracle.document()["models"][name])) == sizes
