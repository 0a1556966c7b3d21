"""Which layers share a table of blocks: `get_kv_cache_groups` of vLLM 0.32, in plain numbers.

All groups draw from one pool of blocks, so every block must be as large as that of the widest
group. Layouts that put the pages of one block side by side (DeepSeek-V4) are not covered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pytest_vllm.domain.memory.shape import Attention

_TOKENS_FOR_ALL = (Attention.FULL, Attention.LATENT)
_WINDOWED = (Attention.SLIDING, Attention.CHUNKED)
_NOT_MUCH_LARGER = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One block of one layer on one rank.

    Attributes:
        layer: Index of the layer.
        attention: Its kind.
        window: Tokens of its window or chunk, 0 for neither.
        block_size: Tokens of the block.
        bytes: Size of the block.
        token_bytes: What a token takes, 0 for a state.
        request_blocks: Blocks of a request whatever its length, 0 when that decides.
        spec: What else must agree for two layers to share a table, such as heads and widths.
    """

    layer: int
    attention: Attention
    window: int = 0
    block_size: int
    bytes: int
    token_bytes: int = 0
    request_blocks: int = 0
    spec: tuple[int, ...] = ()


def group(pages: tuple[Page, ...], *, hybrid: bool = True) -> list[list[Page]]:
    """Split layers into groups.

    Args:
        pages: One for each layer that has a cache.
        hybrid: Whether windows are kept apart; without it they are treated as full attention
            where there is any (`--disable-hybrid-kv-cache-manager`).
    """
    if not pages:
        return []
    if not hybrid:
        pages = _promote(pages)
    if _is_one_kind(pages):
        return [list(pages)]
    return _split(_even_out(pages))


def _promote(pages: tuple[Page, ...]) -> tuple[Page, ...]:
    if not any(page.attention in _TOKENS_FOR_ALL for page in pages):
        return pages
    return tuple(
        replace(page, attention=Attention.FULL, window=0) if page.attention in _WINDOWED else page
        for page in pages
    )


def _is_one_kind(pages: tuple[Page, ...]) -> bool:
    """Tell whether every layer needs as many blocks as any other."""
    first = pages[0]
    if any(page.block_size != first.block_size for page in pages):
        return False
    if first.attention in _TOKENS_FOR_ALL:
        return all(page.attention in _TOKENS_FOR_ALL for page in pages)
    if first.attention is Attention.STATE:
        return all(
            page.attention is Attention.STATE and page.bytes == first.bytes for page in pages
        )
    return all(page.attention is first.attention and page.window == first.window for page in pages)


def _even_out(pages: tuple[Page, ...]) -> tuple[Page, ...]:
    """Make all pages as large as the largest: more tokens in a block, or padding."""
    largest = max(page.bytes for page in pages)
    return tuple(_enlarge(page, largest) for page in pages)


def _enlarge(page: Page, largest: int) -> Page:
    if page.bytes == largest:
        return page
    if page.attention is not Attention.STATE and largest % page.bytes == 0:
        return replace(page, block_size=page.block_size * (largest // page.bytes), bytes=largest)
    # A state cannot hold more tokens, other pages would not divide: the rest is padding.
    return replace(page, bytes=largest)


def _split(pages: tuple[Page, ...]) -> list[list[Page]]:
    """Split each kind into groups with equally many layers.

    The smallest kind says how many, or the largest when it is not much larger (fewer layers are
    padding then).
    """
    kinds: dict[tuple[object, ...], list[Page]] = {}
    for page in pages:
        kind = (page.attention, page.window, page.block_size, page.bytes, page.spec)
        kinds.setdefault(kind, []).append(page)
    counts = [len(members) for members in kinds.values()]
    size = max(counts) if max(counts) < min(counts) * _NOT_MUCH_LARGER else min(counts)
    groups: list[list[Page]] = []
    for members in kinds.values():
        number = -(-len(members) // size)
        # Every n-th layer, so that each pipeline stage holds some of every group.
        groups.extend(members[start::number] for start in range(number))
    return groups
