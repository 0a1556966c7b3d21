"""A server that wants to hurt its client ends in REJECT, within bounds of memory and time.

The runs go ahead of the tests, two at a time: each is one busy core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import from_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

SERVER = Path(__file__).parent.parent / "data" / "hostile.py"
MODES = (
    "endless-stream",
    "dripping-stream",
    "huge-body",
    "deep-json",
    "wide-json",
    "many-headers",
    "endless-headers",
    "html",
)
MOST_KIB = 300 * 1024
RUN = """
import re, sys, pytest
from pathlib import Path
code = pytest.main(sys.argv[1:])
status = Path("/proc/self/status").read_text()
Path("peak").write_text(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
sys.exit(code)
"""
# The parent cannot ask: what it would be told of its child includes its own size at the fork.
LIMIT_S = 240
"""Stops a test that would hang; the bound on time is the run ending at all, by its own limits."""


@contextmanager
def serving(mode: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(SERVER), mode], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def accept(mode: str, folder: Path) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    with serving(mode) as url:
        command = [sys.executable, "-c", RUN, f"--vllm-url={url}", "-p", "no:cacheprovider"]
        return subprocess.run(
            [*command, "--vllm-request-timeout=5"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, folder: Path
) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Begin the runs that the selected tests will ask for."""
    wanted = [
        str(item.callspec.params["mode"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield {mode: pool.submit(accept, mode, folder / mode) for mode in wanted}
        finally:
            pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_hostile_server_is_rejected_within_bounds(
    mode: str, folder: Path, runs: dict[str, Future[subprocess.CompletedProcess[str]]]
) -> None:
    """All suites run against it; memory stays under 300 MB, and its strings are only data."""
    done = runs[mode].result()
    text = done.stdout
    assert done.returncode == 1, text
    peak_kib = int((folder / mode / "peak").read_text())
    assert peak_kib < MOST_KIB, f"{peak_kib / 1024:.0f} MiB"
    (path,) = (folder / mode).glob(".vllm/*/run.json")
    record = from_json(path.read_text(), where="run.json")
    assert record.verdict.decision.value == "REJECT"
    assert any(result.outcome is Outcome.FAIL for result in record.results)
    assert "\x1b" not in text
    report = (path.parent / "report.md").read_text()
    kinds = {
        token.type for top in MarkdownIt().parse(report) for token in (top, *(top.children or ()))
    }
    assert not kinds & {"html_block", "html_inline"}
    ET.parse(path.parent / "junit.xml")  # noqa: S314 - our own file
