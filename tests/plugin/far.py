"""A network in front of a server: each byte takes its time, in both directions."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 65_536


@contextmanager
def far_away(url: str, *, one_way_s: float) -> Iterator[str]:
    """Pass connections on to a server, each chunk as much later as the network takes.

    Args:
        url: Root of the server.
        one_way_s: Seconds from client to server, and as many back.

    Yields:
        Root of the same server, from far away.
    """
    loop = asyncio.new_event_loop()
    named = urlsplit(url)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(named.hostname, named.port)
        await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                chunk = await reader.read(_CHUNK)
            except ConnectionError:
                chunk = b""
            loop.call_later(one_way_s, writer.write if chunk else lambda _: writer.close(), chunk)
            if not chunk:
                return

    listens = loop.run_until_complete(asyncio.start_server(connect, "127.0.0.1", 0))
    port = listens.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        listens.close()
        loop.close()
