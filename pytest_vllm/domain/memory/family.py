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
    WIDTH = "a weight for each value, whole on every rank"
    SHARE = "a weight for each value that the rank has"


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
    QWEN3 = "Qwen 3"


class End(StrEnum):
    """What is before the first layer and after the last."""

    EMBEDDING = "input embedding"
    NORM = "last norm"
    HEAD = "output embedding"


ENDS = frozenset(End)
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
        output_gate: Key of the config that gives attention's output a gate, as wide as the queries.
        mixers: Whether a layer is one thing only: attention, a state, or an MLP.
        latent: Whether attention is latent (MLA).
        indexer: Whether MLA looks at some tokens only, which an indexer picks.
        pattern: How layers without a list of their kinds alternate.
        longer_positions: Whether `model_max_length` says how long the tables of positions are.
        everywhere: What of embeddings and last norm every pipeline stage holds, not only the
            stages that use it.
        tower: The vision tower, empty for a model of text.
        unrotated: Whether attention has no positions.
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
    output_gate: str = ""
    mixers: bool = False
    latent: bool = False
    indexer: bool = False
    pattern: Pattern = Pattern.ALIKE
    longer_positions: bool = False
    everywhere: frozenset[End] = frozenset()
    tower: Tower = Tower.NONE
    unrotated: bool = False
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
    "Llama4ForCausalLM": _LLAMA4,
    "Llama4ForConditionalGeneration": replace(_LLAMA4, tower=Tower.LLAMA4),
}
