"""The cache of models with states, whose weights no formula here describes.

Sizes of states: `MambaStateShapeCalculator` (`model_executor/layers/mamba/mamba_utils.py`) of vLLM
0.32 and `get_mamba_state_*_from_config` of each model class; the tests hold them against these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.facts.config import read_config
from pytest_vllm.domain.memory.shape import Attention, Layer, ModelShape
from pytest_vllm.domain.memory.values import count, first, table, text, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Part = Mapping[str, object]
    State = tuple[tuple[str, int, int], ...]

_MOST_LAYERS = 2000
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
GROUPS = "groups"
"""Name of the part of a state that every rank holds at least one group of."""


def read_cache(config: Mapping[str, object]) -> ModelShape | None:
    """Read what the layers of a model with states keep; `None` for any other or a broken config."""
    name = next(iter(texts(config.get("architectures"))), "")
    reader = _READERS.get(name)
    part = {**config, **table(config.get("text_config"))}
    if reader is None:
        return None
    kinds = _kinds(part)
    state = reader(part)
    heads, hidden = first(part, "num_attention_heads"), first(part, "hidden_size")
    if not kinds or not all(size for _, size, _ in state) or heads is None or hidden is None:
        return None
    width = count(part.get("head_dim")) or hidden // heads
    attention = Layer(
        heads=heads,
        kv_heads=first(part, "num_key_value_heads") or heads,
        head_dim=width,
        v_head_dim=width,
    )
    groups = first(part, "n_groups", "mamba_n_groups") or 0
    kept = Layer(attention=Attention.STATE, heads=heads, state=state, state_groups=groups)
    nothing = Layer(attention=Attention.NONE, heads=heads)
    by_kind = {Attention.FULL: attention, Attention.STATE: kept, Attention.NONE: nothing}
    return ModelShape(
        architecture=name,
        model_type=text(config.get("model_type")),
        hidden=hidden,
        vocab=count(part.get("vocab_size")) or 0,
        dtype=text(part.get("dtype")) or text(part.get("torch_dtype")),
        layers=tuple(by_kind[kind] for kind in kinds),
        context=read_config(dict(config)).context,
        raw=dict(config),
    )


def _kinds(part: Part) -> list[Attention]:
    """Return what each layer keeps, from whichever way the config tells it."""
    layers = first(part, "num_hidden_layers") or 0
    if layers > _MOST_LAYERS:
        return []
    names = texts(part.get("layer_types")) or texts(part.get("layers_block_type"))
    pattern = names or tuple(text(part.get("hybrid_override_pattern")))
    if pattern:
        return [_KINDS.get(name, Attention.NONE) for name in pattern]
    every = first(part, "full_attention_interval", "attn_layer_period")
    if every is None:
        return []
    offset = count(part.get("attn_layer_offset")) or 0
    last = every - 1 if "full_attention_interval" in part else offset
    return [Attention.FULL if index % every == last else Attention.STATE for index in range(layers)]


_KINDS = {
    "full_attention": Attention.FULL,
    "attention": Attention.FULL,
    "*": Attention.FULL,
    "linear_attention": Attention.STATE,
    "mamba": Attention.STATE,
    "conv": Attention.STATE,
    "M": Attention.STATE,
}


def _delta(part: Part) -> State:
    """Return the states of a gated delta net (Qwen3-Next, Qwen3.5)."""
    keys, values = first(part, "linear_num_key_heads") or 0, first(part, "linear_num_value_heads")
    wide, tall = first(part, "linear_key_head_dim") or 0, first(part, "linear_value_head_dim")
    kernel = first(part, "linear_conv_kernel_dim") or 0
    values, tall = values or 0, tall or 0
    conv = (2 * wide * keys + tall * values) * (kernel - 1)
    size = _WIDTHS.get(text(part.get("mamba_ssm_dtype")), 2)
    return ("conv", conv, 2), ("temporal", values * tall * wide, size)


def _mamba2(part: Part) -> State:
    """Return the states of Mamba 2 (Nemotron-H, Granite 4)."""
    heads = first(part, "mamba_num_heads", "mamba_n_heads") or 0
    width = first(part, "mamba_head_dim", "mamba_d_head") or 0
    state = first(part, "ssm_state_size", "mamba_d_state") or 0
    kernel = first(part, "conv_kernel", "mamba_d_conv") or 0
    groups = first(part, "n_groups", "mamba_n_groups") or 0
    named = text(part.get("mamba_ssm_cache_dtype"))
    # Nemotron-H asks for 32 bits where its config names nothing, the others for those of the model.
    size = _WIDTHS.get(named, 4 if "mamba_num_heads" in part else 2)
    return (
        ("conv", heads * width * (kernel - 1), 2),
        (GROUPS, 2 * groups * state * (kernel - 1), 2),
        ("temporal", heads * width * state, size),
    )


def _mamba1(part: Part) -> State:
    """Return the states of Mamba 1 (Jamba)."""
    inner = (first(part, "mamba_expand") or 0) * (first(part, "hidden_size") or 0)
    kernel, state = first(part, "mamba_d_conv") or 0, first(part, "mamba_d_state") or 0
    return ("conv", inner * (kernel - 1), 2), ("temporal", inner * state, 2)


def _short(part: Part) -> State:
    """Return the state of a short convolution (LFM2)."""
    kernel = first(part, "conv_L_cache") or 0
    return (("conv", (first(part, "conv_dim", "hidden_size") or 0) * (kernel - 1), 2),)


_READERS: dict[str, Callable[[Part], State]] = {
    "Qwen3NextForCausalLM": _delta,
    "Qwen3_5ForCausalLM": _delta,
    "Qwen3_5ForConditionalGeneration": _delta,
    "Qwen3_5MoeForCausalLM": _delta,
    "Qwen3_5MoeForConditionalGeneration": _delta,
    "NemotronHForCausalLM": _mamba2,
    "GraniteMoeHybridForCausalLM": _mamba2,
    "JambaForCausalLM": _mamba1,
    "Lfm2ForCausalLM": _short,
    "Lfm2MoeForCausalLM": _short,
}
