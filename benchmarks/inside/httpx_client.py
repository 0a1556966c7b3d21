"""httpx as its manual shows it: one AsyncClient, `aiter_lines`, each event parsed."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
from raw import body, job, save


async def main(work: dict) -> None:
    times = []
    numbers = iter(range(work["requests"]))
    now = time.perf_counter_ns
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=600, trust_env=False) as client:

        async def place() -> None:
            for number in numbers:
                events: list[int] = []
                sent = now()
                asked = body(number, work["tokens"])
                url = f"{work['url']}/v1/completions"
                async with client.stream("POST", url, json=asked) as reply:
                    reply.raise_for_status()
                    async for line in reply.aiter_lines():
                        if not line.startswith("data: ") or line == "data: [DONE]":
                            continue
                        choices = json.loads(line[6:])["choices"]
                        if choices and choices[0]["text"]:
                            events.append(now())
                times.append((number, sent, events))

        await asyncio.gather(*(place() for _ in range(work["streams"])))
    save(work["out"], times)


work = job()
asyncio.run(main(work))
