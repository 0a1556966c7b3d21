"""A server that does to each request what its body says: `misbehaving.py`, port on stdout.

`{"do": NAME, "tag": N}` picks one of the functions below; `GET /log` tells when each token event of
the good replies was written, by tag, on the monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
END = b"0\r\n\r\n"
TOKENS = 6
PACE_S = 0.02
LOG: dict[int, list[int]] = {}
HUGE = 48 * 2**20


def chunk(text: str) -> bytes:
    data = text.encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(document: object) -> bytes:
    return chunk(f"data: {json.dumps(document)}\n\n")


def token(text: str = " word", finish: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return event({"id": "cmpl-1", "object": "text_completion", "choices": [choice]})


USAGE = event(
    {
        "id": "cmpl-1",
        "object": "text_completion",
        "choices": [],
        "usage": {"prompt_tokens": 3, "total_tokens": 3 + TOKENS, "completion_tokens": TOKENS},
    }
)
DONE = chunk("data: [DONE]\n\n")


class Doing:
    """What is done to a request, by name; `False` closes the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.tag = -1
        self.served = 0

    async def put(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hold(self) -> bool:
        """Say nothing more until the client has had enough."""
        await self.reader.read()
        return False

    async def tokens(self, number: int = TOKENS) -> None:
        await self.put(HEAD)
        for index in range(number):
            await asyncio.sleep(PACE_S)
            LOG.setdefault(self.tag, []).append(time.monotonic_ns())
            await self.put(token(finish="length" if index == TOKENS - 1 else None))

    async def good(self) -> bool:
        await self.tokens()
        await self.put(USAGE + DONE + END)
        return True

    async def good_then_close(self) -> bool:
        """A sound reply; the idle connection is closed after it without a word."""
        await self.good()
        return False

    async def close_when_used_again(self) -> bool:
        """Close the idle connection at the moment that the next request comes on it."""
        if self.served > 1:
            return False
        return await self.good()

    async def no_usage(self) -> bool:
        await self.tokens()
        await self.put(DONE + END)
        return True

    async def silent(self) -> bool:
        return await self.hold()

    async def queue(self) -> bool:
        """Take the request, and let it wait before its first token."""
        await self.put(HEAD + chunk(": in the queue\n\n"))
        return await self.hold()

    async def stall(self) -> bool:
        await self.tokens(3)
        return await self.hold()

    async def reset(self) -> bool:
        await self.tokens(3)
        await asyncio.sleep(PACE_S)
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        return False

    async def refuse(self) -> bool:
        body = json.dumps({"error": {"message": "overloaded", "code": 503}}).encode()
        head = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
        await self.put(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        return True

    async def refuse_endlessly(self) -> bool:
        """A refusal whose body has no end."""
        await self.put(b"HTTP/1.1 500 Oops\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            await self.put(b"no " * 20_000)

    async def drip(self) -> bool:
        await self.put(HEAD + b"fffffff\r\ndata: ")
        while True:
            await self.put(b"x")
            await asyncio.sleep(0.05)

    async def drip_comments(self) -> bool:
        await self.put(HEAD)
        while True:
            await self.put(chunk(": still here\n\n"))
            await asyncio.sleep(0.05)

    async def endless(self) -> bool:
        await self.put(HEAD)
        while True:
            await self.put(token() * 200)

    async def endless_line(self) -> bool:
        """One event that is longer than any reply may be."""
        await self.put(HEAD + b"%x\r\ndata: " % HUGE)
        for _ in range(HUGE // 2**16):
            await self.put(b"x" * 2**16)
        return await self.hold()

    async def cut_body(self) -> bool:
        """A sound end of the body, but no `[DONE]`."""
        await self.tokens(3)
        await self.put(END)
        return True

    async def cut_chunk(self) -> bool:
        await self.tokens(3)
        await self.put(token()[:-20])
        return False

    async def hang_up(self) -> bool:
        """Close without a word, also a fresh connection."""
        return False

    async def error_event(self) -> bool:
        await self.tokens(2)
        await self.put(event({"error": {"message": "EngineDeadError", "code": 500}}) + DONE + END)
        return True

    async def bad_json(self) -> bool:
        await self.tokens(2)
        await self.put(chunk('data: {"choices": [\n\n') + DONE + END)
        return True

    async def bad_chunk(self) -> bool:
        await self.tokens(2)
        await self.put(b"zz\r\nwhat\r\n")
        return await self.hold()

    async def garbage(self) -> bool:
        await self.put(bytes(range(256)) * 64)
        return await self.hold()

    async def huge_headers(self) -> bool:
        await self.put(b"HTTP/1.1 200 OK\r\n")
        for _ in range(2000):
            await self.put(b"x-padding: " + b"y" * 4000 + b"\r\n")
        return await self.hold()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    doing = Doing(reader, writer)
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
            if head.startswith(b"post /never-read"):
                await asyncio.Event().wait()
            body = await reader.readexactly(int(length or 0))
            if head.startswith(b"get /log"):
                told = json.dumps(LOG).encode()
                await doing.put(
                    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(told), told)
                )
                continue
            asked = json.loads(body)
            doing.tag, doing.served = asked["tag"], doing.served + 1
            if not await getattr(doing, asked["do"])():
                return
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
