"""`pytest-vllm simulate`: serve the simulator, or break a real server from in front of it."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import HostError, TargetError, VllmError
from pytest_vllm.simulator.defects import DEFECTS, Where, break_handler, find_defects
from pytest_vllm.simulator.flaws import Flaws
from pytest_vllm.simulator.http import serve
from pytest_vllm.simulator.launch import launch
from pytest_vllm.simulator.settings import SimulatorSettings
from pytest_vllm.simulator.upstream import UpstreamError, forward_to, probe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.simulator.defects import Defect

_EPILOG = """\
examples:
  pytest-vllm simulate --port 8000
  pytest-vllm simulate --port 0 --defect chunk-dropped --defect seed-ignored
  pytest-vllm simulate --port 8001 --upstream http://127.0.0.1:8000 --defect chunk-dropped
"""
_SETTINGS = (
    ("model", str, "path or name of the model"),
    ("served-model-name", str, "name that requests use; may be repeated"),
    ("version", str, "version that /version tells"),
    ("max-model-len", int, "context length in tokens"),
    ("max-num-seqs", int, "sequences that run at once"),
    ("block-size", int, "tokens of a KV cache block"),
    ("num-gpu-blocks", int, "KV cache blocks"),
    ("tool-call-parser", str, "name of the tool parser; without it tools are refused"),
    ("api-key", str, "key that /v1 asks for"),
    ("first-token-delay-ms", float, "least time of a prefill"),
    ("token-delay-ms", float, "least time between two tokens"),
    ("jitter-ms", float, "most that is added to each delay"),
    ("jitter-seed", int, "seed of the jitter"),
    ("start-delay-s", float, "time until the server is ready"),
)
"""Option without dashes, type, help; the field of `SimulatorSettings` has the same name."""
_SWITCHES = (
    ("base-model", {"chat_template": False}, "serve a base model: no chat template"),
    ("no-prefix-caching", {"enable_prefix_caching": False}, "keep no blocks of prompts"),
    (
        "enable-prompt-tokens-details",
        {"enable_prompt_tokens_details": True},
        "tell cached tokens in the usage",
    ),
    ("enable-server-load-tracking", {"enable_server_load_tracking": True}, "let /load count"),
    (
        "enable-request-id-headers",
        {"enable_request_id_headers": True},
        "send X-Request-Id with replies",
    ),
    (
        "answer-while-starting",
        {"refuse_while_starting": False},
        "say 503 until ready instead of refusing connections",
    ),
)


def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: Words after `pytest-vllm simulate`.

    Returns:
        0 after SIGINT or SIGTERM, else the exit code of the error.
    """
    options = _parser().parse_args(words)
    if options.list_defects:
        print(list_defects())  # noqa: T201 - the verb's output
        return 0
    try:
        return asyncio.run(_serve(options))
    except VllmError as error:
        print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - for the terminal
        return error.exit_code


def list_defects() -> str:
    """Return every defect on a line: name, where, what is wrong."""
    width = max(len(name) for name in DEFECTS)
    return "\n".join(
        f"{defect.name:{width}}  {defect.where:6}  {defect.summary}" for defect in DEFECTS.values()
    )


async def _serve(options: argparse.Namespace) -> int:
    defects = find_defects(options.defect)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if options.upstream:
        handler = await _forwarder(options, defects)
    else:
        handler = build_handler(_settings(options, defects))
    try:
        server = await serve(break_handler(handler, defects), options.host, options.port)
    except OSError as error:
        raise HostError(
            f"cannot listen on {options.host}:{options.port} ({error})",
            advice="choose another --port; 0 takes any free one",
        ) from None
    port = server.sockets[0].getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"http://{host}:{port}", flush=True)  # noqa: T201 - the verb's output
    await stop.wait()
    server.close()
    return 0
