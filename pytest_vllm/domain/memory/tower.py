"""What looks at images: a second transformer, whole on every pipeline stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.families import FAMILIES
from pytest_vllm.domain.memory.family import Tower
from pytest_vllm.domain.memory.linear import Held, Linear, Plain, Rank
from pytest_vllm.domain.memory.values import count, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_vllm.domain.memory.shape import ModelShape

_COMPLEX_BYTES = 8
_MOST_LAYERS = 2000


def tower(shape: ModelShape, rank: Rank) -> Iterator[Held]:
    """Yield the vision tower and its projector; nothing for a model of text."""
    vision = table(shape.raw.get("vision_config"))
    match FAMILIES[shape.architecture].tower:
        case Tower.SIGLIP:
            yield from _siglip(shape, _Sizes(vision, _SIGLIP), rank)
        case Tower.LLAMA4:
            yield from _llama4(shape, _Sizes(vision, _LLAMA4), rank)
        case Tower.QWEN3:
            yield from _qwen3(shape, _Sizes(vision, _QWEN3), rank)
        case Tower.GEMMA4:
            yield from _gemma4(shape, _Sizes(vision, _GEMMA4))
        case Tower.NONE:
            return


def tower_rope_bytes(shape: ModelShape, element: int) -> int:
    """Return the bytes of the tower's table of positions (Llama 4: complex numbers)."""
    vision = table(shape.raw.get("vision_config"))
    match FAMILIES[shape.architecture].tower:
        case Tower.LLAMA4:
            sizes = _Sizes(vision, _LLAMA4)
            head = sizes["hidden_size"] // max(1, sizes["num_attention_heads"])
            return (sizes.patches + 1) * (head // 2) * _COMPLEX_BYTES
        case Tower.QWEN3:
            sizes = _Sizes(vision, _QWEN3)
            head = sizes["hidden_size"] // max(1, sizes["num_heads"])
            return _QWEN3_POSITIONS * (head // 2) * element
        case _:
            return 0


_SIGLIP: Mapping[str, int] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
}
_LLAMA4: Mapping[str, int] = {
    "hidden_size": 768,
    "intermediate_size": 5632,
    "num_hidden_layers": 34,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 448,
    "patch_size": 14,
    "vision_output_dim": 7680,
    "projector_input_dim": 4096,
    "projector_output_dim": 4096,
}

_QWEN3: Mapping[str, int] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "depth": 27,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 2304,
    "out_hidden_size": 3584,
}
_QWEN3_POSITIONS = 8192
_GEMMA4: Mapping[str, int] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "head_dim": 64,
    "num_channels": 3,
    "patch_size": 16,
    "position_embedding_size": 10240,
}


class _Sizes:
    """Sizes of a tower, with the values that transformers adds."""

    def __init__(self, vision: Mapping[str, object], defaults: Mapping[str, int]) -> None:
        self._vision, self._defaults = vision, defaults

    def __getitem__(self, key: str) -> int:
        return count(self._vision.get(key)) or self._defaults[key]

    @property
    def patches(self) -> int:
        return (self["image_size"] // max(1, self["patch_size"])) ** 2


def _siglip(shape: ModelShape, sizes: _Sizes, rank: Rank) -> Iterator[Held]:
    """Yield SigLIP and Gemma 3's projector (`siglip.py`, `gemma3_mm.py`)."""
    hidden = sizes["hidden_size"]
    patch = sizes["num_channels"] * sizes["patch_size"] ** 2
    yield Plain(name="patch_embedding", elements=hidden * patch + hidden)
    yield Plain(name="position_embedding", elements=sizes.patches * hidden)
    yield from _layers(sizes, rank, sizes["num_hidden_layers"])
    yield Plain(name="post_layernorm", elements=2 * hidden)
    yield Plain(name="multi_modal_projector", elements=hidden * shape.hidden + hidden)


def _llama4(shape: ModelShape, sizes: _Sizes, rank: Rank) -> Iterator[Held]:
    """Yield the tower of Llama 4 and its projector (`mllama4.py`)."""
    hidden = sizes["hidden_size"]
    patch = sizes["num_channels"] * sizes["patch_size"] ** 2
    yield Plain(name="embeddings", elements=hidden + (sizes.patches + 1) * hidden)
    yield _plain(rank.column("patch_embedding", (hidden,), patch))
    yield Plain(name="layernorms", elements=4 * hidden)
    yield from _layers(sizes, rank, sizes["num_hidden_layers"])
    into, out = sizes["projector_input_dim"], sizes["projector_output_dim"]
    yield _plain(rank.column("vision_adapter.fc1", (into,), sizes["intermediate_size"]))
    yield _plain(rank.row("vision_adapter.fc2", out, into))
    yield _plain(rank.column("projector", (shape.hidden,), sizes["vision_output_dim"]))


def _qwen3(shape: ModelShape, sizes: _Sizes, rank: Rank) -> Iterator[Held]:
    """Yield the tower of Qwen3-VL and Qwen3.5 and its mergers (`qwen3_vl.py`)."""
    hidden = sizes["hidden_size"]
    patch = sizes["in_channels"] * sizes["temporal_patch_size"] * sizes["patch_size"] ** 2
    yield Plain(name="patch_embed", elements=hidden * patch + hidden)
    yield Plain(name="pos_embed", elements=sizes["num_position_embeddings"] * hidden)
    yield from _layers(sizes, rank, sizes["depth"])
    merged = hidden * sizes["spatial_merge_size"] ** 2
    deep = table(shape.raw.get("vision_config")).get("deepstack_visual_indexes")
    norms = [hidden, *([merged] * len(deep) if isinstance(deep, list) else [])]
    for norm in norms:
        yield Plain(name="merger.norm", elements=2 * norm)
        yield _plain(rank.column("merger.linear_fc1", (merged,), merged, bias=True))
        yield _plain(rank.row("merger.linear_fc2", sizes["out_hidden_size"], merged, bias=True))


def _gemma4(shape: ModelShape, sizes: _Sizes) -> Iterator[Held]:
    """Yield the tower of Gemma 4 and its projector, whole on every rank (`gemma4_mm.py`)."""
    hidden, head = sizes["hidden_size"], sizes["head_dim"]
    wide = sizes["num_attention_heads"] * head
    patch = sizes["num_channels"] * sizes["patch_size"] ** 2
    positions = 2 * sizes["position_embedding_size"]
    yield Plain(name="patch_embedder", elements=(positions + patch) * hidden)
    each = 4 * hidden * wide + 3 * hidden * sizes["intermediate_size"] + 4 * hidden + 2 * head
    yield Plain(name="encoder", elements=sizes["num_hidden_layers"] * each)
    yield Plain(name="embed_vision", elements=hidden * shape.hidden)


def _layers(sizes: _Sizes, rank: Rank, depth: int) -> Iterator[Held]:
    hidden, width = sizes["hidden_size"], sizes["intermediate_size"]
    for _ in range(min(depth, _MOST_LAYERS)):
        yield _plain(rank.column("qkv_proj", (hidden, hidden, hidden), hidden, bias=True))
        yield _plain(rank.row("out_proj", hidden, hidden, bias=True))
        yield _plain(rank.column("fc1", (width,), hidden, bias=True))
        yield _plain(rank.row("fc2", hidden, width, bias=True))
        yield Plain(name="norms", elements=4 * hidden)


def _plain(linear: Linear) -> Linear:
    """Return the matrix as one that no method of the checkpoint quantizes."""
    return Linear(
        name=linear.name,
        outputs=linear.outputs,
        inputs=linear.inputs,
        whole_inputs=linear.whole_inputs,
        bias=linear.bias,
        plain=True,
        shard=linear.shard,
    )


def tower_heads(shape: ModelShape) -> int:
    """Return the attention heads of the tower, 0 without one."""
    vision = table(shape.raw.get("vision_config"))
    match FAMILIES[shape.architecture].tower:
        case Tower.SIGLIP:
            return _Sizes(vision, _SIGLIP)["num_attention_heads"]
        case Tower.LLAMA4:
            return _Sizes(vision, _LLAMA4)["num_attention_heads"]
        case Tower.QWEN3:
            return _Sizes(vision, _QWEN3)["num_heads"]
        case _:
            return 0
