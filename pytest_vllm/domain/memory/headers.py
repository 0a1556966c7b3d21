"""The weights of a rank from the tensors of the checkpoint, by the names that checkpoints use.

Each rule says how vLLM 0.32 cuts a tensor: matrices whose rows are spread, matrices whose columns
are, embeddings (tokens are spread, padded), experts; everything else is whole on each rank.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.families import FAMILIES
from pytest_vllm.domain.memory.family import End, Tower
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import ModelShape, UnknownShape
from pytest_vllm.domain.memory.values import round_up

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.memory.linear import Rank
    from pytest_vllm.domain.memory.weights import Tensor

_COLUMN = frozenset(
    {
        *("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj"),
        *("w1", "w3", "fc1", "c_fc", "c_attn", "q_b_proj", "kv_b_proj", "query_key_value"),
        *("dense_h_to_4h", "linear_1", "linear", "W_pack"),
    }
)
_ROW = frozenset(
    {"o_proj", "down_proj", "w2", "fc2", "c_proj", "dense", "dense_4h_to_h", "out_proj"}
)
_INDEXER = frozenset({"wk", "weights_proj", "k_norm"})
_KEYS = frozenset({"k_proj", "v_proj"})
_TRANSPOSED = frozenset({"c_attn", "c_fc", "c_proj"})
"""GPT-2 keeps its matrices as (columns, rows)."""
_OUTSIDE = ("vision", "visual", "audio", "multi_modal", "projector")
"""In names of what is not the language model."""
_EMBEDDINGS = frozenset({"embed_tokens", "wte", "lm_head", "word_embeddings"})
_INPUTS_FIRST = frozenset({"qweight", "qzeros", "scales"})
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2}
_SCALES = frozenset({"weight_scale_inv", "input_scale", "e_score_correction_bias"})
"""Kept in 32 bits; `weight_scale` only where it is not one of a small group."""
_DROPPED = frozenset({"inv_freq", "masked_bias", "g_idx"})
_FLOAT_BYTES = 4
_VOCABULARY_STEP, _MXFP4_STEP, _MXFP4_GROUP = 64, 256, 32
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_STACKED = re.compile(r"\.experts\.(gate_up_proj|down_proj)(_blocks|_scales|_bias)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a tensor belongs: a layer of the language model, or outside of all."""

    layer: int | None
    embedding: bool
    head: bool
    everywhere: bool


def are_known(shape: ModelShape) -> bool:
    """Tell whether the rules know all names of a family.

    They do not know those of towers, of states and of attention with heads of two sizes; the
    closed form does.
    """
    family = FAMILIES[shape.architecture]
    other = family.output_gate or family.mixers or family.beside
    return family.tower is Tower.NONE and not other


def layers_of(tensors: Iterable[Tensor]) -> int:
    """Return how many layers of a language model the tensors name."""
    return max(
        (place.layer + 1 for t in tensors if (place := _place(t.name)).layer is not None), default=0
    )


def held_bytes(
    tensors: Iterable[Tensor],
    shape: ModelShape | UnknownShape,
    rank: Rank,
    stages: tuple[range, ...],
) -> tuple[int, ...]:
    """Return the bytes of the parameters of a rank of each pipeline stage.

    Args:
        tensors: All tensors of the checkpoint; those that vLLM does not load (layers for
            multi-token prediction, tables, an output embedding that is tied) do not count.
        shape: The model, which says how many key-value heads there are.
        rank: How it is cut.
        stages: Layers of each stage.
    """
    totals = [0] * len(stages)
    known = shape if isinstance(shape, ModelShape) else None
    tied = known is not None and known.tied
    nothing: frozenset[End] = frozenset()
    ends = FAMILIES[known.architecture].everywhere if known is not None else nothing
    for tensor in tensors:
        place = _place(tensor.name)
        if tensor.name.rpartition(".")[2] in _DROPPED or _is_mask(tensor) or (place.head and tied):
            continue
        size = None
        for stage, layers in enumerate(stages):
            last = stage == len(stages) - 1
            if _belongs(place, layers, first=stage == 0, last=last, tied=tied, ends=ends):
                size = _all_bytes(tensor, shape, rank) if size is None else size
                totals[stage] += size
    return tuple(totals)


def _belongs(  # noqa: PLR0913 - where a stage stands is several words
    place: _Place, layers: range, *, first: bool, last: bool, tied: bool, ends: frozenset[End]
) -> bool:
    """Tell whether a stage holds a tensor; some families hold both ends everywhere."""
    if place.everywhere:
        return True
    if place.layer is not None:
        return place.layer in layers
    if place.embedding:
        return first or End.EMBEDDING in ends or (last and tied)
    return last or (End.HEAD if place.head else End.NORM) in ends


def _place(name: str) -> _Place:
    found = _LAYER.search(name)
    outside = any(word in name for word in _OUTSIDE)
    if name.startswith("mtp.") or ".mtp." in name:
        return _Place(layer=-1, embedding=False, head=False, everywhere=False)
    words = name.split(".")
    return _Place(
        layer=int(found[1]) if found and not outside else None,
        embedding=not found
        and any(word in words for word in ("embed_tokens", "wte", "wpe", "word_embeddings")),
        head="lm_head" in words,
        everywhere=outside,
    )


def _is_mask(tensor: Tensor) -> bool:
    """Tell whether it is one of GPT-2's attention masks, which no one loads."""
    return tensor.name.endswith("attn.bias") and len(tensor.shape) > 1


def _all_bytes(tensor: Tensor, shape: ModelShape | UnknownShape, rank: Rank) -> int:
    """Return the bytes of a tensor, and of the experts that it stands for."""
    if tensor.count == 1:
        return _bytes(tensor, shape, rank)
    local = min(tensor.count, _local_experts(shape, rank))
    if _size(tensor.shape) == 1:  # scales of one element are kept by the rank that needs them
        local = _whole(tensor.name, tensor.count, rank)
    return local * _bytes(tensor, shape, rank)


def _bytes(tensor: Tensor, shape: ModelShape | UnknownShape, rank: Rank) -> int:
    words = tensor.name.split(".")
    leaf, module = words[-1], words[-2] if len(words) > 1 else ""
    stacked = _STACKED.search(tensor.name)
    if stacked:
        return _stacked(tensor, stacked[1], stacked[2] or "", rank)
    if ".indexer." in tensor.name and module in _INDEXER:
        return _indexer(tensor, module, leaf, rank)
    each = _element(tensor, leaf, shape, rank)
    dims = list(tensor.shape)
    if module in _EMBEDDINGS and len(dims) > 1 and leaf == "weight":
        dims[0] = round_up(dims[0], _VOCABULARY_STEP) // rank.tensor
        return _size(dims) * each
    if not dims or _size(dims) == 1 or leaf == "weight_shape":
        return _whole(tensor.name, _size(dims), rank) * each
    expert = _EXPERT.search(tensor.name)
    ways = rank.expert_slices if expert else rank.tensor
    if "shared_expert" in tensor.name and rank.shared_whole:
        ways = 1
    if expert and int(expert[1]) >= _local_experts(shape, rank):
        return 0
    rows, columns = (1, 0) if leaf in _INPUTS_FIRST or _transposed(module, dims, leaf) else (0, 1)
    if leaf == "sinks":  # one value for each attention head
        dims[0] = -(-dims[0] // ways)
    elif module in _COLUMN:
        place = rows if len(dims) > 1 else 0
        dims[place] = _rows(dims[place], module, tensor.name, shape, ways)
    elif module in _ROW and len(dims) > 1 and dims[columns] > 1:
        dims[columns] = -(-dims[columns] // ways)
    return _size(dims) * each


def _indexer(tensor: Tensor, module: str, leaf: str, rank: Rank) -> int:
    """Return the bytes of what vLLM keeps in 16 bits, and of the norm that it keeps in 32."""
    if leaf == "weight_scale_inv":
        return 0
    return _size(tensor.shape) * (_FLOAT_BYTES if module == "k_norm" else rank.element)


def _transposed(module: str, dims: list[int], leaf: str) -> bool:
    return module in _TRANSPOSED and leaf == "weight" and len(dims) > 1


def _whole(name: str, elements: int, rank: Rank) -> int:
    expert = _EXPERT.search(name)
    spread = expert is not None and rank.expert_ranks > 1
    return -(-elements // rank.expert_ranks) if spread else elements


def _rows(rows: int, module: str, name: str, shape: ModelShape | UnknownShape, ways: int) -> int:
    """Return the rows of a rank; there is at least one key-value head on each."""
    layer = shape.layers[0] if isinstance(shape, ModelShape) and shape.layers else None
    if layer is None or "vision" in name or layer.latent:
        return -(-rows // ways)
    keys = max(1, layer.kv_heads // ways)
    if module in _KEYS:
        return rows * keys // layer.kv_heads
    if module == "qkv_proj":
        return rows * (layer.heads // ways + 2 * keys) // (layer.heads + 2 * layer.kv_heads)
    return -(-rows // ways)


def _local_experts(shape: ModelShape | UnknownShape, rank: Rank) -> int:
    counts = [layer.experts for layer in shape.layers] if isinstance(shape, ModelShape) else []
    return rank.experts(max(counts, default=0)) if any(counts) else 2**31


def _stacked(tensor: Tensor, module: str, what: str, rank: Rank) -> int:
    """Return the bytes of experts that the checkpoint keeps in one tensor (Llama 4, gpt-oss)."""
    count, *rest = tensor.shape or (1,)
    local, down = rank.experts(count), module == "down_proj"
    if not what:
        return local * _size(rest) // rank.expert_slices * rank.element
    step = _MXFP4_GROUP if rank.platform is Platform.CPU else _MXFP4_STEP
    rows = rest[0] if rest else 1
    if what == "_bias":
        wide = round_up(rows, step) if down else _up_rows(rows, rank, step)
        return local * wide * rank.element
    inputs = rest[1] * _MXFP4_GROUP if len(rest) > 1 else _MXFP4_GROUP
    if down:
        rows, inputs = round_up(rows, step), round_up(inputs // rank.expert_slices, step)
    else:
        rows, inputs = _up_rows(rows, rank, step), round_up(inputs, step)
    return local * rows * inputs // (2 if what == "_blocks" else _MXFP4_GROUP)


def _up_rows(rows: int, rank: Rank, step: int) -> int:
    return 2 * round_up(rows // 2 // rank.expert_slices, step)


def _element(tensor: Tensor, leaf: str, shape: ModelShape | UnknownShape, rank: Rank) -> int:
    """Return the bytes of an element as vLLM keeps it; floats take the type of the model."""
    if leaf in _SCALES:
        return _FLOAT_BYTES
    how = shape.quantization if isinstance(shape, ModelShape) else None
    if leaf == "weight_scale" and tensor.dtype in _FLOATS:
        return rank.element if how is not None and how.bits < 8 else _FLOAT_BYTES  # noqa: PLR2004
    if tensor.name.endswith(".gate.weight") and isinstance(shape, ModelShape):
        return (
            _FLOAT_BYTES
            if FAMILIES[shape.architecture].router_float
            else rank.element
            if tensor.dtype in _FLOATS
            else 1
        )
    return rank.element if tensor.dtype in _FLOATS else _BYTES.get(tensor.dtype, 1)


def _size(dims: Iterable[int]) -> int:
    size = 1
    for dim in dims:
        size *= dim
    return size
