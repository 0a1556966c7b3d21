"""The suites promote healthy servers and reject each defect.

On the simulator, which has every capability and a model that shows everything, each check that
claims a defect must fail. In front of real vLLM, whose small model does not show every sampling
fault in a few tokens and which has no tool parser, at least one of them must; the verdict is REJECT
in both. A run sends only the checks that claim the defect: a failed MUST check rejects whatever
the others come to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.simulator.defects import DEFECTS, Where
from tests.defects.acceptance import (
    EVERYTHING,
    Matrix,
    accept,
    checks,
    claims,
    record_golden,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ABSENT = {"tools", "base"}
"""Capabilities that the real server of the tests lacks."""

REPORTED = {
    "default-temperature-zero": "a model's generation_config may ask for it",
    "logprobs-processed": "--logprobs-mode may ask for it",
    "metrics-cache-info-missing": "no client needs it",
    "load-histogram-lies": "it misleads who watches the server, and nobody whom it serves",
}
"""Defects that a sound server may show, and why: noticed by SHOULD checks, not rejected."""

EXPRESSIBLE = [
    name
    for name, defect in DEFECTS.items()
    if defect.where is Where.WIRE
    and name not in REPORTED
    and any(not ABSENT & set(check.needs) for check in claims(name))
]
ON_REAL = EXPRESSIBLE[:: 1 if EVERYTHING else 12]
"""What stands in front of real vLLM: a twelfth of them in CI, all of them in `./dev nightly`."""


@pytest.fixture(scope="session")
def matrix(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Matrix]:
    """All runs that the selected tests will ask for, begun in their order."""
    folder = tmp_path_factory.mktemp("matrix")
    with serving(None) as url:
        record_golden(url, folder / "golden.json")
    runs = Matrix(folder, folder / "golden.json")
    for item in request.session.items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("defect")
        if item.function is test_a_defect_of_the_simulator_is_rejected:
            runs.begin(name, None)
        elif item.function is test_a_defect_in_front_of_real_vllm_is_rejected:
            runs.begin(name, request.getfixturevalue("real_vllm"))
    yield runs
    runs.close()


def test_every_defect_is_claimed() -> None:
    """Each defect is claimed by a check that can reject, and only known defects are claimed."""
    claimed = {name for check in checks() for name in check.catches}
    musts = {name for check in checks() if check.level is Level.MUST for name in check.catches}
    assert claimed - set(DEFECTS) == set()
    assert {name for name in DEFECTS if name not in musts} == set(REPORTED)
    assert [name for name in REPORTED if name not in claimed] == []


def test_the_healthy_simulator_is_promoted(tmp_path: Path) -> None:
    """All suites pass on the sound simulator."""
    with serving(None) as url:
        run = accept(url, tmp_path)
    assert run.complaints() == []
    assert (run.code, run.record.verdict.decision) == (0, Decision.PROMOTE)


def test_healthy_vllm_behind_the_proxy_is_promoted(real_vllm: str, tmp_path: Path) -> None:
    """The proxy by itself changes nothing that any check looks at (CI: those it could change)."""
    with serving(None, real_vllm) as url:
        run = accept(
            url, tmp_path, words=() if EVERYTHING else ("--vllm-suite=chat,stream,errors",)
        )
    assert run.complaints() == []
    assert (run.code, run.record.verdict.decision) == (0, Decision.PROMOTE)


@pytest.mark.parametrize("defect", list(DEFECTS))
def test_a_defect_of_the_simulator_is_rejected(matrix: Matrix, defect: str) -> None:
    """Every check that claims the defect fails, and the run ends in REJECT."""
    run = matrix.result(defect, None)
    missed = {check.id for check in claims(defect)} - run.checks(Outcome.FAIL)
    assert missed == set(), run.log
    if defect not in REPORTED:
        assert (run.code, run.record.verdict.decision) == (1, Decision.REJECT), run.log


@pytest.mark.parametrize("defect", ON_REAL)
def test_a_defect_in_front_of_real_vllm_is_rejected(
    matrix: Matrix, real_vllm: str, defect: str
) -> None:
    """A check that claims the defect fails, and the run ends in REJECT."""
    run = matrix.result(defect, real_vllm)
    assert run.checks(Outcome.FAIL) != set(), run.log
    assert (run.code, run.record.verdict.decision) == (1, Decision.REJECT), run.log
