"""The process backend with real vLLM: it serves, it dies of bad weights, and nothing is left."""

from __future__ import annotations

import os
import shutil
import urllib.request
from pathlib import Path

import pytest

from pytest_vllm.adapters.backends.process import ProcessBackend
from pytest_vllm.adapters.backends.session import describe_holder
from pytest_vllm.adapters.ready import wait_until_ready
from pytest_vllm.domain.errors import LaunchFailed
from pytest_vllm.domain.settings import Sources, resolve
from pytest_vllm.domain.target import Target, build_target

ARGS = "--enforce-eager --max-model-len=512 --max-num-seqs=4 --dtype=bfloat16"
ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))


def make_target(python: str, model: str) -> Target:
    options = {
        "backend": "process",
        "python": python,
        "model": model,
        "serve-arg": [ARGS],
        "env": ["VLLM_CPU_KVCACHE_SPACE=1"],
    }
    settings = resolve(Sources(options=options, env={}, ini={}), profile={}, profile_name="default")
    return build_target(settings, known_suites=())


if ALL:  # in CI test_run.py has a whole run of it, and test_failures.py truncated weights

    def test_real_vllm_serves_and_leaves_nothing(
        real_vllm_python: str, real_model: str, tmp_path: Path
    ) -> None:
        target = make_target(real_vllm_python, real_model)
        backend = ProcessBackend(target, tmp_path, "real-process")
        try:
            backend.launch()
            ready = wait_until_ready(backend, target, on_phase=lambda *_: None)
            assert ready.info.launch_model == ready.info.model == real_model
            assert ready.info.max_model_len == 512
            assert "chat" in ready.info.capabilities
            names = [phase.name for phase in ready.phases]
            assert names[:3] == ["start", "config", "load"]
            assert names[-3:] == ["api up", "ready", "first token"]
            with urllib.request.urlopen(f"{ready.info.url}/health", timeout=10) as reply:  # noqa: S310
                assert reply.status == 200
            assert backend._session is not None
            assert len(backend._session.members()) >= 3  # server, engine core, worker
        finally:
            backend.stop()
        port = int(str(backend.url).rpartition(":")[2])
        assert backend._session.members() == ()
        assert describe_holder(port) == ""
        status = backend.exit_status()
        assert status is not None

    def test_truncated_weights_are_named_as_soon_as_the_log_does(
        real_vllm_python: str, real_model: str, tmp_path: Path
    ) -> None:
        """The report does not wait for vLLM to end, which takes it many seconds more.

        How much time a busy host takes from the line to the report says nothing.
        """
        broken = tmp_path / "broken"
        shutil.copytree(real_model, broken, ignore=shutil.ignore_patterns("*.safetensors"))
        with (Path(real_model) / "model.safetensors").open("rb") as whole:
            (broken / "model.safetensors").write_bytes(whole.read(1_000_000))
        target = make_target(real_vllm_python, str(broken))
        backend = ProcessBackend(target, tmp_path, "real-truncated")
        try:
            backend.launch()
            with pytest.raises(LaunchFailed) as caught:
                wait_until_ready(backend, target, on_phase=lambda *_: None)
        finally:
            backend.stop()
        assert any("SafetensorError" in line.text for line in backend.log)
        error = caught.value
        assert error.exit_code_of_server is None
        assert error.diagnosis is not None
        assert error.diagnosis.ref == "H21"
        assert error.message.startswith(error.diagnosis.cause)
        assert error.phase == "load"
        assert backend._session is not None
        assert backend._session.members() == ()
