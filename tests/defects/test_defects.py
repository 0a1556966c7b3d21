"""The suites pass a healthy server behind a proxy and reject it with each defect."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import from_json
from pytest_vllm.domain.verdict import Decision
from tests.defects.catalogue import DEFECTS
from tests.defects.proxy import Defect, proxy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.record import RunRecord

ROOT = Path(__file__).parents[2]
SUITES = ROOT / "suites"


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
