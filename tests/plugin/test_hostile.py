"""A server that wants to hurt its client ends in REJECT, within bounds of memory and time."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import from_json

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(SERVER), request.param], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("server", MODES, indirect=True)
def test_a_hostile_server_is_rejected_within_bounds(server: str, tmp_path: Path) -> None:
    """All suites run against it; memory stays under 300 MB, and its strings are only data."""
    command = [sys.executable, "-c", RUN, f"--vllm-url={server}", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--vllm-request-timeout=5"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    text = done.stdout
    assert done.returncode == 1, text
    peak_kib = int((tmp_path / "peak").read_text())
    assert peak_kib < MOST_KIB, f"{peak_kib / 1024:.0f} MiB"
    (path,) = tmp_path.glob(".vllm/*/run.json")
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
