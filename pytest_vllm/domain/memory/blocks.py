"""The modules of a decoder layer, as much as one rank holds of them.

Each function yields what one class of `vllm/model_executor/models/` allocates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.family import ALWAYS, QueryNorm
from pytest_vllm.domain.memory.linear import Experts, Linear, Plain, Rank, whole
from pytest_vllm.domain.memory.values import first, flag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_vllm.domain.memory.family import Family
    from pytest_vllm.domain.memory.linear import Held
    from pytest_vllm.domain.memory.shape import Layer, ModelShape

_FLOAT_BYTES = 4
_NORMS_BESIDE = 3
"""Of Gemma 4: before the experts, after them, and after the MLP."""


def has(keys: tuple[str, ...], text: Mapping[str, object]) -> bool:
    """Tell whether one of the keys of the config gives a module a bias."""
    return keys == ALWAYS or any(flag(text, key) for key in keys)


def norm(name: str, width: int, family: Family) -> Iterator[Held]:
    """Yield a norm, with its bias if the family has one."""
    yield Plain(name=name, elements=width * (2 if family.norm_bias else 1))


def attention(shape: ModelShape, layer: Layer, family: Family, rank: Rank) -> Iterator[Held]:
    """Yield ordinary attention: grouped queries, each rank with at least one key-value head."""
    text = shape.text
    name = "mixer" if family.mixers else "self_attn"
    gate = bool(family.output_gate) and flag(text, family.output_gate)
    queries = layer.heads // rank.tensor * layer.head_dim * (2 if gate else 1)
    keys = rank.heads(layer.kv_heads) * layer.head_dim
    rows = (queries, keys, keys)
    yield Linear(
        name=f"{name}.qkv_proj",
        parts=("q_proj", "k_proj", "v_proj"),
        outputs=rows,
        inputs=shape.hidden,
        whole_inputs=shape.hidden,
        bias=sum(rows) if has(family.qkv_bias, text) else 0,
        shard=rank.tensor > 1,
    )
    width = layer.heads * layer.head_dim
    bias = has(family.output_bias, text)
    yield rank.row(f"{name}.o_proj", shape.hidden, width, bias=bias)
    if family.sinks:
        yield Plain(name="self_attn.sinks", elements=layer.heads // rank.tensor)
    if family.query_norm_key and not flag(text, family.query_norm_key):
        return
    if family.query_norm is QueryNorm.HEAD:
        yield Plain(name="self_attn.q_norm", elements=2 * layer.head_dim)
    elif family.query_norm is QueryNorm.WIDTH:
        elements = (layer.heads + layer.kv_heads) * layer.head_dim
        yield Plain(name="self_attn.q_norm", elements=elements)
    elif family.query_norm is QueryNorm.SHARE:
        yield Plain(name="self_attn.q_norm", elements=queries + keys)


def latent(shape: ModelShape, layer: Layer, rank: Rank) -> Iterator[Held]:
    """Yield MLA: the projections into the latent are whole on every rank."""
    q, kv = shape.q_lora_rank, shape.kv_lora_rank
    key = shape.nope_head_dim + shape.rope_head_dim
    down = kv + shape.rope_head_dim
    if q:
        parts = ("q_a_proj", "kv_a_proj_with_mqa")
        yield whole("self_attn.fused_qkv_a_proj", (q, down), shape.hidden, parts=parts)
        yield Plain(name="self_attn.q_a_layernorm", elements=q)
        yield rank.column("self_attn.q_b_proj", (layer.heads * key,), q)
    else:
        yield whole("self_attn.kv_a_proj_with_mqa", (down,), shape.hidden)
        yield rank.column("self_attn.q_proj", (layer.heads * key,), shape.hidden)
    yield Plain(name="self_attn.kv_a_layernorm", elements=kv)
    up = layer.heads * (shape.nope_head_dim + layer.v_head_dim)
    yield rank.column("self_attn.kv_b_proj", (up,), kv)
    yield rank.row("self_attn.o_proj", shape.hidden, layer.heads * layer.v_head_dim)


def indexer(shape: ModelShape) -> Iterator[Held]:
    """Yield what picks the tokens that sparse attention looks at; every rank holds it whole."""
    text, name = shape.text, "self_attn.indexer"
    heads, head = first(text, "index_n_heads") or 0, first(text, "index_head_dim") or 0
    yield whole(f"{name}.wq_b", (heads * head,), shape.q_lora_rank)
    yield whole(f"{name}.wk_weights_proj", (head, heads), shape.hidden, plain=True)
    yield Plain(name=f"{name}.k_norm", elements=2 * head, bytes_each=_FLOAT_BYTES)


def feed_forward(  # noqa: PLR0913 - what an MLP is made of
    name: str, hidden: int, width: int, rank: Rank, *, gated: bool = True, bias: bool = False
) -> Iterator[Held]:
    """Yield an MLP, its first projections fused when it has a gate."""
    if gated:
        parts = ("gate_proj", "up_proj")
        yield rank.column(f"{name}.gate_up_proj", (width, width), hidden, parts=parts, bias=bias)
    else:
        yield rank.column(f"{name}.up_proj", (width,), hidden, bias=bias)
    yield rank.row(f"{name}.down_proj", hidden, width, bias=bias)


def mixture(shape: ModelShape, layer: Layer, family: Family, rank: Rank) -> Iterator[Held]:
    """Yield a router, the routed experts of the rank, and the experts that every token uses."""
    name, hidden = f"{family.mixture}." if family.mixture else "", shape.hidden
    yield whole(
        f"{name}{family.router}",
        (layer.experts,),
        hidden,
        plain=not family.router_quantized,
        bias=family.router_bias,
        bytes_each=_FLOAT_BYTES if family.router_float else 0,
    )
    if family.correction or shape.text.get("topk_method") == "noaux_tc":
        yield Plain(
            name=f"{name}gate.e_score_correction_bias",
            elements=layer.experts,
            bytes_each=_FLOAT_BYTES,
        )
    if family.beside:
        yield Plain(name="router.scale", elements=hidden + layer.experts)
        yield Plain(name="feedforward_layernorm", elements=_NORMS_BESIDE * hidden)
    yield experts(f"{name}experts", hidden, layer, family, rank)
    if layer.shared_intermediate:
        shared = replace(rank, tensor=1) if rank.shared_whole else rank
        place = f"{name}{family.shared}"
        yield from feed_forward(place, hidden, layer.shared_intermediate, shared, gated=layer.gated)
        if family.shared_gate:
            yield whole(f"{name}{family.shared}_gate", (1,), hidden, plain=True)


def experts(name: str, hidden: int, layer: Layer, family: Family, rank: Rank) -> Experts:
    """Return the routed experts: slices of all of them, or some of them whole."""
    return Experts(
        name=name,
        copies=rank.experts(layer.experts),
        hidden=hidden,
        width=layer.intermediate // rank.expert_slices,
        whole_width=layer.intermediate,
        gated=layer.gated,
        bias=family.expert_bias,
        shard=rank.expert_slices > 1,
    )
