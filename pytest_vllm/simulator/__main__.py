"""`python -m pytest_vllm.simulator`: a healthy simulator with the options of `vllm serve`."""

from __future__ import annotations

import argparse
import asyncio

from pytest_vllm.simulator.flaws import Flaws
from pytest_vllm.simulator.server import run
from pytest_vllm.simulator.settings import SimulatorSettings


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m pytest_vllm.simulator")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="simulated/small-lm")
    parser.add_argument("--served-model-name", nargs="*", default=())
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--max-num-seqs", type=int, default=16)
    parser.add_argument("--tool-call-parser")
    parser.add_argument("--enable-prompt-tokens-details", action="store_true")
    parser.add_argument("--enable-server-load-tracking", action="store_true")
    parser.add_argument("--enable-request-id-headers", action="store_true")
    parser.add_argument("--base", action="store_true", help="a model without a chat template")
    parser.add_argument("--api-key")
    parser.add_argument("--token-delay-ms", type=float, default=1.0)
    parser.add_argument("--first-token-delay-ms", type=float, default=0.0)
    parser.add_argument("--start-delay-s", type=float, default=0.0)
    parser.add_argument("--flaw", action="append", default=[])
    options = parser.parse_args()
    settings = SimulatorSettings(
        host=options.host,
        port=options.port,
        model=options.model,
        served_names=tuple(options.served_model_name),
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        tool_call_parser=options.tool_call_parser,
        enable_prompt_tokens_details=options.enable_prompt_tokens_details,
        enable_server_load_tracking=options.enable_server_load_tracking,
        enable_request_id_headers=options.enable_request_id_headers,
        chat_template=not options.base,
        api_key=options.api_key,
        token_delay_ms=options.token_delay_ms,
        first_token_delay_ms=options.first_token_delay_ms,
        start_delay_s=options.start_delay_s,
        flaws=Flaws(names=frozenset(options.flaw)),
    )
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
