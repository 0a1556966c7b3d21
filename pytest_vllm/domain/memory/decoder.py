"""Everything that one rank of a pipeline stage holds of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.blocks import (
    attention,
    feed_forward,
    has,
    indexer,
    latent,
    mixture,
    norm,
)
from pytest_vllm.domain.memory.families import FAMILIES
from pytest_vllm.domain.memory.linear import Linear, Plain, Rank
from pytest_vllm.domain.memory.recurrent import delta_net, mamba
from pytest_vllm.domain.memory.shape import Attention
from pytest_vllm.domain.memory.values import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.memory.linear import Held
    from pytest_vllm.domain.memory.shape import Layer, ModelShape, Quantization


def embedding(shape: ModelShape, rank: Rank) -> Iterator[Held]:
    """Yield the input embedding, on the first stage and, when it is tied, on the last."""
    rows = rank.vocabulary(shape.vocab)
    yield Linear(name="embed_tokens", outputs=(rows,), inputs=shape.hidden, plain=True)
    key = FAMILIES[shape.architecture].learned_positions
    if key:
        positions = count(shape.text.get(key)) or 0
        yield Plain(name="embed_positions", elements=positions * shape.hidden)


def head(shape: ModelShape, rank: Rank, how: Quantization) -> Iterator[Held]:
    """Yield the output embedding, which few methods quantize."""
    rows = rank.vocabulary(shape.vocab)
    yield Linear(
        name="lm_head",
        outputs=(rows,),
        inputs=shape.hidden,
        whole_inputs=shape.hidden,
        plain=not how.head,
    )


def layer_of(shape: ModelShape, layer: Layer, rank: Rank) -> Iterator[Held]:
    """Yield a layer: what remembers, what reckons, and the norms before or after them."""
    family = FAMILIES[shape.architecture]
    if layer.latent:
        yield from latent(shape, layer, rank)
        if family.indexer:
            yield from indexer(shape)
    elif layer.attention is Attention.STATE:
        yield from mamba(shape, rank) if family.mixers else delta_net(shape, rank)
    elif layer.attention is not Attention.NONE:
        yield from attention(shape, layer, family, rank)
    if layer.experts:
        yield from mixture(shape, layer, family, rank)
    elif layer.intermediate:
        yield from feed_forward(
            "mixer" if family.mixers else "mlp",
            shape.hidden,
            layer.intermediate,
            rank,
            gated=layer.gated,
            bias=has(family.mlp_bias, shape.text),
        )
    for number in range(family.norms):
        yield from norm(f"norm{number}", shape.hidden, family)
