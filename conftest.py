"""The real parts that tests run on: interpreters with vLLM, a model, images; never a stand-in.

`./dev test` makes them and names them in the environment. A missing one fails the test that needs
it; it is never skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.backends.port import lease_port

if TYPE_CHECKING:
    from collections.abc import Iterator

READY_S = 300
SLOWDOWN = Path(__file__).parent / "tests" / "data" / "slowdown"


def _named(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        pytest.fail(f"{variable} is not set; ./dev test makes and names the real parts")
    return value


@pytest.fixture(scope="session")
def real_vllm_python() -> str:
    """Interpreter that has vLLM 0.32."""
    return _named("PYTEST_VLLM_TEST_PYTHON")


@pytest.fixture(scope="session")
def real_vllm_python_030() -> str:
    """Interpreter that has vLLM 0.30."""
    return _named("PYTEST_VLLM_TEST_PYTHON_030")


@pytest.fixture(scope="session")
def real_model() -> str:
    """Folder of SmolLM2-135M-Instruct."""
    return _named("PYTEST_VLLM_TEST_MODEL")


@pytest.fixture(scope="session")
def real_image() -> str:
    """Image whose entrypoint is vLLM's server."""
    return _named("PYTEST_VLLM_TEST_IMAGE")


@pytest.fixture(scope="session")
def real_image_bash() -> str:
    """The same image with bash as its command and no entrypoint, like rocm/vllm."""
    return _named("PYTEST_VLLM_TEST_IMAGE_BASH")


@pytest.fixture(scope="session")
def real_vllm_slowdown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File that makes the shared server slower by the factor it holds; it is not there yet."""
    return tmp_path_factory.mktemp("slowdown") / "factor"


@pytest.fixture(scope="session")
def real_vllm(
    real_vllm_python: str,
    real_model: str,
    real_vllm_slowdown: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """URL of one real vLLM server that all tests share; they attach to it."""
    lease = lease_port("127.0.0.1")  # minutes pass until it listens, and other servers come and go
    url = f"http://127.0.0.1:{lease.port}"
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    command = [real_vllm_python, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", real_model, "--host", "127.0.0.1", "--port", str(lease.port)]
    command += ["--dtype", "bfloat16", "--enforce-eager"]
    command += ["--max-model-len", "2048", "--max-num-seqs", "16"]
    command += ["--middleware", "slowdown.Slowdown"]  # does nothing until its file is there
    slowdown = {"PYTHONPATH": str(SLOWDOWN), "SLOWDOWN_FILE": str(real_vllm_slowdown)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "TORCHDYNAMO_DISABLE": "1",
                **slowdown,
            },
            start_new_session=True,
        )
    try:
        _wait_until_healthy(url, process, log)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        lease.release()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            # The exit status is asked for with a time limit: that is the pause between two looks.
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
            except OSError:
                continue
            return
        pytest.fail(f"vLLM ended: {log.read_text()[-2000:]}", pytrace=False)
    pytest.fail(f"vLLM is not ready after {READY_S} s: {log.read_text()[-2000:]}", pytrace=False)
