"""What vLLM derives from a config is read as vLLM reads it, whatever stands in it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.facts.config import read_config
from tests.unit.launch_facts import public_configs

_KEYS = (
    *("model_type", "architectures", "auto_map", "num_attention_heads", "n_head"),
    *("num_key_value_heads", "kv_lora_rank", "num_experts", "n_routed_experts", "text_config"),
    *("max_position_embeddings", "model_max_length", "rope_scaling", "rope_parameters"),
    *("quantization_config", "compression_config", "num_hidden_layers", "factor", "rope_type"),
    *("quant_method", "quantization", "producer", "quant_algo", "name", "config_groups"),
    *("original_max_position_embeddings", "weights", "llm_config", "thinker_config"),
)
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(_KEYS), _ANYTHING))
def test_no_config_is_too_odd(config: dict[str, Any]) -> None:
    facts = read_config(config)
    for number in (facts.heads, facts.kv_heads, facts.context, facts.experts, facts.layers):
        assert number is None or (isinstance(number, int) and number > 0)
    assert all(isinstance(name, str) for name in (*facts.architectures, *facts.auto_map))
    json.dumps([facts.quantization, facts.model_type, facts.context_key])


def test_the_configs_of_public_models_are_understood() -> None:
    facts = {name: read_config(model["config"]) for name, model in public_configs().items()}
    assert len(facts) == 20
    assert all(config.heads and config.context for config in facts.values())
    v3 = facts["deepseek-ai/DeepSeek-V3.1"]
    assert (v3.heads, v3.experts, v3.experts_used, v3.context) == (128, 256, 8, 163_840)
    assert v3.mla
    assert v3.fp8
    assert v3.quantization == "fp8"
    assert facts["openai-community/gpt2"].heads == 12
    assert facts["openai-community/gpt2"].context == 1024
    assert facts["microsoft/phi-4"].kv_heads == 10
    assert facts["openai/gpt-oss-20b"].quantization == "mxfp4"
    assert facts["deepseek-ai/deepseek-coder-6.7b-instruct"].context == 65_536  # linear, 4 times
    assert facts["google/gemma-3-4b-it"].heads == 8  # of its text part
    scout = facts["meta-llama/Llama-4-Scout-17B-16E-Instruct"]
    assert (scout.heads, scout.context) == (40, 10_485_760)


def test_scaling_of_positions_is_counted_as_the_most_generous_version_does() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
    config = {"num_attention_heads": 8, "max_position_embeddings": 32_768, "rope_scaling": rope}
    assert read_config(config).context == 131_072
    assert read_config({**config, "model_type": "gemma3_text"}).context == 32_768
    llama3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    assert read_config({**config, "rope_scaling": llama3}).context == 32_768
    nested = {"full_attention": {"rope_type": "linear", "factor": 2.0}}
    assert read_config({**config, "rope_scaling": None, "rope_parameters": nested}).context == (
        65_536
    )


def test_methods_of_quantization_are_named_as_vllm_names_them() -> None:
    def method(table: dict[str, Any]) -> str:
        return read_config({"quantization_config": table}).quantization

    assert method({"quant_method": "compressed_tensors"}) == "compressed-tensors"
    assert method({"quant_method": "AWQ"}) == "awq"
    modelopt = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    assert method(modelopt) == "modelopt_fp4"
    assert method({}) == ""
    groups = {"g": {"weights": {"type": "float", "num_bits": 8}}}
    stored = {"quant_method": "compressed-tensors", "config_groups": groups}
    assert read_config({"quantization_config": stored}).fp8
    groups["g"]["weights"]["type"] = "int"
    assert not read_config({"quantization_config": stored}).fp8
