"""Bytes of a matrix in each of the ways that vLLM 0.32 stores one on ROCm.

As the classes in `model_executor/layers/quantization/` allocate it before loading; what they make
of it afterwards is in `extras`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.values import round_up

if TYPE_CHECKING:
    from pytest_vllm.domain.memory.linear import Experts, Linear
    from pytest_vllm.domain.memory.shape import Layer, Quantization

_MXFP4_GROUP = 32
"""Values that share a scale of one byte."""
_MXFP4_STEP = 256
"""ROCm's kernels for MXFP4 take whole tiles of so many values (`oracle/mxfp4.py`)."""
_SCALE = 4
"""A scale is a float32 unless it is one of the model's own type."""
_BIAS_BYTES = 2
_LINEAR_SHAPE = 16
"""compressed-tensors keeps the shape of a packed matrix as two int64."""
_SMALLEST_GROUP = 32
_SMALLEST_BLOCK = 32
_ATTENTION_SCALES = {
    "fp8": (0, 4),
    "quark": (0, 4),
    "modelopt": (0, 4),
    "compressed-tensors": (3, 3),
}
"""Scales of the KV cache that a layer loads: so many float32, so many of the model's type."""


def plain_bytes(linear: Linear, element: int) -> int:
    """Return the bytes of a matrix that is not quantized."""
    size = linear.bytes_each or element
    return linear.copies * (linear.rows * linear.inputs + linear.bias) * size


def linear_bytes(linear: Linear, how: Quantization, element: int) -> int:
    """Return the bytes of a quantized matrix with its scales and its bias."""
    return _stored(linear, how, element) + linear.bias * element


def attention_bytes(layer: Layer, how: Quantization, element: int) -> int:
    """Return the bytes of the scales that a layer's attention loads for the KV cache."""
    if how.online or not layer.kv_heads or layer.latent:
        return 0
    floats, own = _ATTENTION_SCALES.get(how.method, (0, 0))
    return floats * _SCALE + own * element


def experts_bytes(experts: Experts, how: Quantization, element: int, *, padded: bool) -> int:
    """Return the bytes of the routed experts of a rank.

    Args:
        experts: The experts.
        how: In what they are stored.
        element: Bytes of an element of the model.
        padded: Whether MXFP4 is padded to the tiles of the platform's kernels.
    """
    if how.block and how.method != "mxfp4":
        experts, how = _fitted(experts, how)
    into, out = experts.matrices()
    bias = (into.bias + out.bias) * element
    match how.method:
        case "":
            elements = into.rows * into.inputs + out.rows * out.inputs
            return experts.copies * (elements * element + bias)
        case "mxfp4":
            return _mxfp4(experts, padded=padded)
        case "awq" | "gptq":
            stored = _grouped_experts(experts, how, element)
        case _:
            stored = sum(_stored(one, how, element) for one in (into, out))
            stored += _correction(experts, how, element)
    return experts.copies * (stored + bias)


def _stored(linear: Linear, how: Quantization, element: int) -> int:
    elements = linear.rows * linear.inputs
    parts = len(linear.outputs)
    match how.method:
        case "fp8" | "modelopt" | "compressed-tensors" | "quark" if how.bits == 8:  # noqa: PLR2004
            if how.block:
                return _in_blocks(linear, how.block)
            scales = linear.rows if how.group < 0 else parts
            return elements + _SCALE * (scales + (parts if how.static else 0))
        case "awq" | "gptq":
            return _grouped(linear, how, element)
        case "compressed-tensors" if how.bits < 8:  # noqa: PLR2004 - bits of a byte
            packed = elements * how.bits // 8
            groups = 1 if how.group < 0 else -(-linear.inputs // max(1, how.group))
            zeros = groups * linear.rows * how.bits // 8 if how.zeros else 0
            return packed + groups * linear.rows * element + zeros + _LINEAR_SHAPE
        case "quark" | "modelopt_fp4" if how.bits == 4 and how.group > 0:  # noqa: PLR2004
            return elements // 2 + elements // how.group
        case _:
            return elements * element


def _in_blocks(linear: Linear, block: tuple[int, ...]) -> int:
    """Return the bytes of 8-bit floats with a scale for each block; each part begins a new one."""
    rows = sum(-(-size // block[0]) for size in linear.outputs)
    return linear.rows * linear.inputs + _SCALE * rows * -(-linear.inputs // block[1])


def _fitted(experts: Experts, how: Quantization) -> tuple[Experts, Quantization]:
    """Return experts and blocks as vLLM makes them fit where a slice would tear a block.

    Blocks become smaller (`refine_fp8_moe_block_shape`); where that would need less than 32 rows,
    slices become larger (`pad_tp_shard_to_weight_blocks`).
    """
    if not experts.shard or not experts.width % how.block[0]:
        return experts, how
    size = math.gcd(*how.block, experts.width, experts.hidden)
    if size < _SMALLEST_BLOCK:
        return replace(experts, width=round_up(experts.width, how.block[0])), how
    return experts, replace(how, block=(size, size))


def _grouped(linear: Linear, how: Quantization, element: int) -> int:
    """Return the bytes of AWQ and GPTQ: packed weights, scales, packed zero points."""
    size = linear.whole_inputs if how.group < 0 else how.group
    groups = -(-linear.inputs // max(1, size))
    values = linear.rows * how.bits // 8
    order = _SCALE * linear.inputs if how.order else 0
    return linear.inputs * values + groups * (linear.rows * element + values) + order


def _grouped_experts(experts: Experts, how: Quantization, element: int) -> int:
    """Return the bytes of one expert in AWQ or GPTQ (`moe_wna16.py`, which ROCm uses)."""
    size = max(1, how.group if how.group > 0 else experts.hidden)
    while size > _SMALLEST_GROUP and (experts.width % size or experts.hidden % size):
        size //= 2
    stored = 0
    for one in experts.matrices():
        groups = -(-one.inputs // size)
        values = one.rows * how.bits // 8
        stored += one.inputs * values + groups * one.rows * element
        stored += groups * values if how.zeros else 0
    return stored


def _correction(experts: Experts, how: Quantization, element: int) -> int:
    """Return by how much an expert's scales differ from those of single matrices.

    Experts keep one scale of the activations for both matrices in, and shapes in the model's type.
    """
    if how.method == "compressed-tensors" and how.bits < 8:  # noqa: PLR2004 - bits of a byte
        return 2 * (2 * element - _LINEAR_SHAPE)
    return -_SCALE * (experts.up - 1) if how.static and how.group >= 0 else 0


def _mxfp4(experts: Experts, *, padded: bool) -> int:
    step = _MXFP4_STEP if padded else _MXFP4_GROUP
    width, hidden = round_up(experts.width, step), round_up(experts.hidden, step)
    into, out = experts.up * width, hidden
    elements = into * hidden + out * width
    bias = _BIAS_BYTES * (into + out) if experts.bias else 0
    return experts.copies * (elements // 2 + elements // _MXFP4_GROUP + bias)
