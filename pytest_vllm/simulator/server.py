"""A simulated server from launch to end, with the lines that vLLM prints on its way."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_vllm.simulator.app import build_handler
from pytest_vllm.simulator.http import serve
from pytest_vllm.simulator.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.simulator.settings import SimulatorSettings
    from pytest_vllm.simulator.wire import Handler, Reply, Request


def identity(handler: Handler) -> Handler:
    """Return a handler as it is."""
    return handler


async def run(settings: SimulatorSettings, wrap: Callable[[Handler], Handler] = identity) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: The launch.
        wrap: Makes a broken handler out of the sound one.

    Raises:
        OSError: The port cannot be had.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    gate = _Gate()
    server: asyncio.Server | None = None
    if not settings.refuse_while_starting:
        server = await serve(gate, settings.host, settings.port)
    await _start(settings, stop)
    gate.handler = wrap(build_handler(settings))
    if server is None:
        server = await serve(gate, settings.host, settings.port)
    port = server.sockets[0].getsockname()[1]
    _say("api_server.py:520", f"Starting vLLM server on http://{settings.host}:{port}")
    _print(f"INFO:     Uvicorn running on http://{settings.host}:{port} (Press CTRL+C to quit)")
    _print("INFO:     Application startup complete.")
    async with server:
        await stop.wait()
        _print("INFO:     Shutting down")
    _print("INFO:     Application shutdown complete.")


class _Gate:
    """Answers 503 until there is a handler."""

    def __init__(self) -> None:
        self.handler: Handler | None = None

    async def __call__(self, request: Request) -> Reply:
        if self.handler is None:
            return Answer(status=503, headers={})
        return await self.handler(request)


async def _start(settings: SimulatorSettings, stop: asyncio.Event) -> None:
    """Print the phases of a launch, spread over its delay."""
    model, length = settings.model, settings.max_model_len
    size = settings.blocks * settings.block_size
    lines = (
        ("api_server.py:420", f"vLLM API server version {settings.version}"),
        ("utils.py:240", f"non-default args: {{'model': '{model}', 'max_model_len': {length}}}"),
        ("core.py:90", f"Initializing a V1 LLM engine (v{settings.version}) with config: {model}"),
        ("gpu_model_runner.py:3100", f"Starting to load model {model}..."),
        ("default_loader.py:262", "Loading weights took 0.02 seconds"),
        ("gpu_model_runner.py:3130", "Model loading took 0.0010 GiB and 0.030000 seconds"),
        ("kv_cache_utils.py:1090", f"GPU KV cache size: {size:,} tokens"),
        (
            "kv_cache_utils.py:1095",
            f"Maximum concurrency for {length:,} tokens per request: {size / length:.2f}x",
        ),
        ("gpu_model_runner.py:3700", "Graph capturing finished in 0 secs, took 0.00 GiB"),
        ("core.py:210", "init engine (profile, create kv cache, warmup model) took 0.01 seconds"),
    )
    for place, text in lines:
        _say(place, text)
        if settings.start_delay_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), settings.start_delay_s / len(lines))


def _say(place: str, text: str) -> None:
    _print(f"INFO {time.strftime('%m-%d %H:%M:%S')} [{place}] {text}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
