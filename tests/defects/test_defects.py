"""The suites pass a healthy server behind a proxy and reject it with each defect."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import from_json
from pytest_vllm.domain.verdict import Decision
from tests.defects.catalogue import DEFECTS
from tests.defects.proxy import Defect, proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vllm.domain.record import RunRecord

ROOT = Path(__file__).parents[2]
SUITES = ROOT / "suites"
READY_S = 300


def needed(variable: str) -> str:
    """Return a variable that this module cannot do without: missing is a failure, never a skip."""
    value = os.environ.get(variable)
    if not value:
        pytest.fail(f"{variable} is not set; run these tests with ./dev test", pytrace=False)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            # The exit status is asked for with a time limit: that is the pause between two looks.
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()  # noqa: S310 - our URL
            except OSError:
                continue
            return
        pytest.fail(f"vLLM ended: {log.read_text()[-2000:]}", pytrace=False)
    pytest.fail(f"vLLM is not ready after {READY_S} s: {log.read_text()[-2000:]}", pytrace=False)


@pytest.fixture(scope="module")
def real_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real server for all defects."""
    python, model = needed("PYTEST_VLLM_TEST_PYTHON"), needed("PYTEST_VLLM_TEST_MODEL")
    port = free_port()
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16"]
    command += ["--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "16"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def accept(url: str, artifacts: Path, tests: Sequence[str] = ()) -> tuple[int, RunRecord]:
    """Run the suites, or some of their tests, against a server; give exit code and record."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        *tests,
        f"--vllm-url={url}",
        "-p",
        "no:cacheprovider",
    ]
    finished = subprocess.run(
        [*command, f"--vllm-artifacts={artifacts}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    records = sorted(artifacts.glob("*/run.json"))
    assert records, finished.stdout + finished.stderr
    return finished.returncode, from_json(records[-1].read_text(), where="run.json")


def nodes_of(check_ids: Sequence[str]) -> list[str]:
    """Find the tests of checks by their literal IDs."""
    nodes = []
    for path in sorted(SUITES.glob("test_*.py")):
        found = re.findall(r'@check\(\s*"([^"]+)".*?\ndef (\w+)', path.read_text(), re.DOTALL)
        nodes += [f"{path}::{name}" for check_id, name in found if check_id in check_ids]
    return nodes


def test_a_healthy_server_behind_the_proxy_is_promoted(real_vllm: str, tmp_path: Path) -> None:
    """The proxy by itself changes nothing that any check looks at."""
    with proxy(real_vllm, Defect(name="none", trips=())) as url:
        code, record = accept(url, tmp_path)
    bad = [
        f"{result.name}: {result.message}"
        for result in record.results
        if result.outcome not in (Outcome.PASS, Outcome.NOT_APPLICABLE)
    ]
    assert bad == []
    assert (code, record.verdict.decision) == (0, Decision.PROMOTE)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_is_rejected(real_vllm: str, tmp_path: Path, defect: Defect) -> None:
    """Each defect trips every check that is named for it, and the run ends in REJECT."""
    nodes = nodes_of(defect.trips)
    assert len(nodes) == len(defect.trips)
    with proxy(real_vllm, defect) as url:
        code, record = accept(url, tmp_path, nodes)
    failed = {r.check.id for r in record.results if r.outcome is Outcome.FAIL}
    assert failed == set(defect.trips)
    assert (code, record.verdict.decision) == (1, Decision.REJECT)
