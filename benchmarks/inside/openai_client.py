"""The openai SDK as its manual shows it: AsyncOpenAI and `async for` over the stream."""

from __future__ import annotations

import asyncio
import time

from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from raw import body, job, save


async def main(work: dict) -> None:
    times = []
    numbers = iter(range(work["requests"]))
    now = time.perf_counter_ns
    http = DefaultAsyncHttpxClient(trust_env=False, timeout=600)
    client = AsyncOpenAI(base_url=f"{work['url']}/v1", api_key="x", max_retries=0, http_client=http)

    async def place() -> None:
        for number in numbers:
            events: list[int] = []
            asked = body(number, work["tokens"])
            extra = {key: asked.pop(key) for key in ("ignore_eos", "stub_tag")}
            sent = now()
            stream = await client.completions.create(**asked, extra_body=extra)
            async for part in stream:
                if part.choices and part.choices[0].text:
                    events.append(now())
            times.append((number, sent, events))

    async with client:
        await asyncio.gather(*(place() for _ in range(work["streams"])))
    save(work["out"], times)


work = job()
asyncio.run(main(work))
