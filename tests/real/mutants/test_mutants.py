"""The content suite catches numerical faults of a real vLLM, and passes the healthy model.

One server start; vLLM's own loader exchanges the weights. All mutants and their figures are in
docs/mutants.md, which the nightly run writes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.mutants.catalogue import VARIANTS
from tests.real.mutants.figures import measure
from tests.real.mutants.judging import QUICK, judge, record_golden
from tests.real.mutants.serving import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.mutants.serving import MutantServer

WITHOUT_GOLDEN = (
    "layer-middle-dropped",
    "heads-permuted",
    "fp8-scale-x1.1",
    "tp2-no-all-reduce",
    "noise-10",
    "nan-weight",
)
ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
SHIPPED = Path(__file__).parents[3] / "pytest_vllm/data/goldens/SmolLM2-135M-Instruct.golden.json"
ONLY_WITH_GOLDEN = ("rope-theta-x0.5", "head-lost", "noise-2")


@pytest.fixture(scope="module")
def server(
    real_vllm_python: str, real_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MutantServer]:
    log = tmp_path_factory.mktemp("mutants") / "server.log"
    with serve(python=real_vllm_python, model=real_model, log=log) as served:
        yield served


@pytest.fixture(scope="module")
def golden(server: MutantServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record a golden; CI takes the shipped one, since test_golden records there."""
    if not ALL:
        return SHIPPED
    server.become(VARIANTS["bf16"])
    path = tmp_path_factory.mktemp("golden") / "golden.json"
    record_golden(server.url, path)
    return path


def test_the_healthy_model_is_promoted_after_a_mutant(
    server: MutantServer, golden: Path, tmp_path: Path
) -> None:
    """The way back is exact, so that no mutant is judged with another's faults."""
    server.become(VARIANTS["bf16"])
    clean = measure(server.url, server.model)
    for name in ("nan-weight", "rope-off"):
        server.become(VARIANTS[name])
        assert measure(server.url, server.model) != clean
        server.become(VARIANTS["bf16"])
        assert measure(server.url, server.model) == clean
    judged = judge(server.url, tmp_path, golden=golden, select=QUICK)
    assert judged.failed == {}
    assert judged.decision == "PROMOTE"
    assert any(name.startswith("golden.") for name in judged.passed)


@pytest.mark.parametrize("name", WITHOUT_GOLDEN)
def test_a_gross_fault_is_rejected_without_a_golden(
    server: MutantServer, name: str, tmp_path: Path
) -> None:
    server.become(VARIANTS[name])
    judged = judge(server.url, tmp_path, golden=None, select=QUICK)
    assert judged.tier0 != ()
    assert judged.decision == "REJECT"


@pytest.mark.parametrize("name", ONLY_WITH_GOLDEN)
def test_a_small_fault_is_rejected_by_the_golden(
    server: MutantServer, golden: Path, name: str, tmp_path: Path
) -> None:
    server.become(VARIANTS[name])
    judged = judge(server.url, tmp_path, golden=golden, select="test_texts")
    assert judged.tier1 != ()
    assert judged.decision == "REJECT"
