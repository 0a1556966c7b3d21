"""`pytest-vllm simulate`: serve the simulator, or break a real server from in front of it."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import HostError, TargetError, VllmError
from pytest_vllm.simulator.defects import DEFECTS, Where, break_handler, find_defects
from pytest_vllm.simulator.flaws import Flaws
from pytest_vllm.simulator.http import serve
from pytest_vllm.simulator.server import run
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
_VALUES = (
    ("--model", "model", str, "path or name of the model"),
    ("--version-told", "version", str, "version that /version tells"),
    ("--max-model-len", "max_model_len", int, "context length in tokens"),
    ("--max-num-seqs", "max_num_seqs", int, "sequences that run at once"),
    ("--block-size", "block_size", int, "tokens of a KV cache block"),
    ("--num-gpu-blocks", "num_gpu_blocks", int, "KV cache blocks"),
    ("--tool-call-parser", "tool_call_parser", str, "parser of tool calls; none refuses tools"),
    ("--api-key", "api_key", str, "key that /v1 asks for"),
    ("--first-token-delay-ms", "first_token_delay_ms", float, "least time of a prefill"),
    ("--token-delay-ms", "token_delay_ms", float, "least time between two tokens"),
    ("--jitter-ms", "jitter_ms", float, "most that is added to each delay"),
    ("--jitter-seed", "jitter_seed", int, "seed of the jitter"),
    ("--sampling-seed", "sampling_seed", int, "seed of what requests without one draw"),
    ("--start-delay-s", "start_delay_s", float, "time between launch and readiness"),
)
"""Option, field of `SimulatorSettings`, type, help."""
_SWITCHES = (
    ("--base", "chat_template", "store_false", "serve a base model, without a chat template"),
    ("--no-enable-prefix-caching", "enable_prefix_caching", "store_false", "keep no prompts"),
    (
        "--enable-prompt-tokens-details",
        "enable_prompt_tokens_details",
        "store_true",
        "tell cached tokens in the usage",
    ),
    (
        "--enable-server-load-tracking",
        "enable_server_load_tracking",
        "store_true",
        "let /load count requests",
    ),
    (
        "--enable-request-id-headers",
        "enable_request_id_headers",
        "store_true",
        "send X-Request-Id with replies",
    ),
    (
        "--answer-while-starting",
        "refuse_while_starting",
        "store_false",
        "say 503 until ready in place of refusing connections",
    ),
)
"""Option, field of `SimulatorSettings`, action, help."""


def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: Words after `pytest-vllm simulate`.

    Returns:
        0 after SIGINT or SIGTERM, else the exit code of the error.
    """
    options = vars(_parser().parse_args(words))
    if options.pop("list_defects"):
        print(list_defects())  # noqa: T201 - the verb's output
        return 0
    try:
        asyncio.run(_serve(**options))
    except VllmError as error:
        print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - for the terminal
        return error.exit_code
    return 0


def list_defects() -> str:
    """Return every defect on a line: name, where it sits, what is wrong."""
    width = max(map(len, DEFECTS))
    return "\n".join(
        f"{defect.name:{width}}  {defect.where:6}  {defect.summary}" for defect in DEFECTS.values()
    )


async def _serve(
    *, host: str, port: int, defect: list[str], upstream: str | None, **settings: Any
) -> None:
    defects = find_defects(defect)
    try:
        if upstream:
            await _stand_in_front(upstream, host, port, defects, given=settings)
        else:
            flaws = Flaws(names=frozenset(found.flaw for found in defects if found.flaw))
            served = tuple(settings.pop("served_model_name", ()))
            launch = SimulatorSettings(
                host=host, port=port, served_names=served, flaws=flaws, **settings
            )
            await run(launch, partial(break_handler, defects=defects))
    except OSError as error:
        raise HostError(
            f"cannot listen on {host}:{port} ({error})",
            advice="choose another --port; 0 takes any free one",
        ) from None


async def _stand_in_front(
    upstream: str, host: str, port: int, defects: Sequence[Defect], *, given: dict[str, Any]
) -> None:
    """Serve until SIGINT or SIGTERM what another server answers, broken."""
    inside = [defect.name for defect in defects if defect.where is Where.ENGINE]
    if inside:
        raise TargetError(
            f"--defect {inside[0]} sits in the simulator's engine and cannot be put in front of "
            f"{upstream}; leave --upstream out"
        )
    if given:
        option = next(iter(given)).replace("_", "-")
        raise TargetError(
            f"{option} is an option of the simulator, and --upstream names another server; "
            "leave one of them out"
        )
    try:
        forward = forward_to(upstream)
    except UpstreamError as error:
        raise TargetError(f"--upstream: {error}") from None
    try:
        await probe(upstream)
    except UpstreamError as error:
        raise HostError(f"--upstream: {error}", advice="start that server first") from None
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = await serve(break_handler(forward, defects), host, port)
    port = server.sockets[0].getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{port} stands in front of {upstream}", flush=True)  # noqa: T201
    await stop.wait()
    server.close()


def _port(text: str) -> int:
    """Read a port number.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if text.isascii() and text.isdigit() and int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to 65535")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-vllm simulate",
        description="Serve vLLM's API from a small model of its own, or from another server, "
        "sound or with defects.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=_port, default=8000, help="port, 0 for any free one (default: 8000)"
    )
    parser.add_argument(
        "--defect", action="append", default=[], metavar="NAME", help="break this; may be repeated"
    )
    parser.add_argument("--list-defects", action="store_true", help="show all defects and end")
    parser.add_argument("--upstream", metavar="URL", help="forward to this server")
    simulator = parser.add_argument_group("the simulator", argument_default=argparse.SUPPRESS)
    simulator.add_argument(
        "--served-model-name", nargs="+", metavar="NAME", help="names that requests use"
    )
    for option, field, kind, text in _VALUES:
        simulator.add_argument(option, dest=field, type=kind, help=text)
    for option, field, action, text in _SWITCHES:
        simulator.add_argument(option, dest=field, action=action, help=text)
    return parser
