"""The shape of a model: everything about it that decides how much memory it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Attention(StrEnum):
    """What a layer remembers of the tokens before."""

    FULL = "full"
    SLIDING = "sliding window"
    CHUNKED = "chunked"
    LATENT = "latent (MLA)"
    STATE = "state"
    """Mamba and linear attention: as much for every length."""
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer; all counts are those of the whole model, before it is split over devices.

    Attributes:
        attention: What it remembers.
        window: Tokens of a sliding window or of a chunk, 0 for neither.
        heads: Attention heads.
        kv_heads: Key-value heads.
        head_dim: Width of a key.
        v_head_dim: Width of a value; that of a key except for MLA.
        intermediate: Width of the MLP, 0 when it has none; of one expert when there are experts.
        experts: Routed experts, 0 for a dense layer. All of them are loaded.
        shared_intermediate: Width of the experts that every token uses, taken together.
        state: Sizes of the states of Mamba or linear attention, by name, as (elements, bytes each).
        state_groups: Groups into which the part of the state called `groups` is divided.
        gated: Whether the MLP has a gate (three matrices), or is up and down only (two).
        rotary: Whether positions are rotated into its keys.
    """

    attention: Attention = Attention.FULL
    window: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int = 0
    intermediate: int = 0
    experts: int = 0
    shared_intermediate: int = 0
    state: tuple[tuple[str, int, int], ...] = ()
    state_groups: int = 0
    gated: bool = True
    rotary: bool = True

    @property
    def latent(self) -> bool:
        """Whether attention is MLA."""
        return self.attention is Attention.LATENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """In what the linear layers are stored.

    Attributes:
        method: vLLM's name of it (`fp8`, `awq`, `gptq`, `compressed-tensors`, `mxfp4`, ...), empty
            for none.
        bits: Bits of a weight.
        group: Weights that share a scale in a row; 0 for a whole tensor, -1 for a whole channel.
        block: Rows and columns that share a scale, empty for no blocks.
        zeros: Whether zero points are stored.
        order: Whether an order of the groups is stored (`g_idx`).
        ignored: Names, or patterns `re:...`, of layers that stay as they are.
        static: Whether scales of the activations are stored.
        floats: Whether a weight is a float where the method stores integers, too.
        activations: Bits of an activation, 16 when they stay as they are.
        sorted_groups: Whether the order of the groups is that of the activations (`desc_act`).
        head: Whether the output embedding is quantized, too.
        mixed: Whether groups of modules are stored in different ways.
        online: Whether vLLM quantizes weights that are stored in 16 bits while it loads them.
    """

    method: str = ""
    bits: int = 16
    group: int = 0
    block: tuple[int, ...] = ()
    zeros: bool = False
    order: bool = False
    ignored: tuple[str, ...] = ()
    static: bool = False
    floats: bool = False
    activations: int = 16
    sorted_groups: bool = False
    head: bool = False
    mixed: bool = False
    online: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A model as its `config.json` describes it.

    Attributes:
        architecture: Name of the model class.
        model_type: Name by which transformers knows it.
        hidden: Width of the residual stream.
        vocab: Tokens of the vocabulary, without padding.
        tied: Whether input and output embeddings are one.
        dtype: Type that the config names (`bfloat16`, `float16`, `float32`), empty for none.
        layers: The layers in order, without those for multi-token prediction.
        context: Longest sequence in tokens as vLLM derives it, `None` when the config says nothing.
        quantization: How the weights are stored.
        kv_lora_rank: Width of the latent that MLA keeps of a token, 0 without MLA.
        rope_head_dim: Width of the part of an MLA key that carries the position.
        nope_head_dim: Width of the part of an MLA key that does not.
        q_lora_rank: Width of the latent of MLA's queries, 0 for none.
        kv_cache_dtype: Type of the KV cache that the checkpoint asks for, empty for none.
        raw: The config itself, for what only one family needs.
        text: The part of it about the language model, with the values that transformers adds.
    """

    architecture: str
    model_type: str = ""
    hidden: int = 0
    vocab: int = 0
    tied: bool = False
    dtype: str = ""
    layers: tuple[Layer, ...] = ()
    context: int | None = None
    quantization: Quantization = Quantization()
    kv_lora_rank: int = 0
    rope_head_dim: int = 0
    nope_head_dim: int = 0
    q_lora_rank: int = 0
    kv_cache_dtype: str = ""
    raw: dict[str, object] = field(default_factory=dict)
    text: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownShape:
    """A model whose layers no formula here describes.

    Attributes:
        cache: Its layers as far as the KV cache goes, where only the weights are not described.
        reason: Why, for a person: the architecture that is not known, or the field that is missing.
        architecture: Name of the model class, empty when the config has none.
        impossible: Whether a value in the config is one that no model has.
    """

    reason: str
    architecture: str = ""
    cache: ModelShape | None = None
    impossible: bool = False
