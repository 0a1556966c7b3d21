"""Which blocks of prompts the KV cache still holds."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class PrefixCache:
    """Full blocks of earlier prompts, by the hash of all tokens up to their end.

    Args:
        block_size: Tokens of one block.
        capacity: Blocks that are kept; the one not used for longest goes first.
    """

    def __init__(self, block_size: int, capacity: int) -> None:
        self._block_size = block_size
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def admit(self, tokens: Sequence[int], salt: str | None) -> int:
        """Look a prompt up and keep its blocks.

        Args:
            tokens: The prompt.
            salt: Prompts of another salt share no blocks.

        Returns:
            How many of its first tokens were cached. The last token is always computed.
        """
        size, blocks = self._block_size, self._blocks
        usable = (len(tokens) - 1) // size
        cached, matching, key = 0, True, hash(salt)
        for index in range(len(tokens) // size):
            key = hash((key, *tokens[index * size : (index + 1) * size]))
            if key in blocks:
                blocks.move_to_end(key)
                if matching and index < usable:
                    cached += size
            else:
                matching = False
                blocks[key] = None
        while len(blocks) > self._capacity:
            blocks.popitem(last=False)
        return cached
