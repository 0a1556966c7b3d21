"""The families of models whose weights are known, read from vLLM 0.32's classes.

Each is held against these classes byte for byte (`tests/data/oracle/`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.family import (
    ALWAYS,
    ENDS,
    End,
    Family,
    Pattern,
    QueryNorm,
    Tower,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_WINDOW: Mapping[str, object] = {"sliding_window": 4096}
_BIAS = ("attention_bias",)
_LLAMA = Family(
    qkv_bias=("attention_bias", "bias"),
    output_bias=("attention_bias", "bias"),
    mlp_bias=("mlp_bias",),
)
_MISTRAL = replace(_LLAMA, defaults={"sliding_window": 4096})
_QWEN3 = Family(qkv_bias=_BIAS, query_norm=QueryNorm.HEAD, pattern=Pattern.ASKED)
_DEEPSEEK = Family(latent=True, mixture="mlp")
_GEMMA = Family(
    everywhere=ENDS,
    qkv_bias=_BIAS,
    output_bias=_BIAS,
    defaults={"tie_word_embeddings": True, "head_dim": 256},
)
_GEMMA2 = replace(
    _GEMMA, norms=4, pattern=Pattern.EVEN_SLIDES, defaults={**_GEMMA.defaults, **_WINDOW}
)
_GEMMA3 = replace(
    _GEMMA2,
    query_norm=QueryNorm.HEAD,
    pattern=Pattern.SIXTH_IS_FULL,
    defaults={
        **_GEMMA2.defaults,
        "rope_local_base_freq": 10000.0,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
    },
)
_GEMMA4 = replace(
    _GEMMA3,
    beside=True,
    wide_full=True,
    router="router.proj",
    shared="mlp",
    defaults={
        "tie_word_embeddings": True,
        "head_dim": 256,
        "global_head_dim": 512,
        "sliding_window": 512,
        "vocab_size": 262144,
        "max_position_embeddings": 131072,
    },
)
_LLAMA4 = Family(
    mixture="feed_forward",
    router="router",
    shared="shared_expert",
    pattern=Pattern.CHUNKS,
    defaults={
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 202048,
        "num_local_experts": 16,
        "interleave_moe_layer_step": 1,
        "no_rope_layer_interval": 4,
        "attention_chunk_size": 8192,
        "max_position_embeddings": 131072,
    },
)
_QWEN_NEXT = Family(
    qkv_bias=_BIAS,
    query_norm=QueryNorm.HEAD,
    output_gate="attn_output_gate",
    everywhere=frozenset({End.EMBEDDING}),
    shared="shared_expert",
    shared_gate=True,
    mixture="mlp",
    defaults={"attn_output_gate": True, "head_dim": 256},
)
_GLM4 = Family(qkv_bias=_BIAS, defaults={"head_dim": 128, "partial_rotary_factor": 0.5})

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": _LLAMA,
    "LLaMAForCausalLM": _LLAMA,
    "InternLM3ForCausalLM": replace(_LLAMA, qkv_bias=("qkv_bias",), output_bias=("bias",)),
    "MistralForCausalLM": _MISTRAL,
    "Ministral3ForCausalLM": replace(_LLAMA, defaults={"head_dim": 128}),
    "Phi3ForCausalLM": _LLAMA,
    "GPT2LMHeadModel": Family(
        qkv_bias=ALWAYS,
        output_bias=ALWAYS,
        mlp_bias=ALWAYS,
        norm_bias=True,
        gated=False,
        learned_positions="n_positions",
        everywhere=ENDS,
        defaults={
            "tie_word_embeddings": True,
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
        },
    ),
    "Qwen2ForCausalLM": Family(qkv_bias=ALWAYS, pattern=Pattern.ASKED),
    "Qwen2MoeForCausalLM": Family(
        qkv_bias=ALWAYS,
        mixture="mlp",
        shared="shared_expert",
        shared_gate=True,
        everywhere=ENDS,
        pattern=Pattern.ASKED,
    ),
    "Qwen3ForCausalLM": replace(_QWEN3, defaults={"head_dim": 128}),
    "Qwen3MoeForCausalLM": replace(_QWEN3, mixture="mlp", router_quantized=True, everywhere=ENDS),
    "Qwen3NextForCausalLM": replace(
        _QWEN_NEXT,
        everywhere=frozenset({End.EMBEDDING, End.HEAD}),
        defaults={**_QWEN_NEXT.defaults, "partial_rotary_factor": 0.25},
    ),
    "Qwen3_5MoeForConditionalGeneration": replace(_QWEN_NEXT, tower=Tower.QWEN3),
    "Qwen3_5MoeForCausalLM": _QWEN_NEXT,
    "Qwen3_5ForConditionalGeneration": replace(_QWEN_NEXT, mixture="", tower=Tower.QWEN3),
    "Qwen3_5ForCausalLM": replace(_QWEN_NEXT, mixture=""),
    "MiniMaxM2ForCausalLM": Family(
        query_norm=QueryNorm.SHARE,
        mixture="block_sparse_moe",
        router_float=True,
        correction=True,
    ),
    "NemotronHForCausalLM": Family(
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        norms=1,
        gated=False,
        mixture="mixer",
        router_float=True,
        correction=True,
        mixers=True,
        unrotated=True,
        everywhere=ENDS,
    ),
    "MixtralForCausalLM": Family(mixture="block_sparse_moe", everywhere=ENDS),
    "OlmoeForCausalLM": Family(mixture="mlp", query_norm=QueryNorm.WIDTH, everywhere=ENDS),
    "GraniteForCausalLM": replace(_LLAMA, qkv_bias=_BIAS, output_bias=_BIAS),
    "CohereForCausalLM": Family(
        norms=1, everywhere=ENDS, longer_positions=True, defaults={"tie_word_embeddings": True}
    ),
    "Cohere2ForCausalLM": Family(
        norms=1,
        everywhere=ENDS,
        longer_positions=True,
        pattern=Pattern.FOURTH_IS_FULL,
        defaults={"tie_word_embeddings": True, **_WINDOW},
    ),
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
    "DeepseekV32ForCausalLM": replace(_DEEPSEEK, indexer=True),
    "GlmMoeDsaForCausalLM": replace(_DEEPSEEK, indexer=True),
    "Glm4ForCausalLM": replace(_GLM4, norms=4),
    "Glm4MoeForCausalLM": replace(
        _GLM4,
        query_norm=QueryNorm.HEAD,
        query_norm_key="use_qk_norm",
        mixture="mlp",
        router_float=True,
        correction=True,
    ),
    "GptOssForCausalLM": Family(
        qkv_bias=ALWAYS,
        output_bias=ALWAYS,
        sinks=True,
        mixture="mlp",
        router="router",
        router_bias=True,
        expert_bias=True,
        pattern=Pattern.EVEN_SLIDES,
        float_rope=True,
        everywhere=ENDS,
        defaults={"head_dim": 64, "sliding_window": 128, "num_local_experts": 128},
    ),
    "GemmaForCausalLM": _GEMMA,
    "Gemma2ForCausalLM": _GEMMA2,
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": replace(_GEMMA3, tower=Tower.SIGLIP),
    "Gemma4ForCausalLM": _GEMMA4,
    "Gemma4ForConditionalGeneration": replace(_GEMMA4, tower=Tower.GEMMA4),
    "Llama4ForCausalLM": _LLAMA4,
    "Llama4ForConditionalGeneration": replace(_LLAMA4, tower=Tower.LLAMA4),
}
