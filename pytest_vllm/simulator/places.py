"""Places in the batch: who runs, and who waits for a place."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class Places:
    """Places of running sequences; those that wait are let in in their order.

    Args:
        limit: How many run at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.taken = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def take(self) -> None:
        """Wait for a place and take it."""
        if self.taken < self._limit and not self._waiting:
            self.taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()
            else:
                with suppress(ValueError):
                    self._waiting.remove(turn)
            raise

    def give(self) -> None:
        """Hand a place on to the one that waits longest, or free it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.taken -= 1
