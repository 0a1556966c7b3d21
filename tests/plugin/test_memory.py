"""The suite `memory` on a launched server: on GPUs that a stand-in of SMI shows, and without."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_vllm.adapters.gpus import probe
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.profile import Profile
from pytest_vllm.domain.record import RunRecord, from_json
from pytest_vllm.domain.server_facts import ServerFacts
from pytest_vllm.domain.settings import Sources, resolve
from pytest_vllm.domain.target import build_target
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.plugin.memory import ServerMemory
from pytest_vllm.plugin.state import RunState
from tests.data.smi.standin import HOSTS, MI300X, State, compile_library
from tests.unit.test_memory_view import server as make_server

DATA = Path(__file__).parents[1] / "data"
MODEL = "deepseek-ai--deepseek-llm-7b-base.json"
SUITE = Path(__file__).parents[2] / "suites" / "test_memory.py"
CONFIGS = Path(__file__).parents[2] / "pytest_vllm" / "data" / "models" / "configs"
GIB = 2**30
ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
SERVED = ("--vllm-serve-arg=--max-model-len=4096", "--vllm-serve-arg=--max-num-seqs=16")
ENGINE = (
    "INFO Initializing a V1 LLM engine (v0.32.0) with config: model='m', dtype=torch.bfloat16, "
    "max_seq_len=4096, device_config=cuda"
)
DESIRED = "on startup. Desired GPU memory utilization is (0.92, 176.62 GiB)."
PASS, FAIL = Outcome.PASS, Outcome.FAIL


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One MI300X in use by a server of a 7B model, as far as anybody can see.

    Attributes:
        folder: Of the test.
        state: What SMI shows.
        env: Variables of a run.
        forecast: What `pytest-vllm fit` expects of the launch.
    """

    folder: Path
    state: State
    env: dict[str, str]
    forecast: dict[str, Any]

    def run(self, told: dict[str, Any], *words: str) -> RunRecord:
        """Run the suite on a server that says and takes what it is told to."""
        (self.folder / "told.json").write_text(json.dumps(told))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short"]
        command += ["--vllm-backend=process", "--vllm-entrypoint=module", "--vllm-suite=memory"]
        command += [f"--vllm-model={self.folder / 'model'}", "--vllm-preflight-ignore=all"]
        command += ["--vllm-monitor=amd", "--vllm-soak-requests=60", *SERVED, *words]
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        found = sorted(self.folder.glob(".vllm/*/run.json"))
        assert found, done.stdout + done.stderr
        judged = from_json(found[-1].read_text(), where="run.json")
        assert judged.failure is None, done.stdout
        assert done.returncode == judged.verdict.decision.exit_code, done.stdout + done.stderr
        return judged

    def told(self, **changes: Any) -> dict[str, Any]:
        """Return what a sound server logs and takes, with changes."""
        weights = self.forecast["weights_bytes_per_rank"]
        values = {
            "weights": weights,
            "pool": self.forecast["kv_bytes_per_rank"],
            "blocks": self.forecast["blocks"],
            "used": int(self.forecast["requested_bytes"]) + GIB,
            "keeps": False,
            "defects": [],
        } | changes
        shown = State(self.folder / "taken")
        shown.show({**self.state.gpus[0], "used": values["used"]})
        free = self.state.gpus[0]["total"] - self.state.gpus[0]["used"]
        total = self.state.gpus[0]["total"]
        return {
            "log": [
                ENGINE,
                f"INFO Model loading took {values['weights'] / GIB:.2f} GiB memory and 3.1 seconds",
                f"INFO Available KV cache memory: {values['pool'] / GIB:.2f} GiB",
                f"INFO Free memory on device ({free / GIB:.2f}/{total / GIB:.2f} GiB) {DESIRED}",
            ],
            "blocks": values["blocks"],
            "block_size": 16,
            "max_model_len": 4096,
            "taken": shown.file.read_text(),
            "keeps": values["keeps"],
            "defects": values["defects"],
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Compile the library, show one idle MI300X, and ask what the launch is expected to take."""
    found = importlib.util.find_spec("amdsmi")
    assert found is not None
    assert found.submodule_search_locations
    wheel = Path(found.submodule_search_locations[0]).parent
    library = compile_library(wheel, tmp_path / "rocm", abi=70)
    state = State(tmp_path / "smi-state")
    state.show({"bdf": "0000:05:00.0", **MI300X, "hip": 0})
    env = {
        **os.environ,
        "PYTHONPATH": str(DATA / "memory" / "tree"),
        "ROCM_PATH": str(library),
        "SMI_STATE": str(state.file),
        "STAND_IN_MEMORY": str(tmp_path / "told.json"),
    }
    env.pop("ROCM_HOME", None)
    (tmp_path / "model").mkdir()
    known = json.loads((CONFIGS / MODEL).read_text(encoding="utf-8"))
    (tmp_path / "model" / "config.json").write_text(json.dumps(known["config"]))
    forecast = fit(tmp_path / "model", env)
    return Host(folder=tmp_path, state=state, env=env, forecast=forecast)


def fit(model: Path, env: dict[str, str]) -> dict[str, Any]:
    words = [sys.executable, "-m", "pytest_vllm", "fit", str(model), "--gpus=auto", "--json"]
    words += ["--", "--max-model-len=4096", "--max-num-seqs=16"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    forecast: dict[str, Any] = json.loads(done.stdout)
    return forecast


def outcomes(judged: RunRecord) -> dict[str, Outcome]:
    return {r.check.id: r.outcome for r in judged.results if r.check.suite == "memory"}


def messages(judged: RunRecord, check: str) -> str:
    return "\n".join(result.message for result in judged.results if result.check.id == check)


def test_a_sound_launch_is_as_forecast(host: Host) -> None:
    """Log, metrics, SMI and processes agree with the forecast before and after the stop."""
    judged = host.run(host.told())
    seen = outcomes(judged)
    moot = {
        "memory.use.of-other-gpus": "all GPUs of this host were handed over",
        "memory.kv-cache.is-real": "at most 16 requests of 4,096 tokens run at a time",
    }
    assert {name for name, outcome in seen.items() if outcome is PASS} == set(seen) - set(moot)
    for name, reason in moot.items():
        assert seen[name] is Outcome.NOT_APPLICABLE
        assert reason in messages(judged, name)
    assert judged.verdict.decision is Decision.PROMOTE


def test_what_is_not_as_forecast_is_rejected(host: Host) -> None:
    """Weights, blocks, use and a log that says other than the metrics: each is noticed."""
    told = host.told(
        weights=host.forecast["weights_bytes_per_rank"] + GIB // 2,
        blocks=host.forecast["blocks"] * 3 // 4,
        used=host.state.gpus[0]["total"],
        defects=["kv-cache-smaller-than-told"],
    )
    judged = host.run(told, "--vllm-soak-requests=0")
    wrong = {
        "memory.weights.as-forecast": "the log says 13.37 GiB, the forecast 12.87 GiB",
        "memory.kv-cache.log-and-metrics-agree": "in /metrics",
        "memory.kv-cache.fills-its-pool": "of blocks in a pool of",
        "memory.use.as-forecast": "GPU 0000:05:00.0: 191.98 GiB in use, at most",
        "memory.peak.within-the-budget": "GPU 0000:05:00.0: 191.98 GiB in use, at most",
    }
    seen = outcomes(judged)
    assert {name for name, outcome in seen.items() if outcome is FAIL} == set(wrong)
    for name, part in wrong.items():
        assert part in messages(judged, name)
    assert seen["memory.soak.no-growth"] is Outcome.NOT_RUN
    assert judged.verdict.decision is Decision.REJECT


def test_use_of_a_gpu_that_was_not_handed_over_is_told(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check itself, for no GPU can be chosen on a host without device nodes."""
    for name in ("ROCM_PATH", "SMI_STATE"):
        monkeypatch.setenv(name, host.env[name])
    host.state.show(*(dict(gpu) for gpu in HOSTS["MI300X x8"][:2]))
    options = {"backend": "process", "model": "/m", "gpus": "0", "monitor": "amd"}
    settings = resolve(Sources(options=options, env={}, ini={}), profile={}, profile_name="")
    with closing(probe("amd")) as monitor:
        state = RunState(
            target=build_target(settings, known_suites=()),
            profile=Profile(name=""),
            gpus=monitor.facts(),
            server_facts=ServerFacts(device="cuda"),
        )
    check = runpy.run_path(str(SUITE))["test_other_gpus"]
    with closing(ServerMemory(state, make_server())) as memory:
        host.state.change(0, used=64 * GIB)
        check(memory)
        host.state.change(1, used=4 * GIB)
        with pytest.raises(AssertionError, match="GPU 0000:26:00.0, not handed over: 3.72 GiB"):
            check(memory)


if ALL:  # the second waits for the two minutes that memory may take to come back

    def test_a_cache_and_a_use_that_are_too_small_are_rejected(host: Host) -> None:
        """A quarter of the forecast's blocks, and a GPU that cannot hold the weights."""
        told = host.told(blocks=host.forecast["blocks"] // 4, used=8 * GIB)
        judged = host.run(told, "-k", "not soak and not peak and not preemptions")
        seen = outcomes(judged)
        assert seen["memory.kv-cache.as-forecast"] is FAIL
        assert seen["memory.use.as-forecast"] is FAIL
        assert "which cannot hold weights and cache" in messages(judged, "memory.use.as-forecast")
        assert judged.verdict.decision is Decision.REJECT

    def test_memory_that_does_not_come_back_is_told(host: Host) -> None:
        """120 s after the stop the check says what is still in use; it is no fault of the image."""
        judged = host.run(host.told(keeps=True), "-k", "test_release or test_weights")
        assert outcomes(judged)["memory.release.after-stop"] is FAIL
        assert "more in use than before the launch" in messages(judged, "memory.release.after-stop")
        assert "SHOULD memory.release.after-stop" in " ".join(judged.verdict.reasons)
