"""How the families of models differ, read from vLLM 0.32's classes (`model_executor/models/`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ALWAYS = ("always",)
"""A bias that the class has whatever the config says; else the keys of the config that ask for it."""


class QueryNorm(StrEnum):
    """A norm of queries and keys."""

    NONE = "none"
    HEAD = "one for all heads"
    WIDTH = "a weight for each value"
    WEIGHTLESS = "without weights"


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
        norms: Norms of a layer as wide as the model.
        norm_bias: Whether norms have a bias, too.
        norm_weight: Whether norms have a weight.
        gated: Whether the MLP has a gate.
        mixture: Name of the module that holds the experts, empty for a dense family.
        router_float: Whether the router is kept in 32 bits.
        router_bias: Whether the router has a bias.
        correction: Whether each expert has a correction of its score, kept in 32 bits.
        latent: Whether attention is latent (MLA).
        windowed: Whether `sliding_window` holds for every layer when no list says which.
        stack: Name of the builder, for a family that is none of the common kind.
    """

    defaults: Mapping[str, object] = field(default_factory=dict)
    qkv_bias: tuple[str, ...] = ()
    output_bias: tuple[str, ...] = ()
    mlp_bias: tuple[str, ...] = ()
    query_norm: QueryNorm = QueryNorm.NONE
    query_norm_key: str = ""
    norms: int = 2
    norm_bias: bool = False
    norm_weight: bool = True
    gated: bool = True
    mixture: str = ""
    router_float: bool = False
    router_bias: bool = False
    correction: bool = False
    latent: bool = False
    windowed: bool = True
    stack: str = ""


_LLAMA = Family(
    qkv_bias=("attention_bias", "bias"),
    output_bias=("attention_bias", "bias"),
    mlp_bias=("mlp_bias",),
)
_QWEN3 = Family(qkv_bias=("attention_bias",), query_norm=QueryNorm.HEAD, windowed=False)
_DEEPSEEK = Family(latent=True, mixture="mlp", defaults={"topk_method": "greedy"})

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": _LLAMA,
    "LLaMAForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Ministral3ForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": Family(qkv_bias=ALWAYS, windowed=False),
    "Qwen3ForCausalLM": _QWEN3,
    "Qwen3MoeForCausalLM": Family(
        qkv_bias=("attention_bias",), query_norm=QueryNorm.HEAD, mixture="mlp", windowed=False
    ),
    "Phi3ForCausalLM": _LLAMA,
    "MixtralForCausalLM": Family(mixture="block_sparse_moe"),
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
    "Gemma2ForCausalLM": Family(
        norms=4,
        qkv_bias=("attention_bias",),
        output_bias=("attention_bias",),
        defaults={"tie_word_embeddings": True, "head_dim": 256},
    ),
}
