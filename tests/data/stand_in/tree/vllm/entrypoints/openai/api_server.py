"""Stands where vLLM's server module stands: the simulator, in the process tree of real vLLM.

The API server forks an engine, the engine a worker. As with vLLM 0.32 both write a title over
their arguments and environment, a multiprocessing resource tracker runs beside them, a socket and
a rendezvous file stay in the temporary folder, and a segment in `/dev/shm` goes only in an orderly
end. When the engine dies while serving, the server ends with exit code 0.

Variables of the environment, since vLLM's own flags are looked at before a start:

- `STAND_IN`: words of `TRAITS`, with commas between them.
- `STAND_IN_HELP`: `slow` lets the help take two minutes.
- `STAND_IN_TOKEN_MS`: time between two tokens, 30 where it is not set.
- `STAND_IN_BLOCKS`: KV cache blocks of 128 tokens, as a CPU has them; as many as all sequences can
  fill where it is not set.
- `STAND_IN_MARK`: a text that titles and segment carry, so that a test finds what it started.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import sys
import tempfile
import uuid
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.simulator.server import run
from pytest_vllm.simulator.settings import SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.simulator.wire import Handler

TRAITS = {
    "slow-start": "is not ready for a minute",
    "slow-stop": "needs three seconds for an orderly end",
    "stubborn": "no process listens to SIGTERM, and the worker leaves the session",
    "broken": "the engine fails while it loads",
    "cpu": "runs on a CPU and says so, with the weights of the model in its memory",
}
MARK = os.environ.get("STAND_IN_MARK", "unmarked")
_SLOW_START_S = 60.0
_SLOW_STOP_S = 3.0
_SLOW_HELP_S = 120.0
_BLOCKS = os.environ.get("STAND_IN_BLOCKS", "")
_CPU_BLOCK_SIZE = 128
_TOKEN_MS = float(os.environ.get("STAND_IN_TOKEN_MS", "30"))
_ARG_START, _ENV_END = 47, 50
"""Fields 48 and 51 of proc_pid_stat(5), counted from 0."""


def main(words: Sequence[str]) -> int:
    """Serve as `vllm serve` does; return the exit code."""
    parser = argparse.ArgumentParser(prog="vllm serve")
    parser.add_argument("--model", default="")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--revision", default="main")
    parser.add_argument("--seed", type=int, default=0)
    if os.environ.get("STAND_IN_HELP") == "slow" and any(w.startswith("--help") for w in words):
        signal.sigtimedwait((), _SLOW_HELP_S)
    args = parser.parse_args(words)
    traits = frozenset(filter(None, os.environ.get("STAND_IN", "").split(",")))
    if traits - TRAITS.keys():
        parser.error(f"STAND_IN: no such trait: {', '.join(traits - TRAITS.keys())}")
    if "stubborn" in traits:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    settings = SimulatorSettings(
        host=args.host,
        port=args.port,
        model=args.model,
        token_delay_ms=_TOKEN_MS,
        start_delay_s=_SLOW_START_S if traits & {"slow-start", "broken"} else 0.0,
        num_gpu_blocks=int(_BLOCKS) if _BLOCKS else None,
        # Enough sequences to fill all that it says it has.
        **({"block_size": _CPU_BLOCK_SIZE, "max_num_seqs": 32} if _BLOCKS else {}),
    )
    if "cpu" in traits:
        _say(
            f"INFO Initializing a V1 LLM engine (v{settings.version}) with config: "
            f"model={args.model!r}, device_config=cpu"
        )
    sys.stdout.flush()
    engine = os.fork()
    if engine == 0:
        os._exit(_engine(traits, weights=Path(args.model) if "cpu" in traits else None))
    try:
        return asyncio.run(_serve(settings, engine, traits))
    finally:
        os.kill(engine, signal.SIGTERM)
        os.waitpid(engine, 0)


async def _serve(settings: SimulatorSettings, engine: int, traits: frozenset[str]) -> int:
    """Serve until SIGTERM or until the engine is dead."""
    serving = asyncio.Event()
    loop = asyncio.get_running_loop()
    died = asyncio.Event()
    loop.add_reader(watched := os.pidfd_open(engine), died.set)

    def mark_serving(handler: Handler) -> Handler:
        serving.set()
        if "stubborn" in traits:
            loop.remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return handler

    server = asyncio.create_task(run(settings, mark_serving))
    death = asyncio.create_task(died.wait())
    await asyncio.wait({server, death}, return_when=asyncio.FIRST_COMPLETED)
    loop.remove_reader(watched)
    if server.done():
        return 0
    server.cancel()
    if not serving.is_set():
        _say("RuntimeError: Engine core initialization failed. See root cause above. {}")
        return 1
    _say("ERROR AsyncLLM output_handler failed.")
    _say("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.")
    return 0


def _engine(traits: frozenset[str], *, weights: Path | None) -> int:
    """Be the engine: leave what vLLM leaves, start a worker, and wait for SIGTERM."""
    held = [file.read_bytes() for file in weights.glob("*.safetensors")] if weights else []
    folder = Path(tempfile.gettempdir())
    (folder / f"vllm_dist_{uuid.uuid4().hex}").write_bytes(b"rendezvous")
    os.mknod(folder / str(uuid.uuid4()), 0o600 | 0o140000)  # the socket of a ZeroMQ pipe
    segment = SharedMemory(name=f"psm_{MARK}", create=True, size=4096)
    # Not earlier: starting the resource tracker lets both through again.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(writing)
        os._exit(_worker(reading, traits))
    os.close(reading)
    _be_called(f"VLLM::EngineCore up {MARK}")
    if "broken" in traits:
        print("(EngineCore pid=1) ValueError: the weights are broken", flush=True)
        segment.close()
        segment.unlink()
        return 1
    signal.sigwait({signal.SIGTERM} if "stubborn" not in traits else {signal.SIGUSR1})
    held.clear()
    _be_called(f"VLLM::EngineCore stopping {MARK}")
    if "slow-stop" in traits:
        signal.sigtimedwait({signal.SIGUSR1}, _SLOW_STOP_S)
    segment.close()
    segment.unlink()
    return 0


def _worker(parent: int, traits: frozenset[str]) -> int:
    """Be the worker: end when the engine does, as vLLM's do."""
    if "stubborn" in traits:
        os.setsid()  # what keeps its environment, and so can be found
    else:
        _be_called(f"VLLM::Worker {MARK}")
    os.read(parent, 1)
    return 0


def _be_called(title: str) -> None:
    """Write a title over the process's arguments and environment, as setproctitle does."""
    fields = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()
    start, end = int(fields[_ARG_START - 2]), int(fields[_ENV_END - 2])
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, title.encode(), len(title))


def _say(text: str) -> None:
    print(f"(APIServer pid={os.getpid()}) {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
