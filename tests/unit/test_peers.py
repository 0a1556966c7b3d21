"""The headers that other estimators are shown are those of the published files."""

from __future__ import annotations

import json
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import pytest

from tools.peers.checkpoint import size, tensors
from tools.peers.hub_folder import write_folder

CONFIGS = Path(__file__).parents[1] / "data" / "models" / "configs.json"
TENSOR_BYTES = {
    "deepseek-ai/DeepSeek-V2-Lite-Chat": 31_412_968_448,
    "mistralai/Mixtral-8x7B-v0.1": 93_405_585_408,
    "openai/gpt-oss-20b": 13_761_264_768,
    "google/gemma-2-9b-it": 18_483_411_968,
    "Qwen/Qwen2.5-7B-Instruct": 15_231_233_024,
}
"""`total_size` of the index on the Hub."""
FILE_BYTES = {
    "deepseek-ai/DeepSeek-V3.1": 688_586_727_753,
    "openai-community/gpt2": 548_105_171,
    "meta-llama/Llama-3.1-8B-Instruct": 16_060_556_376,
    "meta-llama/Llama-3.1-70B-Instruct": 141_107_497_872,
    "Qwen/Qwen3-30B-A3B": 61_066_575_648,
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": 217_283_738_720,
}
"""Sizes of the files on the Hub; they hold the headers, too."""
PARAMETERS = {
    "deepseek-ai/deepseek-llm-7b-base": 6_910_365_696,
    "google/gemma-3-4b-it": 4_300_079_472,
    "microsoft/phi-4": 14_659_507_200,
    "zai-org/GLM-4.5": 358_337_791_296,
    "Qwen/Qwen3-8B": 8_190_735_360,
}


def config(name: str) -> dict[str, Any]:
    document = json.loads(CONFIGS.read_text("utf-8"))
    found: dict[str, Any] = document["models"][name]["config"]
    return found


@pytest.mark.parametrize("name", TENSOR_BYTES)
def test_tensors_sum_up_to_the_index(name: str) -> None:
    assert sum(map(size, tensors(config(name)))) == TENSOR_BYTES[name]


@pytest.mark.parametrize("name", FILE_BYTES)
def test_tensors_sum_up_to_the_files_less_their_headers(name: str) -> None:
    found = sum(map(size, tensors(config(name))))
    assert found < FILE_BYTES[name] < found * 1.00004


@pytest.mark.parametrize("name", PARAMETERS)
def test_tensors_have_the_published_number_of_parameters(name: str) -> None:
    assert sum(prod(shape) for _, _, shape in tensors(config(name))) == PARAMETERS[name]


def test_the_types_of_an_8_bit_checkpoint_are_those_that_the_hub_counts() -> None:
    """https://huggingface.co/api/models/deepseek-ai/DeepSeek-V3: `safetensors.parameters`."""
    counted: Counter[str] = Counter()
    for _, kind, shape in tensors(config("deepseek-ai/DeepSeek-V3.1")):
        counted[kind] += prod(shape)
    assert counted == {"BF16": 3_918_786_560, "F8_E4M3": 680_571_043_840, "F32": 41_555_600}


def test_a_folder_has_the_sizes_and_no_bytes(tmp_path: Path) -> None:
    """The files are as long as the true ones, and take no more room than their headers."""
    name = "meta-llama/Llama-3.1-8B-Instruct"
    write_folder(config(name), tmp_path / "model")
    (file,) = (tmp_path / "model").glob("*.safetensors")
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    assert file.stat().st_size - 8 - length == 16_060_522_496
    assert file.stat().st_blocks * 512 < 1_000_000
    assert header["lm_head.weight"]["shape"] == [128256, 4096]
