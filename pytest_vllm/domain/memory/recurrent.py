"""Layers that keep a state instead of a cache: gated delta nets and Mamba 2, of one rank.

As `QwenGatedDeltaNetAttention` and `MambaMixer2` of vLLM 0.32 allocate them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.linear import Held, Linear, Plain, Rank
from pytest_vllm.domain.memory.values import first

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.memory.shape import ModelShape

_FLOAT_BYTES = 4


def delta_net(shape: ModelShape, rank: Rank) -> Iterator[Held]:
    """Yield a gated delta net (Qwen3-Next, Qwen3.5)."""
    text, name = shape.text, "linear_attn"
    heads = first(text, "linear_num_value_heads") or 0
    head = first(text, "linear_value_head_dim") or 0
    keys = (first(text, "linear_num_key_heads") or 0) * (first(text, "linear_key_head_dim") or 0)
    values = heads * head
    kernel = first(text, "linear_conv_kernel_dim") or 0
    parts = ("in_proj_qkv", "in_proj_z")
    rows = (keys, keys, values, values)
    yield rank.column(f"{name}.in_proj_qkvz", rows, shape.hidden, parts=parts)
    gates = ("in_proj_b", "in_proj_a")
    yield rank.column(f"{name}.in_proj_ba", (heads, heads), shape.hidden, parts=gates)
    yield _convolution(f"{name}.conv1d", (2 * keys + values) // rank.tensor, kernel, bias=False)
    yield Plain(name=f"{name}.dt_bias", elements=heads // rank.tensor)
    yield Plain(name=f"{name}.A_log", elements=heads // rank.tensor, bytes_each=_FLOAT_BYTES)
    yield Plain(name=f"{name}.norm", elements=head)
    yield rank.row(f"{name}.out_proj", shape.hidden, values)


def mamba(shape: ModelShape, rank: Rank) -> Iterator[Held]:
    """Yield a Mamba 2 mixer (Nemotron-H)."""
    text, name = shape.text, "mixer"
    heads = first(text, "mamba_num_heads") or 0
    inner = heads * (first(text, "mamba_head_dim") or 0)
    state = (first(text, "n_groups") or 0) * (first(text, "ssm_state_size") or 0)
    kernel = first(text, "conv_kernel") or 0
    rows = (inner, inner, state, state, heads)
    yield rank.column(f"{name}.in_proj", rows, shape.hidden)
    yield _convolution(f"{name}.conv1d", (inner + 2 * state) // rank.tensor, kernel, bias=True)
    yield Plain(name=f"{name}.A", elements=heads // rank.tensor, bytes_each=_FLOAT_BYTES)
    yield Plain(name=f"{name}.D", elements=2 * heads // rank.tensor)  # and dt_bias
    yield Plain(name=f"{name}.norm", elements=inner // rank.tensor)
    yield rank.row(f"{name}.out_proj", shape.hidden, inner)


def _convolution(name: str, channels: int, kernel: int, *, bias: bool) -> Linear:
    """Return a convolution over the tokens, one kernel for each channel."""
    return Linear(
        name=name,
        outputs=(channels,),
        inputs=kernel,
        whole_inputs=kernel,
        bias=channels if bias else 0,
        plain=True,
    )
