"""Arguments that contradict the model: vLLM would end in an assertion after minutes of loading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.memory import decoder
from pytest_vllm.domain.memory.ignored import is_ignored
from pytest_vllm.domain.memory.linear import Experts, Linear, rank_of
from pytest_vllm.domain.memory.refused import refusals
from pytest_vllm.domain.memory.serving import Serving
from pytest_vllm.domain.memory.shape import ModelShape, UnknownShape
from pytest_vllm.domain.memory.tower import tower_heads
from pytest_vllm.domain.memory.values import round_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.memory.linear import Held
    from pytest_vllm.domain.memory.shape import Layer, Quantization

_MOST_RANKS = 128
_VOCABULARY_STEP = 64
_SMALLEST_GROUP = 32
_PACKED = 8
"""Four-bit values in a word of 32 bits: no rank may hold a part of a word."""
_BYTE = 8
_REPLACING = ("--hf-overrides", "--model-class-overrides")


def objections(shape: ModelShape | UnknownShape, serving: Serving) -> tuple[str, ...]:
    """Return one line for each argument that the model does not take; empty is fine.

    Each begins with the argument, or names the value of the config that no model has; each is an
    assertion or a `ValueError` of vLLM 0.32.
    """
    if isinstance(shape, UnknownShape):
        replaced = any(line.startswith(_REPLACING) for line in serving.unmodelled)
        return (shape.reason,) if shape.impossible and not replaced else ()
    lines = [*_parallel(shape, serving), *_experts(shape, serving), *refusals(shape, serving)]
    return tuple(dict.fromkeys(lines or _stored(shape, serving)))


def valid_tensor_parallel(shape: ModelShape | UnknownShape) -> tuple[int, ...]:
    """Return the tensor-parallel sizes that the model takes; empty when it is not known."""
    if isinstance(shape, UnknownShape):
        return ()
    heads = max((layer.heads for layer in shape.layers), default=0)
    sizes = (size for size in range(1, min(heads, _MOST_RANKS) + 1) if not heads % size)
    return tuple(size for size in sizes if not objections(shape, Serving(tensor_parallel=size)))


def _parallel(shape: ModelShape, serving: Serving) -> Iterator[str]:
    tp, pp = serving.tensor_parallel, serving.pipeline_parallel
    argument = f"--tensor-parallel-size {tp}"
    for layer in dict.fromkeys(shape.layers):
        if layer.heads % tp:
            yield f"{argument}: {layer.heads} attention heads do not divide by it"
        elif layer.kv_heads and not layer.latent and layer.kv_heads % tp and tp % layer.kv_heads:
            yield f"{argument}: {layer.kv_heads} key-value heads neither divide by it nor divide it"
        if not layer.experts and layer.intermediate % tp:
            yield f"{argument}: the {layer.intermediate} columns of the MLP do not divide by it"
    if round_up(shape.vocab, _VOCABULARY_STEP) % tp:
        padded = round_up(shape.vocab, _VOCABULARY_STEP)
        yield f"{argument}: the vocabulary, padded to {padded}, does not divide by it"
    heads = tower_heads(shape)
    if heads and heads % tp:
        yield f"{argument}: {heads} attention heads of the vision tower do not divide by it"
    if pp > len(shape.layers):
        yield f"--pipeline-parallel-size {pp}: the model has {len(shape.layers)} layers"


def _experts(shape: ModelShape, serving: Serving) -> Iterator[str]:
    mixed = [layer for layer in dict.fromkeys(shape.layers) if layer.experts]
    if serving.expert_parallel and not mixed:
        yield "--enable-expert-parallel: the model has no experts"
    ways = rank_of(serving, shape.dtype).expert_slices
    for layer in mixed:
        if layer.intermediate % ways:
            yield (
                f"--tensor-parallel-size {serving.tensor_parallel}: the {layer.intermediate} "
                f"columns of an expert do not divide by {ways}"
            )
        elif layer.shared_intermediate % serving.tensor_parallel:
            yield (
                f"--tensor-parallel-size {serving.tensor_parallel}: the "
                f"{layer.shared_intermediate} columns of the shared experts do not divide by it"
            )


def _stored(shape: ModelShape, serving: Serving) -> Iterator[str]:
    """Yield what tears the blocks or groups that share a scale."""
    how = shape.quantization
    if not how.method or (not how.block and how.group <= 0):
        return
    rank = rank_of(serving, shape.dtype)
    known: dict[Layer, tuple[Held, ...]] = {}
    for index, layer in enumerate(shape.layers):
        if layer in known and not how.ignored:
            continue
        held = known.setdefault(layer, tuple(decoder.layer_of(shape, layer, rank)))
        for one in held:
            if isinstance(one, Linear) and not one.plain:
                plain = is_ignored(f"layers.{index}.{one.name}", one.parts, how)
                yield from () if plain else _linear(one, how, serving)
            elif isinstance(one, Experts):
                plain = is_ignored(f"layers.{index}.{one.name}", (), how)
                yield from () if plain else _slices(one, how, serving)


def _linear(linear: Linear, how: Quantization, serving: Serving) -> Iterator[str]:
    argument, name = f"--tensor-parallel-size {serving.tensor_parallel}", linear.name
    by_rows = linear.shard and linear.inputs == linear.whole_inputs
    if how.block:
        if linear.inputs != linear.whole_inputs and linear.inputs % how.block[1]:
            size = how.block[1]
            yield f"{argument}: {linear.inputs} columns of {name} are no whole blocks of {size}"
        rows = linear.outputs if by_rows else linear.outputs[:-1]
        for size in rows:
            if size % how.block[0]:
                yield f"{argument}: {size} rows of {name} are no whole blocks of {how.block[0]}"
    elif how.bits < _BYTE:
        if linear.inputs % how.group and linear.inputs != linear.whole_inputs:
            size = how.group
            yield f"{argument}: {linear.inputs} columns of {name} are no whole groups of {size}"
        if linear.rows % _PACKED:
            yield f"{argument}: {linear.rows} rows of {name} are no whole words of {_PACKED} values"


def _slices(experts: Experts, how: Quantization, serving: Serving) -> Iterator[str]:
    """Yield what an expert's slice tears; fp8's own method makes its blocks fit, AWQ its groups."""
    argument, width = f"--tensor-parallel-size {serving.tensor_parallel}", experts.width
    if not experts.shard:
        return
    if how.method == "compressed-tensors":
        size = how.block[0] if how.block else how.group if how.bits < _BYTE else 0
        if size > 0 and width % size:
            yield f"{argument}: {width} columns of an expert are no whole blocks of {size}"
    elif how.method in {"awq", "gptq"} and width % min(how.group, _SMALLEST_GROUP):
        yield f"{argument}: {width} columns of an expert are no whole groups of {_SMALLEST_GROUP}"
