"""Read the shape of a model out of its `config.json`, as vLLM 0.32 reads it. Never raises."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.facts.config import read_config
from pytest_vllm.domain.memory.families import FAMILIES
from pytest_vllm.domain.memory.family import Pattern
from pytest_vllm.domain.memory.hybrid import read_cache
from pytest_vllm.domain.memory.quantized import read_quantization
from pytest_vllm.domain.memory.shape import Attention, Layer, ModelShape, UnknownShape
from pytest_vllm.domain.memory.values import (
    count,
    first,
    flag,
    is_impossible,
    table,
    text,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.memory.family import Family

_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
_KV_HEADS = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num")
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
_COUNTS = (*_HIDDEN, *_LAYERS, *_HEADS, *_KV_HEADS, "vocab_size", "head_dim", "intermediate_size")
_MOST_LAYERS = 2000
_MIXTURES, _DENSE = ("E", "moe"), ("-", "mlp")
_SLIDING = "sliding_attention"


def read_shape(raw: Mapping[str, object]) -> ModelShape | UnknownShape:
    """Read a model's shape; an architecture that no formula here describes says so."""
    config = table(dict(raw)) if isinstance(raw, dict) else {}
    names = texts(config.get("architectures"))
    if not names:
        return UnknownShape(reason="config.json names no architecture")
    family = FAMILIES.get(names[0])
    if family is None:
        reason = f"no formula for the weights of {names[0]}"
        return UnknownShape(reason=reason, architecture=names[0], cache=read_cache(config))
    part = {**family.defaults, **_text_part(config)}
    broken = [f"{key} is {part[key]}" for key in _COUNTS if is_impossible(part.get(key))]
    if broken:
        reason = f"config.json: {', '.join(broken)}, which no model has"
        return UnknownShape(reason=reason, architecture=names[0], impossible=True)
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
    if family.wide_full and first(part, "hidden_size_per_layer_input", "num_kv_shared_layers"):
        reason = f"no formula for a {architecture} with embeddings of each layer or shared caches"
        return UnknownShape(reason=reason, architecture=architecture)
    facts = read_config(config)
    stack = tuple(_layer(index, part, family) for index in range(layers))
    if family.output_gate or family.mixers:
        stack = _with_states(stack, config, part, family)
        if not stack:
            reason = f"config.json of {architecture} does not say which layers keep a state"
            return UnknownShape(reason=reason, architecture=architecture)
    return ModelShape(
        architecture=architecture,
        model_type=text(config.get("model_type")),
        hidden=first(part, *_HIDDEN) or 0,
        vocab=count(part.get("vocab_size")) or 0,
        tied=flag(config, "tie_word_embeddings", default=flag(part, "tie_word_embeddings")),
        dtype=_dtype(config, part),
        layers=stack,
        context=facts.context,
        quantization=read_quantization(config, part),
        kv_lora_rank=count(part.get("kv_lora_rank")) or 0 if family.latent else 0,
        rope_head_dim=count(part.get("qk_rope_head_dim")) or 0,
        nope_head_dim=count(part.get("qk_nope_head_dim")) or 0,
        q_lora_rank=count(part.get("q_lora_rank")) or 0,
        raw=config,
        text=part,
    )


def _with_states(
    stack: tuple[Layer, ...], config: dict[str, object], part: dict[str, object], family: Family
) -> tuple[Layer, ...]:
    """Return the layers, those with a state for what they are; empty when the config is broken."""
    cache = read_cache(config)
    kept = cache.layers if cache is not None else ()
    if len(kept) != len(stack):
        return ()
    names = texts(part.get("layers_block_type")) or tuple(text(part.get("hybrid_override_pattern")))
    result = []
    for index, (layer, cached) in enumerate(zip(stack, kept, strict=True)):
        one = layer
        if cached.attention is not Attention.FULL:
            one = replace(
                cached,
                intermediate=layer.intermediate,
                shared_intermediate=layer.shared_intermediate,
                experts=layer.experts,
                gated=layer.gated,
            )
        if family.mixers:
            one = _mixer(one, names[index] if index < len(names) else "", part)
        result.append(one)
    return tuple(result)


def _mixer(layer: Layer, name: str, part: Mapping[str, object]) -> Layer:
    """Return a layer of a family whose layers are one thing only (Nemotron-H)."""
    dense = count(part.get("intermediate_size")) or 0
    if name in _MIXTURES:
        shared = count(part.get("moe_shared_expert_intermediate_size")) or 0
        return replace(layer, shared_intermediate=shared)
    wide = dense if name in _DENSE else 0
    return replace(layer, intermediate=wide, experts=0, shared_intermediate=0)


def _layer(index: int, part: Mapping[str, object], family: Family) -> Layer:
    heads = first(part, *_HEADS) or 1
    hidden = first(part, *_HIDDEN) or 0
    head = count(part.get("head_dim")) or hidden // heads
    kind, window = _attention(index, part, family)
    keys = first(part, *_KV_HEADS) or heads
    if family.wide_full and kind is Attention.FULL:
        head = count(part.get("global_head_dim")) or head
        own = count(part.get("num_global_key_value_heads"))
        keys = own if own and flag(part, "attention_k_eq_v") else keys
    experts = _has_experts(index, part, family)
    width = _width(part, family, experts=bool(experts))
    if family.latent:
        both = ("qk_nope_head_dim", "qk_rope_head_dim")
        head = sum(count(part.get(key)) or 0 for key in both)
    return Layer(
        attention=kind,
        window=window,
        heads=heads,
        kv_heads=keys,
        head_dim=head,
        v_head_dim=count(part.get("v_head_dim")) or head if family.latent else head,
        intermediate=width or 4 * hidden,
        experts=experts,
        shared_intermediate=_shared(part, width, family) if experts else 0,
        gated=family.gated,
        rotary=not (family.learned_positions or family.unrotated) and _rotates(index, part, family),
    )


def _attention(index: int, part: Mapping[str, object], family: Family) -> tuple[Attention, int]:
    if family.latent:
        return Attention.LATENT, 0
    if family.pattern is Pattern.CHUNKS:
        chunk = count(part.get("attention_chunk_size"))
        chunked = chunk is not None and _rotates(index, part, family)
        return (Attention.CHUNKED, chunk or 0) if chunked else (Attention.FULL, 0)
    window = count(part.get("sliding_window"))
    if window is None or (family.pattern is Pattern.ASKED and not flag(part, "use_sliding_window")):
        return Attention.FULL, 0
    kinds = texts(part.get("layer_types"))
    slides = kinds[index] == _SLIDING if index < len(kinds) else _slides(index, part, family)
    return (Attention.SLIDING, window) if slides else (Attention.FULL, 0)


def _slides(index: int, part: Mapping[str, object], family: Family) -> bool:
    match family.pattern:
        case Pattern.EVEN_SLIDES:
            return index % 2 == 0
        case Pattern.FOURTH_IS_FULL:
            return (index + 1) % (count(part.get("sliding_window_pattern")) or 4) != 0
        case Pattern.SIXTH_IS_FULL:
            return (index + 1) % (count(part.get("sliding_window_pattern")) or 6) != 0
        case Pattern.ASKED:
            return index >= (count(part.get("max_window_layers")) or 0)
        case _:
            return True


def _rotates(index: int, part: Mapping[str, object], family: Family) -> bool:
    """Tell whether a layer rotates positions into its keys; Llama 4 leaves some out."""
    if family.pattern is not Pattern.CHUNKS:
        return True
    listed = part.get("no_rope_layers")
    if isinstance(listed, list) and index < len(listed):
        return bool(listed[index])
    return (index + 1) % (count(part.get("no_rope_layer_interval")) or 4) != 0


def _has_experts(index: int, part: Mapping[str, object], family: Family) -> int:
    """Return the experts of a layer, 0 for a dense one."""
    experts = first(part, *_EXPERTS) or 0
    if not (family.mixture or family.beside) or not experts:
        return 0
    if family.pattern is Pattern.CHUNKS:
        step = count(part.get("interleave_moe_layer_step")) or 0
        return experts if step and (index + 1) % step == 0 else 0
    dense = part.get("mlp_only_layers")
    step = count(part.get("decoder_sparse_step")) or 1
    if (isinstance(dense, list) and index in dense) or (index + 1) % step:
        return 0
    return experts if index >= (count(part.get("first_k_dense_replace")) or 0) else 0


def _width(part: Mapping[str, object], family: Family, *, experts: bool) -> int:
    wide = first(part, "intermediate_size", "n_inner") or 0
    if experts:
        return count(part.get("moe_intermediate_size")) or wide
    if family.pattern is Pattern.CHUNKS:
        return count(part.get("intermediate_size_mlp")) or wide
    return wide


def _shared(part: Mapping[str, object], each: int, family: Family) -> int:
    if family.pattern is Pattern.CHUNKS:
        return each
    if family.beside:
        return count(part.get("intermediate_size")) or 0
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
