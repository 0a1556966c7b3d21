"""Bytes of a matrix in each of the ways that vLLM 0.32 stores one.

As the classes in `model_executor/layers/quantization/` allocate it before loading; what they make
of it afterwards is no larger, with the exceptions that `padding` knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.values import round_up

if TYPE_CHECKING:
    from pytest_vllm.domain.memory.linear import Experts, Linear
    from pytest_vllm.domain.memory.shape import Quantization

_MXFP4_GROUP = 32
"""Values that share a scale of one byte."""
_MXFP4_STEP = 256
"""ROCm's kernels for MXFP4 take whole tiles of so many values (`oracle/mxfp4.py`)."""
_SCALE = 4
"""A scale is a float32 unless it is one of the model's own type."""
_BIAS_BYTES = 2


def plain_bytes(linear: Linear, element: int) -> int:
    """Return the bytes of a matrix that is not quantized."""
    size = linear.bytes_each or element
    return linear.copies * (linear.rows * linear.inputs + linear.bias) * size


def linear_bytes(linear: Linear, how: Quantization, element: int) -> int:
    """Return the bytes of a quantized matrix with its scales and its bias."""
    bias = linear.copies * linear.bias * element
    return linear.copies * _one(linear, how, element) + bias


def _one(linear: Linear, how: Quantization, element: int) -> int:
    elements = linear.rows * linear.inputs
    match how.method:
        case "fp8" | "modelopt":
            return _fp8(linear, how, elements)
        case "awq" | "gptq":
            return _grouped(linear, how, element)
        case "compressed-tensors":
            return _compressed(linear, how, element)
        case _:
            return elements * element


def _fp8(linear: Linear, how: Quantization, elements: int) -> int:
    if how.block:
        return elements + _SCALE * _blocks(linear, how.block)
    scales = len(linear.outputs) * (2 if how.static else 1)
    return elements + _SCALE * scales


def _blocks(linear: Linear, block: tuple[int, ...]) -> int:
    """Return the blocks of a matrix; each fused part begins a new one."""
    rows = sum(-(-size // block[0]) for size in linear.outputs)
    return rows * -(-linear.inputs // block[1])


def _grouped(linear: Linear, how: Quantization, element: int) -> int:
    """Return the bytes of AWQ and GPTQ: packed weights, scales, packed zero points, order."""
    size = linear.whole_inputs if how.group < 0 else how.group
    groups = -(-linear.inputs // max(1, size))
    packed = linear.rows * linear.inputs * how.bits // 8
    zeros = groups * linear.rows * how.bits // 8
    order = _SCALE * linear.inputs if how.order else 0
    return packed + groups * linear.rows * element + zeros + order


def _compressed(linear: Linear, how: Quantization, element: int) -> int:
    elements = linear.rows * linear.inputs
    packed = elements * how.bits // 8
    if how.block:
        return packed + _SCALE * _blocks(linear, how.block)
    if how.group < 0:
        return packed + _SCALE * linear.rows
    if how.group > 0:
        groups = -(-linear.inputs // how.group)
        zeros = groups * linear.rows * how.bits // 8 if how.zeros else 0
        return packed + groups * linear.rows * element + zeros + 16
    return packed + _SCALE * len(linear.outputs) * (2 if how.static else 1)


def experts_bytes(experts: Experts, how: Quantization, element: int, *, padded: bool) -> int:
    """Return the bytes of the routed experts of a rank.

    Args:
        experts: The experts.
        how: In what they are stored.
        element: Bytes of an element of the model.
        padded: Whether MXFP4 is padded to the tiles of the platform's kernels.
    """
    if how.method == "mxfp4":
        return _mxfp4(experts, padded=padded)
    into, out = experts.matrices()
    if not how.method:
        return plain_bytes(into, element) + plain_bytes(out, element)
    return linear_bytes(into, how, element) + linear_bytes(out, how, element)


def _mxfp4(experts: Experts, *, padded: bool) -> int:
    step = _MXFP4_STEP if padded else _MXFP4_GROUP
    width, hidden = round_up(experts.width, step), round_up(experts.hidden, step)
    into, out = experts.up * width, hidden
    elements = into * hidden + out * width
    bias = _BIAS_BYTES * (into + out) if experts.bias else 0
    return experts.copies * (elements // 2 + elements // _MXFP4_GROUP + bias)
