"""A real vLLM server whose model can be exchanged for a broken or a healthy variant of itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.real.mutants.figures import post

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.mutants.catalogue import Variant

INSIDE = Path(__file__).parent / "inside"
READY_S = 300
STOP_S = 30
ARGUMENTS = ("--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "16")


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantServer:
    """A server that runs, at `url`, under the model name `model`."""

    url: str
    model: str

    def become(self, variant: Variant) -> float:
        """Serve a variant from now on, with an empty KV cache; return the seconds it took."""
        began = time.monotonic()
        self._call("become_mutant", operations=json.dumps(variant.operations))
        if post(f"{self.url}/reset_prefix_cache", {}) != {"success": True}:
            raise RuntimeError("vLLM did not reset its prefix cache: a request is still running")
        return time.monotonic() - began

    def save(self, variant: Variant, folder: Path) -> None:
        """Write a variant whose faults are in the weights as a model folder."""
        self._call("save_mutant", operations=json.dumps(variant.operations), folder=str(folder))

    def _call(self, method: str, **arguments: str) -> Any:
        body = {"method": method, "kwargs": arguments}
        return post(f"{self.url}/collective_rpc", body)["results"]


@contextmanager
def serve(*, python: str, model: str, log: Path, dtype: str = "bfloat16") -> Iterator[MutantServer]:
    """Start a server and stop it at the end.

    Args:
        python: Interpreter that has vLLM.
        model: Folder of the clean model.
        log: File for what the server prints.
        dtype: `--dtype` of the server.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, *ARGUMENTS]
    command += ["--worker-extension-cls", "mutant_worker.MutantWorker"]
    settings = {
        "PYTHONPATH": str(INSIDE),
        "VLLM_SERVER_DEV_MODE": "1",  # offers /collective_rpc and /reset_prefix_cache
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "TORCHDYNAMO_DISABLE": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **settings},
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_healthy(url, process, log)
        yield MutantServer(url=url, model=model)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            # The exit status is asked for with a time limit: that is the pause between two looks.
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()  # noqa: S310 - ours
            except OSError:
                continue
            return
        raise RuntimeError(f"vLLM ended: {log.read_text()[-2000:]}")
    raise RuntimeError(f"vLLM is not ready after {READY_S} s: {log.read_text()[-2000:]}")
