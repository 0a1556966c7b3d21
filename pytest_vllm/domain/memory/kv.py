"""The KV cache of one rank: groups, blocks, and what a request needs of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_vllm.domain.memory.shape import Attention


@dataclass(frozen=True, slots=True, kw_only=True)
class KvGroup:
    """Layers that share one table of blocks.

    Attributes:
        attention: Their kind.
        window: Tokens of their window or chunk, 0 for neither.
        layers: How many they are.
        page_bytes: One block of one of the layers.
    """

    attention: Attention
    window: int = 0
    layers: int
    page_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayout:
    """How the KV cache of one rank is laid out.

    Attributes:
        groups: The groups; all share one pool of blocks.
        block_size: Tokens of a block.
        bytes_per_block: What a block takes of the pool.
        bytes_per_token: What one token takes in all layers, without regard to windows.
        element_bytes: Bytes of an element of the cache.
    """

    groups: tuple[KvGroup, ...]
    block_size: int
    bytes_per_block: int
    bytes_per_token: int
    element_bytes: int
