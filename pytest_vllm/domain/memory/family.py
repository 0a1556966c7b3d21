"""How the families of models differ, read from vLLM 0.32's classes (`model_executor/models/`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ALWAYS = ("always",)
"""A bias that the class has whatever the config says; other words are keys that ask for it."""


class QueryNorm(StrEnum):
    """A norm of queries and keys."""

    NONE = "none"
    HEAD = "one for all heads"
    WIDTH = "a weight for each value"


class Pattern(StrEnum):
    """Which layers look at a window only, where the config has no list of it."""

    ALIKE = "all, when the config names a window"
    ASKED = "all, when the config also asks for it (`use_sliding_window`)"
    EVEN_SLIDES = "every other, from the first"
    FOURTH_IS_FULL = "all but every fourth (`sliding_window_pattern`)"
    SIXTH_IS_FULL = "all but every sixth (`sliding_window_pattern`)"
    CHUNKS = "chunks, where positions are rotated"


class Tower(StrEnum):
    """What looks at images."""

    NONE = "none"
    SIGLIP = "SigLIP"
    LLAMA4 = "Llama 4"


_WINDOW: Mapping[str, object] = {"sliding_window": 4096}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One decoder architecture.

    Attributes:
        defaults: Values of transformers' config class that a `config.json` may leave out.
        qkv_bias: Keys of the config of which one gives the projections a bias.
        output_bias: The same for the projection after attention.
        mlp_bias: The same for the MLP.
        query_norm: The norm of queries and keys.
        query_norm_key: Key of the config that switches it on, empty for always.
        sinks: Whether each head has a sink, one value.
        norms: Norms of a layer as wide as the model.
        norm_bias: Whether norms have a bias, too.
        gated: Whether the MLP has a gate.
        learned_positions: Key of the config that says how many positions have an embedding.
        mixture: Name of the module that holds the experts, empty for a dense family.
        router: Name of the router in it.
        router_bias: Whether the router has a bias.
        router_float: Whether the router is kept in 32 bits.
        router_quantized: Whether the checkpoint's method holds for the router, too.
        correction: Whether each expert has a correction of its score, kept in 32 bits.
        expert_bias: Whether the experts have biases.
        shared: Name of the experts that every token uses.
        shared_gate: Whether these have a gate of one value for a token.
        latent: Whether attention is latent (MLA).
        pattern: How layers without a list of their kinds alternate.
        longer_positions: Whether `model_max_length` says how long the tables of positions are.
        ends_everywhere: Whether every pipeline stage holds both embeddings and the last norm, not
            only the stages that use them.
        tower: The vision tower, empty for a model of text.
        float_rope: Whether the tables of positions are kept in 32 bits.
    """

    defaults: Mapping[str, object] = field(default_factory=dict)
    qkv_bias: tuple[str, ...] = ()
    output_bias: tuple[str, ...] = ()
    mlp_bias: tuple[str, ...] = ()
    query_norm: QueryNorm = QueryNorm.NONE
    query_norm_key: str = ""
    sinks: bool = False
    norms: int = 2
    norm_bias: bool = False
    gated: bool = True
    learned_positions: str = ""
    mixture: str = ""
    router: str = "gate"
    router_bias: bool = False
    router_float: bool = False
    router_quantized: bool = False
    correction: bool = False
    expert_bias: bool = False
    shared: str = "shared_experts"
    shared_gate: bool = False
    latent: bool = False
    pattern: Pattern = Pattern.ALIKE
    longer_positions: bool = False
    ends_everywhere: bool = False
    tower: Tower = Tower.NONE
    float_rope: bool = False


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
    ends_everywhere=True,
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
        ends_everywhere=True,
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
        ends_everywhere=True,
        pattern=Pattern.ASKED,
    ),
    "Qwen3ForCausalLM": replace(_QWEN3, defaults={"head_dim": 128}),
    "Qwen3MoeForCausalLM": replace(
        _QWEN3, mixture="mlp", router_quantized=True, ends_everywhere=True
    ),
    "MixtralForCausalLM": Family(mixture="block_sparse_moe", ends_everywhere=True),
    "OlmoeForCausalLM": Family(mixture="mlp", query_norm=QueryNorm.WIDTH, ends_everywhere=True),
    "GraniteForCausalLM": replace(_LLAMA, qkv_bias=_BIAS, output_bias=_BIAS),
    "CohereForCausalLM": Family(
        norms=1, ends_everywhere=True, longer_positions=True, defaults={"tie_word_embeddings": True}
    ),
    "Cohere2ForCausalLM": Family(
        norms=1,
        ends_everywhere=True,
        longer_positions=True,
        pattern=Pattern.FOURTH_IS_FULL,
        defaults={"tie_word_embeddings": True, **_WINDOW},
    ),
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
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
        ends_everywhere=True,
        defaults={"head_dim": 64, "sliding_window": 128, "num_local_experts": 128},
    ),
    "GemmaForCausalLM": _GEMMA,
    "Gemma2ForCausalLM": _GEMMA2,
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": replace(_GEMMA3, tower=Tower.SIGLIP),
    "Llama4ForCausalLM": _LLAMA4,
    "Llama4ForConditionalGeneration": replace(_LLAMA4, tower=Tower.LLAMA4),
}
