"""How families of models differ, as far as it decides what they hold."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    GEMMA4 = "Gemma 4"


class End(StrEnum):
    """What is before the first layer and after the last."""

    EMBEDDING = "input embedding"
    NORM = "last norm"
    HEAD = "output embedding"


ENDS = frozenset(End)


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
        beside: Whether experts stand beside the MLP of a layer, each with norms of its own.
        wide_full: Whether layers without a window have heads of their own size.
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
    beside: bool = False
    wide_full: bool = False
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
