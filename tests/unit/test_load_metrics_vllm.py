"""The figures beside those of `vllm bench serve`, which sums up the same timeline.

Where definitions agree the figures do: mean and percentiles of TTFT, TPOT, E2EL and of the gaps
between chunks (its "ITL"), rates of the whole load, and goodput. `vllm_bench.json` is what vLLM
0.32.0 says; where PYTEST_VLLM_TEST_ALL is set it is asked again.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

from pytest_vllm.domain.load.measurement import Measurement, Slo
from pytest_vllm.domain.load.metrics import measure
from tests.data.load.vllm_bench import REQUESTS, SLO_MS, timeline
from tests.unit.load_columns import Row, load

HERE = Path(__file__).parents[1] / "data" / "load"
THEIRS = json.loads((HERE / "vllm_bench.json").read_text(encoding="utf-8"))


@cache
def ours() -> Measurement:
    rows = [Row(send=send, events=events) for send, events in timeline(1)]
    slo = Slo(ttft_ms=SLO_MS["ttft"], tpot_ms=SLO_MS["tpot"])
    return measure(*load(*rows, concurrency=1), slo=slo)


@pytest.mark.parametrize("name", list(THEIRS))
def test_figures_agree(name: str) -> None:
    assert ours().requests == REQUESTS
    assert ours().figures[name] == pytest.approx(THEIRS[name], rel=1e-9)


if os.environ.get("PYTEST_VLLM_TEST_ALL"):

    def test_that_is_what_vllm_says() -> None:
        python = os.environ["PYTEST_VLLM_TEST_PYTHON"]
        asked = [python, str(HERE / "vllm_bench.py")]
        told = subprocess.run(asked, capture_output=True, check=True, timeout=300).stdout
        assert json.loads(told) == pytest.approx(THEIRS)
