"""Runs of the suites against broken servers, many in little time.

Each run is a process of its own, and so is each server. They are forked from one process that has
imported the large libraries already, which halves what a run costs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import from_json
from pytest_vllm.plugin.marks import catalogue
from pytest_vllm.simulator.app import build_handler
from pytest_vllm.simulator.defects import break_handler, find_defects
from pytest_vllm.simulator.flaws import Flaws
from pytest_vllm.simulator.http import serve
from pytest_vllm.simulator.settings import SimulatorSettings
from pytest_vllm.simulator.upstream import forward_to

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection

    from pytest_vllm.domain.checks import Check
    from pytest_vllm.domain.record import RunRecord

ROOT = Path(__file__).parents[2]
SUITES = ROOT / "suites"
REAL_GOLDEN = ROOT / "pytest_vllm" / "data" / "goldens" / "SmolLM2-135M-Instruct.golden.json"
"""Numbers of the model that real vLLM serves here, by transformers in fp32."""
LIMIT_S = 300
"""Seconds for one run; a hanging server must end it long before."""
REQUEST_LIMIT_S = 10
"""Seconds for one request: more than any defect delays one, less than a hang."""
START_LIMIT_S = 60
PERFORMANCE = ROOT / "tests" / "data" / "performance"
"""Loads of seconds, and objectives that a sound simulator keeps on a busy host."""
SOAK_REQUESTS, SOAK_GROWTH_MIB = 150, 64
"""A short soak, and what may grow in it: the simulator takes a second for it and grows by 1 MiB."""

EVERYTHING = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
"""Whether this is `./dev nightly`: servers draw fresh numbers only there, so that what a check may
miss by chance shows there, and not as a failure of somebody's change."""

PATIENT = frozenset(
    {
        "abort-leaks",
        "aborts-slow",
        "generation-hangs",
        "health-slow",
        "load-slows-down",
        "load-stalls",
        "metrics-frozen",
        "refusal-slow",
        "slots-leak",
        "stream-stall",
    }
)
"""Defects whose runs wait for a slow or silent server nearly all of their time."""

TOKEN_MS = 1.0
LONG_TOKENS_MS = {"one-burst": 10.0}
"""Milliseconds of a token, where the share of a stream decides in which its events come: a burst
takes some on its way as well, and more where others have the core."""

_NEEDLESS = (
    "cacheprovider",
    "hypothesispytest",
    "syrupy",
    "unraisableexception",
    "xdist",
    "xdist.looponfail",
)
"""Plugins that cost time in each run and change no outcome."""
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    [
        "anyio.pytest_plugin",
        "docker",
        "httpcore",
        "rich.progress",
        "unittest",
        "pytest_vllm.adapters.ready",
        "pytest_vllm.plugin.acceptance",
        "pytest_vllm.plugin.client",
        "pytest_vllm.plugin.launch",
        "pytest_vllm.simulator.app",
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What came of a run.

    Attributes:
        code: Exit code of pytest.
        record: The run's record.
        log: What the run printed.
    """

    code: int
    record: RunRecord
    log: str

    def checks(self, *outcomes: Outcome) -> set[str]:
        """Return the IDs of the checks with a case of one of these outcomes."""
        return {result.check.id for result in self.record.results if result.outcome in outcomes}

    def complaints(self) -> list[str]:
        """Return a line for each case that neither passed nor was not applicable.

        What looks behind the API is not run on a server that a run only attaches to.
        """
        fine = (Outcome.PASS, Outcome.NOT_APPLICABLE)
        return [
            f"{result.outcome} {result.name}: {result.message}"
            for result in self.record.results
            if result.outcome not in fine
            and not (result.check.launched and result.outcome is Outcome.NOT_RUN)
        ]


@cache
def checks() -> tuple[Check, ...]:
    """Return all checks of the suites."""
    return catalogue(SUITES)


def claims(defect: str) -> tuple[Check, ...]:
    """Return the checks that claim to notice a defect."""
    return tuple(check for check in checks() if defect in check.catches)


def nodes(wanted: Sequence[Check]) -> list[str]:
    """Return the tests of checks, as pytest names them."""
    ids = {check.id for check in wanted}
    found = []
    for path in sorted(SUITES.glob("test_*.py")):
        pairs = re.findall(r'@check\(\s*"([^"]+)".*?\ndef (\w+)', path.read_text(), re.DOTALL)
        found += [f"{path}::{name}" for check_id, name in pairs if check_id in ids]
    assert len(found) == len(ids)
    return found


@contextmanager
def serving(defect: str | None, upstream: str | None = None) -> Iterator[str]:
    """Serve with a defect, or none, in a process of its own; give the URL.

    Args:
        defect: Name of the defect, `None` for none.
        upstream: URL of the server to stand in front of, `None` for the simulator.
    """
    ours, theirs = _FORKING.Pipe()
    process = _FORKING.Process(target=_serve, args=(theirs, defect, upstream), daemon=True)
    process.start()
    theirs.close()
    try:
        assert ours.poll(START_LIMIT_S), f"no server with {defect} after {START_LIMIT_S} s"
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()
        ours.close()


def record_golden(url: str, path: Path) -> None:
    """Record the golden of a healthy server with the verb that users have."""
    words = [sys.executable, "-m", "pytest_vllm", "golden", "record", f"--url={url}"]
    done = subprocess.run(
        [*words, f"--output={path}"], capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr


def accept(
    url: str,
    artifacts: Path,
    tests: Sequence[str] = (),
    *,
    golden: Path | None = None,
    compiled: Path | None = None,
    request_limit_s: int = 120,
    words: Sequence[str] = (),
) -> Acceptance:
    """Run the suites, or some of their tests, against a server.

    Args:
        url: The server.
        artifacts: Folder for the evidence.
        tests: The tests, none for all suites.
        golden: What the server is held against.
        compiled: Folder where runs share what they have compiled.
        request_limit_s: Seconds for one request.
        words: Further options.
    """
    artifacts.mkdir(parents=True, exist_ok=True)
    log = artifacts / "output.txt"
    words = [*tests, *words, f"--vllm-url={url}", f"--vllm-artifacts={artifacts}"]
    words += [f"--vllm-request-timeout={request_limit_s}", "--vllm-monitor=none"]
    words += [f"--vllm-soak-requests={SOAK_REQUESTS}", f"--vllm-soak-growth-host={SOAK_GROWTH_MIB}"]
    words += [f"--vllm-performance={PERFORMANCE / 'short.toml'}"]
    words += [f"--vllm-profile={PERFORMANCE / 'slo.toml'}"]
    if tests and not any("test_performance" in test for test in tests):
        words.append("-pno:benchmark")  # it costs time in each run
    # The plugin is imported before pytest could rewrite its asserts.
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "--tb=native"]
    words += [f"-pno:{name}" for name in _NEEDLESS]
    words += [f"--vllm-golden={golden}"] if golden is not None else []
    process = _FORKING.Process(target=_accept, args=(words, log, compiled), daemon=True)
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
    said = log.read_text(errors="replace") if log.exists() else ""
    records = sorted(artifacts.glob("*/run.json"))
    assert records, f"exit code {process.exitcode}: {said}"
    record = from_json(records[-1].read_text(), where="run.json")
    return Acceptance(code=process.exitcode or 0, record=record, log=said)


class Matrix:
    """Runs the checks that claim a defect against servers that have it, several at a time.

    Args:
        folder: Where the evidence of all runs goes.
        golden: Numbers of the healthy simulator.
    """

    def __init__(self, folder: Path, golden: Path) -> None:
        self._folder = folder
        self._golden = golden
        self._pool = ThreadPoolExecutor(max_workers=os.cpu_count())
        # Beside those that keep the cores busy, and not instead of one of them.
        self._patient = ThreadPoolExecutor(max_workers=2)
        # Some checks want a server that does nothing else, and there is one real server for all.
        self._in_front_of_real = ThreadPoolExecutor(max_workers=1)
        self._runs: dict[tuple[str, str], Future[Acceptance]] = {}

    def begin(self, defect: str, upstream: str | None) -> None:
        """Put a run in the queue."""
        here = self._patient if defect in PATIENT else self._pool
        pool = self._in_front_of_real if upstream else here
        run = pool.submit(self._run, defect, upstream)
        self._runs[defect, upstream or ""] = run

    def result(self, defect: str, upstream: str | None) -> Acceptance:
        """Wait for a run that was begun."""
        return self._runs[defect, upstream or ""].result()

    def close(self) -> None:
        """Forget the runs that have not begun."""
        for pool in (self._pool, self._patient, self._in_front_of_real):
            pool.shutdown(cancel_futures=True)

    def _run(self, defect: str, upstream: str | None) -> Acceptance:
        folder = self._folder / ("real" if upstream else "simulator") / defect
        wanted, compiled = nodes(claims(defect)), self._folder / "compiled"
        golden = REAL_GOLDEN if upstream else self._golden
        with serving(defect, upstream) as url:
            return accept(
                url,
                folder,
                wanted,
                golden=golden,
                compiled=compiled,
                request_limit_s=REQUEST_LIMIT_S,
            )


def _serve(connection: Connection, defect: str | None, upstream: str | None) -> None:
    defects = find_defects([defect] if defect else [])
    settings = SimulatorSettings(
        tool_call_parser="hermes",
        enable_prompt_tokens_details=True,
        enable_server_load_tracking=True,
        first_token_delay_ms=5.0,  # else no two requests would ever run together
        token_delay_ms=LONG_TOKENS_MS.get(defect or "", TOKEN_MS),
        sampling_seed=None if EVERYTHING else 0,
        flaws=Flaws(names=frozenset(found.flaw for found in defects if found.flaw)),
    )

    async def serve_for_ever() -> None:
        handler = forward_to(upstream) if upstream else build_handler(settings)
        server = await serve(break_handler(handler, defects), "127.0.0.1", 0)
        connection.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve_for_ever())


def _accept(words: list[str], log: Path, compiled: Path | None) -> None:
    if compiled is not None:
        sys.pycache_prefix = str(compiled)
        sys.dont_write_bytecode = False
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for name in ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER"):
        os.environ.pop(name, None)
    os.chdir(ROOT)
    code: Any = pytest.main(words)
    sys.exit(int(code))
