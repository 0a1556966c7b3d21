"""`pytest-vllm fit --gpus auto` reckons with what the real amdsmi sees on hosts of a stand-in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.cli import main
from tests.data.smi.standin import HOSTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.data.smi.standin import State

    Use = Callable[[str, str], State]

GIB = 2**30
NEWEST = "7.0.2"
NAMES = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


@pytest.fixture(name="fit")
def fixture_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Return what the verb prints as JSON, with its exit code."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def fit(*words: str) -> dict[str, Any]:
        code = main(["fit", "--json", "--monitor", "amd", *words])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return {**found, "code": code}

    return fit


def test_what_others_hold_is_not_free(use_smi: Use, fit: Any) -> None:
    state = use_smi(NEWEST, NEWEST)
    state.show(*HOSTS["MI300X x8"])
    state.change(3, used=int(27.22 * GIB))
    found = fit("deepseek-ai/DeepSeek-V3.1", "--", "-tp", "8", "--gpu-memory-utilization", "0.9")
    assert (found["code"], found["gate"]) == (1, "start-up check")
    free = [round(device["free_bytes"] / GIB, 2) for device in found["devices"]]
    assert sorted(free)[:2] == [164.76, 191.71]
    assert found["utilization_max"] == 0.858
    assert "8 devices as amd sees them now" in found["notes"]


def test_a_freer_device_is_named_with_the_variable_that_chooses_it(
    use_smi: Use, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = use_smi(NEWEST, NEWEST)
    state.show(*HOSTS["MI300X x8"])
    state.change(0, used=170 * GIB)
    state.change(2, used=100 * GIB)
    words = ("Qwen/Qwen3-8B", "--", "-tp", "2")
    told = "; with HIP_VISIBLE_DEVICES={} it has 191.71 on each"
    assert told.format("1,3") in "\n".join(fit(*words)["notes"])
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "2,4,6")
    assert told.format("4,6") in "\n".join(fit(*words)["notes"])
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "4,6,2")
    assert "HIP_VISIBLE_DEVICES=" not in "\n".join(fit(*words)["notes"])
    monkeypatch.delenv("HIP_VISIBLE_DEVICES")
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "0,5,6")
    assert told.format("1,2") in "\n".join(fit(*words)["notes"])
    free = ("Qwen/Qwen3-8B", "--free", "100GiB", "--", "-tp", "2")
    assert "HIP_VISIBLE_DEVICES=" not in "\n".join(fit(*free)["notes"])


def test_cards_of_two_dies_are_counted_by_their_dies(use_smi: Use, fit: Any) -> None:
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI250 x4"])
    found = fit("deepseek-ai/DeepSeek-V3.1", "--", "-tp", "8")
    assert (found["code"], found["gate"], len(found["devices"])) == (1, "weights", 8)


def test_partitions_are_never_added_up(use_smi: Use, fit: Any) -> None:
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI300X in CPX"])
    found = fit("deepseek-ai/deepseek-llm-67b-chat", "--", "-tp", "8")
    total = sum(device["total_bytes"] for device in found["devices"])
    assert total <= 206_141_652_992


def test_variables_hide_devices(
    use_smi: Use, fit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_smi(NEWEST, NEWEST).show(*HOSTS["MI300X x8"])
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "2,3")
    found = fit("Qwen/Qwen3-8B", "--", "-tp", "2")
    assert [device["bdf"] for device in found["devices"]] == ["0000:46:00.0", "0000:65:00.0"]
    assert "8 devices as amd sees them now, 6 of which variables hide" in found["notes"]
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "-1")
    assert main(["fit", "Qwen/Qwen3-8B", "--monitor", "amd"]) == 4
    assert "variables hide all 8 devices" in capsys.readouterr().err


def test_a_driver_that_is_not_loaded_is_told_with_the_cure(
    use_smi: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    use_smi(NEWEST, NEWEST).show(lines=("init=34",))
    assert main(["fit", "Qwen/Qwen3-8B", "--monitor", "amd"]) == 4
    told = capsys.readouterr().err
    assert "--gpus auto: no GPU is seen on this host (" in told
    assert "not loaded" in told
    assert "fix: name the GPUs to reckon with, such as --gpus MI300X:8" in told
