"""The tables of rotary positions, which every rank holds whole.

One for each distinct way to rotate (`get_rope` in vLLM's `rotary_embedding/`); their length is that
of the config, not of `--max-model-len`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.families import FAMILIES
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import Attention
from pytest_vllm.domain.memory.tower import tower_rope_bytes
from pytest_vllm.domain.memory.values import LARGEST, count, first, flag, number, table, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_vllm.domain.memory.linear import Rank
    from pytest_vllm.domain.memory.shape import Layer, ModelShape

_POSITIONS = 8192
"""What vLLM's Llama assumes when a config says nothing."""
_FLOAT_BYTES = 4
_YARN = ("yarn", "deepseek_yarn", "deepseek_llama_scaling")
_BY_KIND = {Attention.SLIDING: "sliding_attention"}


def rope_bytes(shape: ModelShape, layers: Iterable[Layer], rank: Rank) -> int:
    """Return the bytes of the tables that some layers need together."""
    tables: dict[object, int] = {}
    for layer in dict.fromkeys(layers):
        if layer.rotary and layer.attention not in (Attention.STATE, Attention.NONE):
            way = _parameters(shape, layer)
            width = _width(shape, layer, way)
            size = width * _length(shape, way) * _element(shape, way, rank)
            tables[width, tuple(sorted((key, repr(value)) for key, value in way.items()))] = size
    if FAMILIES[shape.architecture].indexer and not flag(shape.text, "indexer_rope_interleave"):
        # the indexer rotates halves where attention rotates pairs: a table of its own
        tables["indexer"] = sum(tables.values())
    return sum(tables.values()) + tower_rope_bytes(shape, rank.element)


def _parameters(shape: ModelShape, layer: Layer) -> dict[str, object]:
    """Return how a layer rotates; Gemma 3 has a way for its windows and one for the rest."""
    both = table(shape.text.get("rope_parameters")) or table(shape.text.get("rope_scaling"))
    kind = _BY_KIND.get(layer.attention, "full_attention")
    if kind in both:
        return table(both[kind])
    local = number(shape.text.get("rope_local_base_freq"))
    if local is None:
        local = number(FAMILIES[shape.architecture].defaults.get("rope_local_base_freq"))
    if local is not None and layer.attention is Attention.SLIDING:
        return {"rope_theta": local}
    return both


def _width(shape: ModelShape, layer: Layer, way: Mapping[str, object]) -> int:
    """Return how many values of a head are rotated."""
    head = shape.rope_head_dim if layer.attention is Attention.LATENT else layer.head_dim
    if _kind(way) == "proportional":  # Gemma 4: the table is as wide as the head
        return head
    listed = count(way.get("rope_dim")) or count(shape.text.get("rotary_dim"))
    if listed is not None:
        return listed
    keys = ("partial_rotary_factor", "rotary_pct", "rotary_emb_fraction")
    shares = [number(way.get("partial_rotary_factor")), *(number(shape.text.get(k)) for k in keys)]
    share = next((value for value in shares if value is not None and 0 < value <= 1), 1.0)
    return int(head * share)


def _length(shape: ModelShape, way: Mapping[str, object]) -> int:
    """Return the positions of a table."""
    longer = FAMILIES[shape.architecture].longer_positions
    keys = ("model_max_length",) if longer else ()
    longest = first(shape.text, *keys, "max_position_embeddings") or _POSITIONS
    kind = _kind(way)
    factor = number(way.get("factor")) or 1.0
    original = count(way.get("original_max_position_embeddings"))
    original = original or count(shape.text.get("original_max_position_embeddings")) or longest
    if kind in _YARN:
        return _positions(original * factor)
    if kind == "linear":
        return _positions(longest * factor)
    if kind in ("longrope", "su"):
        return original + longest
    return longest


def _kind(way: Mapping[str, object]) -> str:
    return text(way.get("rope_type")) or text(way.get("type")) or "default"


def _positions(length: float) -> int:
    return math.ceil(length) if 0 < length < LARGEST else 0


def _element(shape: ModelShape, way: Mapping[str, object], rank: Rank) -> int:
    """Return the bytes of a value of a table.

    Gpt-oss asks for 32 bits; on CUDA, FlashInfer's kernel takes DeepSeek's table in 32 bits.
    """
    kind = _kind(way)
    flashinfer = rank.platform is Platform.CUDA and bool(shape.kv_lora_rank) and kind in _YARN
    if FAMILIES[shape.architecture].float_rope or flashinfer:
        return _FLOAT_BYTES
    return rank.element
