"""`pytest-vllm diagnose CONTAINER` reads log and state of containers that ended in real ways."""

from __future__ import annotations

import json
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEALTHY = "INFO:     Application startup complete."


class Engine:
    """Containers with names of their own, removed at the end."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.names: list[str] = []

    def run(self, *words: str, options: tuple[str, ...] = (), ends: bool = True) -> str:
        """Start a container, wait for its end and return its name."""
        name = f"pv-diagnose-{uuid.uuid4().hex[:8]}"
        self.names.append(name)
        command = ["docker", "run", "-d", "--init", "--name", name, *options, self.image, *words]
        subprocess.run(command, capture_output=True, check=False)
        if ends:
            subprocess.run(["docker", "wait", name], capture_output=True, check=False)
        return name

    def shell(self, script: str, *options: str, ends: bool = True) -> str:
        """Run a script in place of the server."""
        return self.run("-c", script, options=("--entrypoint", "sh", *options), ends=ends)


@pytest.fixture(name="engine")
def fixture_engine(real_image_bash: str) -> Iterator[Engine]:
    engine = Engine(real_image_bash)
    yield engine
    subprocess.run(["docker", "rm", "-f", *engine.names], capture_output=True, check=False)


@pytest.fixture(name="diagnose")
def fixture_diagnose(capsys: pytest.CaptureFixture[str]) -> Callable[[str], dict[str, Any]]:
    def diagnose(name: str) -> dict[str, Any]:
        assert main(["diagnose", name, "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    return diagnose


def test_a_shell_that_ended_at_once(engine: Engine, diagnose: Any) -> None:
    found = diagnose(engine.run())
    assert found["ref"] == "D16"
    assert "--vllm-entrypoint" in found["cure"]
    assert "the image says /bin/bash" in found["cure"] or "bash" in found["cure"]


def test_a_program_that_the_image_does_not_have(engine: Engine, diagnose: Any) -> None:
    """With an init it stands in the log, without it in the container's state."""
    inside = engine.run("serve", options=("--entrypoint", "no-such-program"))
    assert diagnose(inside)["ref"] == "D8"
    name = f"pv-diagnose-{uuid.uuid4().hex[:8]}"
    engine.names.append(name)
    command = ["docker", "run", "-d", "--name", name, "--entrypoint", "no-such", engine.image]
    subprocess.run(command, capture_output=True, check=False)
    found = diagnose(name)
    assert found["ref"] == "D8"
    assert found["evidence"][0]["line"] == 0, "what the engine says stands in no log"


def test_a_process_that_the_kernel_killed_for_memory(engine: Engine, diagnose: Any) -> None:
    script = "python3 -c 'print(len(bytearray(400 * 2**20)))'"
    found = diagnose(engine.shell(f"exec {script}", "--memory=64m", "--memory-swap=64m"))
    assert (found["ref"], found["class"]) == ("D17", "host")


def test_a_segmentation_fault(engine: Engine, diagnose: Any) -> None:
    found = diagnose(engine.shell("kill -SEGV $$"))
    assert (found["ref"], found["class"]) == ("D18", "host")


def test_a_cause_in_the_log_comes_before_the_exit_code(engine: Engine, diagnose: Any) -> None:
    found = diagnose(engine.shell("echo 'RuntimeError: No HIP GPUs are available' >&2; exit 1"))
    assert found["ref"] == "G1"
    assert [item["line"] for item in found["evidence"]] == [1]


def test_a_server_that_runs_or_was_stopped_is_well(engine: Engine, diagnose: Any) -> None:
    script = f"echo '{HEALTHY}'; trap 'echo \"INFO:     Shutting down\"; exit 0' TERM; "
    name = engine.shell(script + "echo up; while :; do sleep 0.1; done", ends=False)
    assert diagnose(name)["ref"] is None
    assert "no failure found" in diagnose(name)["cause"]
    subprocess.run(["docker", "stop", name], capture_output=True, check=True)
    assert "no failure found" in diagnose(name)["cause"]


def test_an_end_that_nobody_explains_is_unknown(engine: Engine, diagnose: Any) -> None:
    found = diagnose(engine.shell(f"echo '{HEALTHY}'; exit 3"))
    assert found["id"] is None
    assert "exit code 3" in found["cause"]


def test_warnings_about_how_a_container_was_started(engine: Engine, diagnose: Any) -> None:
    unsafe = (
        *("--privileged", "--network=host", "--env=HSA_OVERRIDE_GFX_VERSION=11.0.0"),
        *("--volume", "/var/run/docker.sock:/var/run/docker.sock"),
    )
    warnings = " ".join(diagnose(engine.shell("true", *unsafe))["warnings"])
    for word in ("privileged", "host's network", "docker.sock", "HSA_OVERRIDE_GFX_VERSION"):
        assert word in warnings
    assert diagnose(engine.shell("true"))["warnings"] == []


def test_a_container_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "pv-no-such-container"]) == 4
    assert "neither a file nor a container" in capsys.readouterr().err
