"""Read the shape of a model out of its `config.json`, as vLLM 0.32 reads it. Never raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.facts.config import read_config
from pytest_vllm.domain.memory.family import FAMILIES
from pytest_vllm.domain.memory.quantized import read_quantization
from pytest_vllm.domain.memory.shape import Attention, Layer, ModelShape, UnknownShape
from pytest_vllm.domain.memory.values import count, first, flag, table, text, texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.memory.family import Family

_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
_KV_HEADS = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num")
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
_MOST_LAYERS = 2000
_KINDS = {
    "sliding_attention": Attention.SLIDING,
    "chunked_attention": Attention.CHUNKED,
    "linear_attention": Attention.STATE,
}


def read_shape(raw: Mapping[str, object]) -> ModelShape | UnknownShape:
    """Read a model's shape; an architecture that no formula here describes says so."""
    config = table(dict(raw)) if isinstance(raw, dict) else {}
    names = texts(config.get("architectures"))
    if not names:
        return UnknownShape(reason="config.json names no architecture")
    family = FAMILIES.get(names[0])
    if family is None:
        reason = f"no formula for the weights of {names[0]}"
        return UnknownShape(reason=reason, architecture=names[0])
    part = {**family.defaults, **_text_part(config)}
    missing = [
        keys[0]
        for keys in (_HIDDEN, _LAYERS, _HEADS, ("vocab_size",))
        if first(part, *keys) is None
    ]
    if missing:
        reason = f"config.json of {names[0]} has no {', '.join(missing)}"
        return UnknownShape(reason=reason, architecture=names[0])
    return _shape(names[0], family, config, part)


def _shape(
    architecture: str, family: Family, config: dict[str, object], part: dict[str, object]
) -> ModelShape | UnknownShape:
    layers = first(part, *_LAYERS) or 0
    if layers > _MOST_LAYERS:
        return UnknownShape(reason=f"{layers} layers are no model", architecture=architecture)
    facts = read_config(config)
    return ModelShape(
        architecture=architecture,
        model_type=text(config.get("model_type")),
        hidden=first(part, *_HIDDEN) or 0,
        vocab=count(part.get("vocab_size")) or 0,
        tied=flag(config, "tie_word_embeddings", default=flag(part, "tie_word_embeddings")),
        dtype=_dtype(config, part),
        layers=tuple(_layer(index, part, family) for index in range(layers)),
        context=facts.context,
        quantization=read_quantization(config, part),
        kv_lora_rank=count(part.get("kv_lora_rank")) or 0 if family.latent else 0,
        rope_head_dim=count(part.get("qk_rope_head_dim")) or 0,
        nope_head_dim=count(part.get("qk_nope_head_dim")) or 0,
        q_lora_rank=count(part.get("q_lora_rank")) or 0,
        raw=config,
        text=part,
    )


def _layer(index: int, part: Mapping[str, object], family: Family) -> Layer:
    heads = first(part, *_HEADS) or 1
    head = count(part.get("head_dim")) or (first(part, *_HIDDEN) or 0) // heads
    kind, window = _attention(index, part, family)
    expert = _has_experts(index, part, family)
    each = count(part.get("moe_intermediate_size"))
    wide = count(part.get("intermediate_size")) or 0
    if family.latent:
        head = (count(part.get("qk_nope_head_dim")) or 0) + (
            count(part.get("qk_rope_head_dim")) or 0
        )
    return Layer(
        attention=kind,
        window=window,
        heads=heads,
        kv_heads=first(part, *_KV_HEADS) or heads,
        head_dim=head,
        v_head_dim=count(part.get("v_head_dim")) or head if family.latent else head,
        intermediate=(each or wide) if expert else wide,
        experts=expert,
        shared_intermediate=_shared(part, each or wide) if expert else 0,
        gated=family.gated,
    )


def _attention(index: int, part: Mapping[str, object], family: Family) -> tuple[Attention, int]:
    if family.latent:
        return Attention.LATENT, 0
    kinds, window = texts(part.get("layer_types")), count(part.get("sliding_window"))
    if kinds:
        kind = _KINDS.get(kinds[index], Attention.FULL) if index < len(kinds) else Attention.FULL
        if kind is Attention.SLIDING:
            return (kind, window) if window else (Attention.FULL, 0)
        return kind, 0
    if window and family.windowed:
        return Attention.SLIDING, window
    return Attention.FULL, 0


def _has_experts(index: int, part: Mapping[str, object], family: Family) -> int:
    if not family.mixture or index < (count(part.get("first_k_dense_replace")) or 0):
        return 0
    return first(part, *_EXPERTS) or 0


def _shared(part: Mapping[str, object], each: int) -> int:
    shared = count(part.get("shared_expert_intermediate_size"))
    return shared or (count(part.get("n_shared_experts")) or 0) * each


def _text_part(config: dict[str, object]) -> dict[str, object]:
    """Return the config of the language model inside a multi-modal one, else the whole."""
    for name in _TEXT_PARTS:
        part = table(config.get(name))
        if part:
            return _text_part(part)
    return config


def _dtype(config: Mapping[str, object], part: Mapping[str, object]) -> str:
    for one in (config, part):
        for key in ("dtype", "torch_dtype"):
            if name := text(one.get(key)):
                return name.removeprefix("torch.")
    return ""
