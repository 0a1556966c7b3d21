"""Stands where vLLM's server module stands: the simulator on GPUs that a stand-in of SMI shows.

What it logs and takes of the GPUs is in the JSON file `$STAND_IN_MEMORY`:

- `log`: lines that are printed before it serves
- `blocks`, `block_size`, `max_model_len`: its KV cache
- `taken`: state of SMI while it runs, written to `$SMI_STATE`; put back when it ends
- `keeps`: whether it leaves that state behind, as a driver that leaks does
- `defects`: of the simulator
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from functools import partial
from pathlib import Path

from pytest_vllm.simulator.defects import break_handler, find_defects
from pytest_vllm.simulator.server import run
from pytest_vllm.simulator.settings import SimulatorSettings


def main() -> None:
    """Take the GPUs, serve, and give them back."""
    parser = argparse.ArgumentParser(prog="vllm serve")
    parser.add_argument("--model", default="")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    args, _ = parser.parse_known_args()
    told = json.loads(Path(os.environ["STAND_IN_MEMORY"]).read_text("utf-8"))
    state = Path(os.environ["SMI_STATE"])
    before = state.read_text("utf-8")
    print("\n".join(told["log"]), flush=True)
    settings = SimulatorSettings(
        host=args.host,
        port=args.port,
        model=args.model,
        max_model_len=told["max_model_len"],
        num_gpu_blocks=told["blocks"],
        block_size=told["block_size"],
        max_num_seqs=16,
    )
    _show(state, told["taken"])
    try:
        defects = find_defects(told["defects"])
        asyncio.run(run(settings, partial(break_handler, defects=defects)))
    finally:
        if not told["keeps"]:
            _show(state, before)


def _show(state: Path, text: str) -> None:
    new = state.with_suffix(".server")
    new.write_text(text, encoding="utf-8")
    new.replace(state)


if __name__ == "__main__":
    main()
