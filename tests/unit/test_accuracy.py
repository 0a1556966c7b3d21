"""The forecast against what is known: logs of real GPUs, and the cases of the story."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tools.accuracy.gpus import loaded_bytes, logged, section
from tools.accuracy.lent import measured, weights
from tools.accuracy.story import cases

if TYPE_CHECKING:
    from pytest_vllm.domain.fit import Forecast

GIB = 2**30
LOGGED = [
    pytest.param(row, found, id=" ".join((row["model"], row["version"], *row.get("arguments", ()))))
    for row, found in logged()
]
CASES = [pytest.param(*case, id=case[0]["title"]) for case in cases()]
LENT = [pytest.param(case, id=case["case"]) for case in measured()]


@pytest.mark.parametrize(("row", "found"), LOGGED)
def test_weights_are_those_of_the_log(row: dict[str, Any], found: Forecast) -> None:
    """Within 1 %, or 0.1 GiB for small ranks: the log rounds; a row may name another bound."""
    told = row["weights_gib"] * GIB
    assert abs(loaded_bytes(found) - told) <= max(row.get("within", 0.01) * told, 0.1 * GIB)


@pytest.mark.parametrize(("row", "found"), [row for row in LOGGED if "kv_tokens" in row.values[0]])
def test_tokens_are_those_of_the_log(row: dict[str, Any], found: Forecast) -> None:
    assert abs(found.kv_tokens - row["kv_tokens"]) <= 0.03 * row["kv_tokens"]


@pytest.mark.parametrize(("case", "found"), CASES)
def test_the_story_ends_as_it_did(case: dict[str, Any], found: Forecast) -> None:
    assert (found.verdict, found.gate or "") == (case["verdict"], case.get("gate", "")), (
        found.reason
    )
    if "utilization_max" in case:
        assert found.utilization_max == case["utilization_max"]


def test_what_is_not_modelled_of_weights_quantized_at_loading_is_said() -> None:
    named = [found for row, found in logged() if "within" in row]
    assert [any("while it loads them" in note for note in found.notes) for found in named] == [True]
    page = " ".join(section())
    assert "with 1 row exempt: deepseek-llm-7b-base `--max-model-len=4096`" in page
    assert "(held to 5%)" in page
    others = [found for row, found in logged() if "within" not in row]
    assert not any("while it loads them" in note for found in others for note in found.notes)


@pytest.mark.parametrize("case", LENT)
def test_a_server_on_a_lent_gpu_was_foreseen(case: dict[str, Any]) -> None:
    """What was forecast there and then, before the launch, against the log of the server."""
    forecast, told = case["fit"]["document"], case["run"]["record"]["server_facts"]
    online = any(word.startswith("--quantization") for word in case["arguments"])
    loaded = told["weights_gib"] * GIB
    assert forecast["verdict"] == "FITS"
    assert abs(weights(forecast) - loaded) <= (0.05 if online else 0.011) * loaded
    assert abs(forecast["kv_tokens"] - told["kv_tokens"]) <= 0.03 * told["kv_tokens"]


def test_the_cases_of_the_lent_gpu_are_on_record() -> None:
    """Three models and two ways to 8 bits; else the test above would show nothing."""
    names = {case["case"] for case in measured()}
    assert names == {
        "deepseek-llm-7b",
        "deepseek-llm-7b-fp8",
        "deepseek-v2-lite",
        "llama-3.1-8b-fp8",
    }
