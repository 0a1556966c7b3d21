"""Server-sent events: reading one, changing one, and a stream that tells when it ends."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

DONE = "data: [DONE]"
"""The event that ends a stream of completions or chat."""


def data_of(event: str) -> dict[str, Any] | None:
    """Return the JSON object of an event, `None` when its data is something else."""
    for line in event.split("\n"):
        if line.startswith("data:"):
            try:
                document = json.loads(line.removeprefix("data:"))
            except (ValueError, RecursionError):
                return None
            return document if isinstance(document, dict) else None
    return None


def with_data(event: str, document: Any) -> str:
    """Return the event with another JSON as its data; its other lines stay."""
    data = f"data: {json.dumps(document, ensure_ascii=False)}"
    return "\n".join(data if line.startswith("data:") else line for line in event.split("\n"))


def event_of(document: Any) -> str:
    """Return a nameless event with a JSON as its data."""
    return f"data: {json.dumps(document, ensure_ascii=False)}"


async def close(events: AsyncIterator[str]) -> None:
    """Close a stream if its kind can be closed."""
    if isinstance(events, (AsyncGenerator, Events)):
        await events.aclose()


class Events:
    """Events with something to do at their end, however it comes.

    A generator's own `finally` would not run when the stream is closed before its first event.

    Args:
        events: The events.
        ending: Called once: after the last event, an error, or the closing; told whether the
            stream came to its end by itself.
        source: A stream that `events` is made of, to be closed with it.
    """

    def __init__(
        self,
        events: AsyncIterator[str],
        *,
        ending: Callable[[bool], None] | None = None,
        source: AsyncIterator[str] | None = None,
    ) -> None:
        self._events = events
        self._ending = ending
        self._source = source
        self._ended = False

    def __aiter__(self) -> Events:
        """Return itself."""
        return self

    async def __anext__(self) -> str:
        """Return the next event; the end of all is told on."""
        try:
            return await anext(self._events)
        except StopAsyncIteration:
            await self._end(complete=True)
            raise
        except BaseException:
            await self._end(complete=False)
            raise

    async def aclose(self) -> None:
        """Close the stream and whatever it is made of."""
        await self._end(complete=False)

    async def _end(self, *, complete: bool) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            await close(self._events)
            if self._source is not None:
                await close(self._source)
        finally:
            if self._ending is not None:
                self._ending(complete)
