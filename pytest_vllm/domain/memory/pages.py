"""What one block of one layer takes: the specs of `v1/kv_cache_interface.py` of vLLM 0.32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.grouping import Page
from pytest_vllm.domain.memory.hybrid import GROUPS
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import Attention

if TYPE_CHECKING:
    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.shape import Layer, ModelShape

_GPU_BLOCK = 16
_CPU_BLOCK = 128
_CPU_LATENT_BLOCK = 16
_LATENT_HYBRID_BLOCK = 128
"""Decode kernels of MLA want blocks that divide 128, so hybrids start there."""
_BACKEND_BLOCKS = {
    "FLASHMLA": 64,
    "FLASHMLA_SPARSE": 64,
    "FLASHINFER_MLA": 32,
    "CUTLASS_MLA": 128,
    "ROCM_AITER_UNIFIED_ATTN": 64,
}
"""Backends that raise the default block, by the name that `--attention-backend` takes."""
_SPARSE_TOKEN = {"fp8": 656, "nvfp4": 352}
"""Bytes of a token of sparse MLA, packed with its scales (`fp8_ds_mla`, `nvfp4_ds_mla`)."""
_PACKED = ("turboquant", "ultraquant")
"""Caches of about 4 bits with scales, reckoned as 4.5: an estimate."""
_INDEX_SCALE_GROUP = 128
_SCALE = 4
_WIDTHS = {"float32": 4, "float": 4}


def layer_pages(shape: ModelShape, serving: Serving) -> tuple[tuple[Page, ...], int]:
    """Return the pages of all layers that have a cache, and the tokens of a block.

    Args:
        shape: The model.
        serving: How it is split over devices.
    """
    block = _block_size(shape, serving)
    state = max((_state_bytes(layer, serving) for layer in shape.layers), default=0)
    row = next((bytes_ for layer in shape.layers if (bytes_ := _row(shape, layer, serving))), 0)
    if state and row:
        block = _hybrid_block(shape, serving, block, state=state, row=row)
        state = block * row
    pages: list[Page] = []
    for index, layer in enumerate(shape.layers):
        pages.extend(_pages(shape, serving, index, layer, block=block, state=state))
    return tuple(pages), block


def model_element_bytes(serving: Serving) -> int:
    """Return the bytes of an element of the model: 32-bit checkpoints are served with 16 bits."""
    return _WIDTHS.get(serving.dtype, 2)


def element_bytes(shape: ModelShape, serving: Serving) -> int:
    """Return the bytes of an element of the KV cache."""
    kind = cache_dtype(shape, serving)
    if kind == "auto":
        return model_element_bytes(serving)
    if kind.startswith(("fp8", "int8", "nvfp4", "int4")):
        return 1
    return _WIDTHS.get(kind, 2)


def cache_dtype(shape: ModelShape, serving: Serving) -> str:
    """Return the type of the cache: what was asked for, else what the checkpoint asks for."""
    if serving.kv_cache_dtype != "auto":
        return serving.kv_cache_dtype
    return shape.kv_cache_dtype or "auto"


def _block_size(shape: ModelShape, serving: Serving) -> int:
    latent = any(layer.attention is Attention.LATENT for layer in shape.layers)
    if serving.platform is Platform.CPU:
        if latent:
            return _CPU_LATENT_BLOCK
        return serving.block_size or _CPU_BLOCK
    if serving.block_size:
        return serving.block_size
    sparse = 64 if _index_width(shape) and serving.platform is Platform.CUDA else _GPU_BLOCK
    return _BACKEND_BLOCKS.get(serving.attention_backend.upper(), sparse)


def _hybrid_block(shape: ModelShape, serving: Serving, block: int, *, state: int, row: int) -> int:
    """Raise the block until a page of attention holds a state (`_align_hybrid_block_size`)."""
    step = max(block, 32 if serving.platform is Platform.CPU else _GPU_BLOCK)
    if any(layer.attention is Attention.LATENT for layer in shape.layers):
        step = max(step, _LATENT_HYBRID_BLOCK)
    return max(block, step * -(-state // (step * row)))


def _pages(  # noqa: PLR0913 - one row of a table
    shape: ModelShape, serving: Serving, index: int, layer: Layer, *, block: int, state: int
) -> list[Page]:
    if layer.attention is Attention.NONE:
        return []
    if layer.attention is Attention.STATE:
        return [_state_page(shape, serving, index, layer, block=block, padded=state)]
    row = _row(shape, layer, serving)
    first = Page(
        layer=index,
        attention=layer.attention,
        window=layer.window,
        block_size=block,
        bytes=block * row,
        token_bytes=row,
        spec=(layer.kv_heads, layer.head_dim, layer.v_head_dim),
    )
    width = _index_width(shape) if layer.attention is Attention.LATENT else 0
    if not width:
        return [first]
    index_row = width + _SCALE * -(-width // _INDEX_SCALE_GROUP)
    return [
        first,
        Page(
            layer=index,
            attention=Attention.LATENT,
            block_size=block,
            bytes=block * index_row,
            token_bytes=index_row,
            spec=(1, index_row, 0),
        ),
    ]


def _state_page(  # noqa: PLR0913 - one row of a table
    shape: ModelShape, serving: Serving, index: int, layer: Layer, *, block: int, padded: int
) -> Page:
    hybrid = any(one.attention not in (Attention.STATE, Attention.NONE) for one in shape.layers)
    kept = hybrid if serving.prefix_caching is None else serving.prefix_caching
    return Page(
        layer=index,
        attention=Attention.STATE,
        block_size=block,
        bytes=padded if hybrid else _state_bytes(layer, serving),
        # With prefix caching a state is kept at block boundaries besides the running one.
        request_blocks=2 if kept else 1,
    )


def _state_bytes(layer: Layer, serving: Serving) -> int:
    split = serving.tensor_parallel
    total = 0
    for name, elements, size in layer.state:
        if name == GROUPS and layer.state_groups:
            # Every rank holds whole groups, and the same ones where they do not go round.
            groups, left = divmod(layer.state_groups, split)
            total += elements // layer.state_groups * (1 if left else groups) * size
        else:
            total += -(-elements // split) * size
    return total


def _row(shape: ModelShape, layer: Layer, serving: Serving) -> int:
    """Return what a token takes in a layer of a rank; 0 for states."""
    kind = cache_dtype(shape, serving)
    size = element_bytes(shape, serving)
    if layer.attention in (Attention.STATE, Attention.NONE):
        return 0
    if layer.attention is Attention.LATENT:
        # The latent is not split by heads, so every tensor-parallel rank holds all of it.
        if _index_width(shape):
            for start, row in _SPARSE_TOKEN.items():
                if kind.startswith(start):
                    return row
        return (shape.kv_lora_rank + shape.rope_head_dim) * size
    heads = max(1, layer.kv_heads // serving.tensor_parallel)
    width = layer.head_dim + (layer.v_head_dim or layer.head_dim)
    if kind.startswith("nvfp4"):
        return heads * (width // 2 + width // 16)
    if kind.startswith(_PACKED):
        return heads * width * 9 // 16
    if kind == "int4_per_token_head":
        width //= 2
    scales = 2 * _SCALE if kind.endswith("per_token_head") else 0
    return heads * (width * size + scales)


def _index_width(shape: ModelShape) -> int:
    """Return the width of the indexer of sparse MLA (DeepSeek-V3.2), 0 without one."""
    width = shape.raw.get("index_head_dim")
    return width if isinstance(width, int) and shape.kv_lora_rank else 0
