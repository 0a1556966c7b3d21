"""The suite `performance` on real vLLM: a baseline, the same server again, and slowed down.

One server is all three, attached to: the middleware `tests/data/slowdown` passes everything on
untouched until a file says by what factor replies come later. Much is allowed here, because tests
share two cores with the server; what the gate finds on a quiet host is in
docs/regression-gate.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import RunRecord, from_json
from pytest_vllm.domain.verdict import Decision
from tests.real.whole_runs import told

if TYPE_CHECKING:
    import pytest

DATA = Path(__file__).parents[1] / "data" / "performance"
REGRESSION = "performance.regression"
FACTOR = "4.0"
ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))


def run(folder: Path, *words: str) -> tuple[RunRecord, str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += ["--vllm-suite=performance", "--vllm-monitor=none"]
    command += [f"--vllm-profile={DATA / 'shared.toml'}"]
    done = subprocess.run(
        [*command, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    found = sorted(folder.glob(".vllm/*/run.json"))
    assert found, told(done)
    judged = from_json(found[-1].read_text(), where="run.json")
    assert done.returncode == judged.verdict.decision.exit_code, told(done)
    return judged, told(done)


def outcome(judged: RunRecord, check: str) -> tuple[Outcome, str]:
    (result,) = [result for result in judged.results if result.check.id == check]
    return result.outcome, result.message


def test_a_slower_server_is_rejected_and_the_same_one_is_not(
    real_vllm: str, real_vllm_slowdown: Path, tmp_path: Path
) -> None:
    """A is the baseline and says so, B is not told worse, C, four times as slow, not promoted."""
    attach = (f"--vllm-url={real_vllm}", f"--vllm-performance={DATA / 'real.toml'}")
    base, said = run(tmp_path, *attach, f"--benchmark-json={tmp_path / 'benchmark.json'}")
    assert base.verdict.decision is Decision.PROMOTE, said
    first, why = outcome(base, REGRESSION)
    assert first is Outcome.NOT_APPLICABLE
    assert f"--vllm-baseline=.vllm/{base.run_id}" in why
    assert f"--vllm-baseline=.vllm/{base.run_id}" in " ".join(base.warnings)
    _has_figures(base, json.loads((tmp_path / "benchmark.json").read_text()))

    baseline = f"--vllm-baseline={tmp_path / '.vllm' / base.run_id}"
    same, said = run(tmp_path, *attach, baseline)
    assert _told(same) in (Outcome.PASS, Outcome.NOT_RUN), said
    assert same.verdict.decision is not Decision.REJECT, said

    real_vllm_slowdown.write_text(FACTOR)
    try:
        slowed, said = run(tmp_path, *attach, baseline)
    finally:
        real_vllm_slowdown.unlink()
    assert _told(slowed) in (Outcome.FAIL, Outcome.NOT_RUN), said
    assert slowed.verdict.decision is not Decision.PROMOTE, said
    assert slowed.comparison is not None
    assert slowed.comparison.metrics is not None
    ratios = {change.metric: change.ratio or 1.0 for change in slowed.comparison.metrics.changes}
    assert [*ratios] == ["output_tokens_per_s", "tpot_p50_ms", "ttft_p50_ms"]
    assert ratios["output_tokens_per_s"] < 0.6, said
    assert ratios["tpot_p50_ms"] > 1.6, said
    assert outcome(slowed, "performance.load.answered")[0] is Outcome.PASS, said


def _told(judged: RunRecord) -> Outcome:
    """Return what became of the comparison; `cannot tell` is an answer on a restless host.

    It is none where PYTEST_VLLM_TEST_ALL is set, for a host that has nothing else to do.
    """
    seen, why = outcome(judged, REGRESSION)
    if seen is Outcome.FAIL:
        assert why.startswith("worse: output_tokens_per_s -"), why
    if seen is Outcome.NOT_RUN:
        assert why.startswith("not run: cannot tell whether it is as fast"), why
        assert not ALL, why
    return seen


def _has_figures(base: RunRecord, benchmark: dict[str, Any]) -> None:
    """See that record and pytest-benchmark's file have the figures of each round."""
    (level,) = base.performance["levels"]
    assert [one["requests"] for one in level["rounds"]] == [level["requests"]] * 6
    assert all(one["output_tokens"] == 8 * level["requests"] for one in level["rounds"])
    assert base.performance["calibration"]["failed"] == 0
    (entry,) = benchmark["benchmarks"]
    assert entry["stats"]["rounds"] == 6
    figures = [one["figures"]["output_tokens_per_s"] for one in level["rounds"]]
    told = [one["output_tokens_per_s"] for one in entry["extra_info"]["vllm"]["rounds"]]
    assert told == figures
    assert benchmark["machine_info"]["vllm"]["version"].startswith("0.32")
    server = level["rounds"][0]["server"]["means"]["e2el"]
    assert 0 < server["server_ms"] <= server["client_ms"] + 5


if ALL:

    def test_smoke_in_a_container_promotes_and_says_what_it_measured(
        request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        """The profile that users get, launched on Docker, ends within its limit."""
        image, model = (request.getfixturevalue(name) for name in ("real_image", "real_model"))
        serve = "--enforce-eager --max-model-len=2048 --max-num-seqs=16 --dtype=bfloat16"
        judged, said = run(
            tmp_path,
            *(f"--vllm-image={image}", f"--vllm-model={model}", f"--vllm-serve-arg={serve}"),
            *("--vllm-env=VLLM_CPU_KVCACHE_SPACE=1", "--vllm-env=TORCHDYNAMO_DISABLE=1"),
            "--vllm-performance=smoke",
        )
        assert judged.verdict.decision is Decision.PROMOTE, said
        (level,) = judged.performance["levels"]
        assert len(level["rounds"]) >= 5
        assert judged.checks_s < 150
