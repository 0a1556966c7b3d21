"""The KV cache of one rank: groups, blocks, and what a request needs of them.

Formulas: `v1/kv_cache_interface.py` and `v1/core/kv_cache_utils.py` of vLLM 0.32; the tests hold
them against those very functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.grouping import Page, group
from pytest_vllm.domain.memory.pages import element_bytes, layer_pages
from pytest_vllm.domain.memory.shape import Attention
from pytest_vllm.domain.memory.stages import stages

if TYPE_CHECKING:
    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.shape import ModelShape

_GROUP_AWARE_FROM = (0, 27)
"""From here on the tokens of the cache are those of requests of full length. 0.26 prints two lines
and counts blocks, 0.30 and 0.32 print one; the versions between are taken for newer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvGroup:
    """Layers that share one table of blocks.

    Attributes:
        attention: Their kind.
        window: Tokens of their window or chunk, 0 for neither.
        layers: How many of them this rank holds.
        page_bytes: One block of one of the layers; the mean of all when they differ.
        block_size: Tokens of one of their blocks, 0 for that of the layout.
        request_blocks: Blocks of a request however long it is, 0 when its length decides.
    """

    attention: Attention
    window: int = 0
    layers: int
    page_bytes: int
    block_size: int = 0
    request_blocks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayout:
    """How the KV cache of one rank is laid out.

    Attributes:
        groups: The groups; all share one pool of blocks. None for a model without a cache.
        block_size: Tokens of a block.
        bytes_per_block: What a block takes of the pool.
        bytes_per_token: What one token takes in all layers, without regard to windows.
        element_bytes: Bytes of an element of the cache.
        context_parallel: Devices over which the tokens of full attention are split.
    """

    groups: tuple[KvGroup, ...]
    block_size: int
    bytes_per_block: int
    bytes_per_token: int
    element_bytes: int
    context_parallel: int = 1


def lay_out(shape: ModelShape, serving: Serving, stage: int = 0) -> KvLayout:
    """Lay out the cache of a rank as vLLM does.

    Layers are grouped over all pipeline stages; a rank then holds those of each group that are in
    its stage.

    Args:
        shape: The model.
        serving: How it is split.
        stage: Pipeline stage of the rank.
    """
    pages, block_size = layer_pages(shape, serving)
    mine = stages(len(shape.layers), serving)[stage]
    groups: list[KvGroup] = []
    bytes_per_block = 0
    for members in group(pages, hybrid=_keeps_windows(shape, serving)):
        held = [page for page in members if page.layer in mine]
        size = sum(page.bytes for page in held)
        bytes_per_block = max(bytes_per_block, size)
        groups.append(_describe(members[0], held, size))
    return KvLayout(
        groups=tuple(groups),
        block_size=block_size,
        bytes_per_block=bytes_per_block,
        bytes_per_token=sum(page.token_bytes for page in pages if page.layer in mine),
        element_bytes=element_bytes(shape, serving),
        context_parallel=serving.decode_context_parallel,
    )


def need_blocks(layout: KvLayout, length: int, in_flight: int) -> int:
    """Return the blocks that a request of a length may hold, over all groups.

    Args:
        layout: The layout.
        length: Tokens of the request.
        in_flight: Tokens that are scheduled but not settled: what a window keeps besides itself.
    """
    return sum(_need(layout, one, length, in_flight) for one in layout.groups)


def concurrency(layout: KvLayout, blocks: int, length: int, in_flight: int) -> float:
    """Return how many requests of a length fit at a time, as the log says."""
    need = need_blocks(layout, length, in_flight)
    return blocks / need if need else 0.0


def tokens(
    layout: KvLayout, blocks: int, length: int, in_flight: int, version: tuple[int, ...]
) -> int:
    """Return the tokens of the cache as a version of vLLM counts them in its log.

    Newer versions print what requests of full length hold, older ones the blocks of one group.

    Args:
        layout: The layout.
        blocks: Blocks of the pool.
        length: Longest request in tokens.
        in_flight: Tokens that are scheduled but not settled.
        version: Version of vLLM.
    """
    if not layout.groups:
        return 0
    if version[:2] >= _GROUP_AWARE_FROM:
        return int(concurrency(layout, blocks, length, in_flight) * length)
    return blocks // len(layout.groups) * layout.block_size * layout.context_parallel


def longest(layout: KvLayout, blocks: int, limit: int, in_flight: int) -> int:
    """Return the longest request that fits into blocks, of which vLLM keeps one; 0 for none.

    Args:
        layout: The layout.
        blocks: Blocks of the pool.
        limit: No longer than this.
        in_flight: Tokens that are scheduled but not settled.
    """
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if need_blocks(layout, middle, in_flight) < blocks:
            low = middle
        else:
            high = middle - 1
    return low


def _keeps_windows(shape: ModelShape, serving: Serving) -> bool:
    """Tell whether layers with a window keep no more than it; chunks only where that is allowed."""
    chunked = any(layer.attention is Attention.CHUNKED for layer in shape.layers)
    if not serving.hybrid_manager or not chunked:
        return serving.hybrid_manager
    default = "1" if serving.version[:2] >= _GROUP_AWARE_FROM else "0"
    return (
        serving.variables.get("VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE", default) != "0"
    )


def _describe(first: Page, held: list[Page], size: int) -> KvGroup:
    return KvGroup(
        attention=first.attention,
        window=first.window,
        layers=len(held),
        page_bytes=size // len(held) if held else 0,
        block_size=first.block_size,
        request_blocks=first.request_blocks,
    )


def _need(layout: KvLayout, one: KvGroup, length: int, in_flight: int) -> int:
    size = one.block_size or layout.block_size
    if one.request_blocks:
        return one.request_blocks
    if one.attention is Attention.SLIDING:
        # One more, as a window need not start where a block does.
        return _ceil(min(one.window - 1 + in_flight, length), size) + 1
    if one.attention is Attention.CHUNKED:
        return _ceil(min(one.window + in_flight, length), size)
    return _ceil(_ceil(length, layout.context_parallel), size)


def _ceil(number: int, by: int) -> int:
    return -(-number // by)
