"""The model that was meant is found among all known ones."""

from __future__ import annotations

import pytest

from pytest_vllm.adapters.knowledge import known_model_ids, known_models
from pytest_vllm.adapters.model_facts import is_hub_id
from pytest_vllm.domain.similar import similar_models


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("deepseek-ai/DeepSeek-V2-Lite-instruct", "deepseek-ai/DeepSeek-V2-Lite-Chat"),
        ("deepseek-ai/deepseek-v2-lite-chat", "deepseek-ai/DeepSeek-V2-Lite-Chat"),
        ("meta-llama/Llama-3.1-8B-Chat", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("gpt2", "openai-community/gpt2"),
        ("openai/gpt-oss-20", "openai/gpt-oss-20b"),
        ("google/gemma2-9b-it", "google/gemma-2-9b-it"),
        ("DeepSeek-V3.1", "deepseek-ai/DeepSeek-V3.1"),
        ("meta/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct"),
        ("deepseek/DeepSeek-V3.1", "deepseek-ai/DeepSeek-V3.1"),
        ("HuggingFaceTB/SmolLM2-135M-Chat", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("mistralai/Mistral-7B-Instruct-v0.4", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("mistralai/Mistral-7B-Instruct-v0.0", "mistralai/Mistral-7B-Instruct-v0.1"),
    ],
)
def test_a_slip_finds_the_model_that_was_meant(asked: str, meant: str) -> None:
    assert similar_models(asked, known_model_ids())[0] == meant


@pytest.mark.parametrize(
    "asked", ["my-org/my-private-model", "acme/support-bot-13b-v2", "foo/bar", "", "/", "0"]
)
def test_a_name_of_its_own_finds_none(asked: str) -> None:
    assert similar_models(asked, known_model_ids()) == ()


def test_the_list_of_well_known_models_is_sound() -> None:
    ids = known_model_ids()
    assert len(ids) == len(set(ids)) > 250
    assert all(is_hub_id(name) and name.count("/") == 1 for name in ids)
    allowed = {
        *("id", "weights_bytes", "architecture", "model_type", "heads", "kv_heads", "mla"),
        *("experts", "experts_used", "context", "quantization", "chat"),
    }
    for table in known_models():
        assert set(table) <= allowed, table
        assert table.get("weights_bytes", 1) > 0
