"""Makes a server slower by a known factor: middleware for vLLM's `--middleware`.

    PYTHONPATH=tests/data/slowdown  vllm serve MODEL --middleware slowdown.Slowdown

What a reply sends `t` seconds after its request came goes out at `factor * t`: TTFT, TPOT and the
end all grow by the factor, and the rate of a closed loop falls by it. The factor of a request is
that of its header `x-slowdown`; without one that of the file which SLOWDOWN_FILE names, read for
each request, so that one server can be both sides of a comparison; without one SLOWDOWN_FACTOR;
without one 1, which passes all on untouched.

The engine runs on meanwhile: messages wait in a queue and hold up nothing behind them. A middleware
that slept in `send` would make vLLM join the tokens of several steps into one chunk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HEADER = b"x-slowdown"


class Slowdown:
    """Stretches the time of every reply to a POST.

    Args:
        app: What answers.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        factor = factor_of(dict(scope["headers"]).get(HEADER, b"").decode("latin-1"))
        if factor == 1.0:
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        begin = loop.time()
        waiting: asyncio.Queue[tuple[float, Message] | None] = asyncio.Queue()

        async def take(message: Message) -> None:
            waiting.put_nowait((begin + factor * (loop.time() - begin), message))

        async def deliver() -> None:
            while (due := await waiting.get()) is not None:
                await asyncio.sleep(max(0.0, due[0] - loop.time()))
                await send(due[1])

        delivery = asyncio.create_task(deliver())
        try:
            await self._app(scope, receive, take)
            waiting.put_nowait(None)
            await delivery
        finally:
            delivery.cancel()


def factor_of(header: str = "") -> float:
    """Return the factor that holds now.

    Raises:
        ValueError: It is no number from 1 up.
    """
    file = os.environ.get("SLOWDOWN_FILE", "")
    text = header
    if not text and file and Path(file).exists():
        text = Path(file).read_text("utf-8").strip()
    factor = float(text or os.environ.get("SLOWDOWN_FACTOR", "1"))
    if not 1.0 <= factor < float("inf"):
        raise ValueError(f"a slowdown is a factor from 1 up, not {text!r}")
    return factor
