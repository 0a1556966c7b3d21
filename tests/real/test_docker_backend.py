"""The docker backend with a real engine and real vLLM: it serves, it dies, and nothing is left."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.backends import plan as plan_module
from pytest_vllm.adapters.backends.device import choose_devices
from pytest_vllm.adapters.backends.docker import DockerBackend, command_line
from pytest_vllm.adapters.backends.session import describe_holder
from pytest_vllm.adapters.ready import wait_until_ready
from pytest_vllm.domain.errors import HostError, LaunchFailed
from pytest_vllm.domain.settings import Sources, resolve
from pytest_vllm.domain.target import Target, build_target

if TYPE_CHECKING:
    from collections.abc import Iterator

ARGS = "--enforce-eager --max-model-len=512 --max-num-seqs=4 --dtype=bfloat16"
ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
REPORT_S = 5.0
"""Pauses between the line that leaves no hope and the report."""


def make_target(image: str, model: str, *args: str, **options: object) -> Target:
    names = {
        "image": image,
        "model": model,
        "serve-arg": [ARGS, *args],
        "env": ["VLLM_CPU_KVCACHE_SPACE=1"],
        **{key.replace("_", "-"): value for key, value in options.items()},
    }
    settings = resolve(Sources(options=names, env={}, ini={}), profile={}, profile_name="default")
    return build_target(settings, known_suites=())


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def left_of(run_id: str) -> list[str]:
    """List containers and networks of a run."""
    mine = f"label=com.docker.compose.project=pv-{run_id}"
    containers = docker("ps", "-aq", "--filter", mine).split()
    return containers + docker("network", "ls", "-q", "--filter", mine).split()


@pytest.fixture
def run_id() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A folder whose name a shell would misread."""
    folder = tmp_path / "it's $HOME `id` now"
    folder.mkdir()
    return folder


@pytest.fixture
def clean_up(run_id: str) -> Iterator[None]:
    """Make sure that a test that fails leaves nothing either."""
    yield
    for container in docker("ps", "-aq", "--filter", f"label=pytest-vllm.run={run_id}").split():
        docker("rm", "-f", container)


if ALL:  # in CI a run of test_run_ends.py has such an image

    @pytest.mark.usefixtures("clean_up")
    def test_an_image_that_starts_bash_serves_and_leaves_nothing(
        real_image_bash: str, real_model: str, workdir: Path, run_id: str, capfd: Any
    ) -> None:
        target = make_target(real_image_bash, real_model)
        backend = DockerBackend(target, workdir, run_id)
        try:
            backend.launch()
            ready = wait_until_ready(backend, target, on_phase=lambda *_: None)
            facts = json.loads(json.dumps(backend.facts()))
            assert ready.info.model == ready.info.launch_model == f"/models/{Path(real_model).name}"
            assert "chat" in ready.info.capabilities
            assert facts["command"][:2] == ["vllm", "serve"]
            assert "no vLLM server" in facts["entrypoint_why"]
            assert facts["image"]["runs"].startswith("sha256:")
            inspected = json.loads(docker("inspect", facts["container"]))[0]
            assert inspected["Image"] == facts["image"]["id"]
            assert inspected["HostConfig"]["ShmSize"] == 16 * 2**30
            assert inspected["HostConfig"]["CapDrop"] == ["ALL"]
            assert inspected["Mounts"][0]["RW"] is False
            ports = inspected["NetworkSettings"]["Ports"]["8000/tcp"]
            assert ports == [{"HostIp": "127.0.0.1", "HostPort": str(facts["port"])}]
            assert json.loads(backend.files()["compose.json"])["name"] == f"pv-{run_id}"
        finally:
            backend.stop()
        assert left_of(run_id) == []
        assert describe_holder(facts["port"]) == ""
        backend.stop()
        assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("clean_up")
def test_a_bad_flag_is_reported_as_soon_as_the_log_tells(
    real_image: str, real_model: str, workdir: Path, run_id: str
) -> None:
    """The end of vLLM comes right after the line, or the report does; neither is waited for long.

    How long an engine on a busy host takes to tell of the end says nothing; so pauses are counted.
    """
    target = make_target(real_image, real_model, "--frobnicate")
    backend = DockerBackend(target, workdir, run_id)
    said = "error: unrecognized arguments: --frobnicate"
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        waited.extend([seconds] if any(said in line.text for line in backend.log) else [])

    try:
        backend.launch()
        with pytest.raises(LaunchFailed) as caught:
            wait_until_ready(backend, target, sleep=sleep)
    finally:
        backend.stop()
    assert any(said in line.text for line in backend.log)
    assert sum(waited) < REPORT_S
    error = caught.value
    assert error.diagnosis is not None
    assert error.diagnosis.ref == "H24"
    assert "--frobnicate" in error.message
    assert "--vllm-serve-arg" in error.advice
    assert error.exit_code_of_server in (None, 2)
    assert left_of(run_id) == []


@pytest.mark.usefixtures("clean_up")
def test_a_container_that_somebody_removes_is_noticed(
    real_image: str, real_model: str, workdir: Path, run_id: str
) -> None:
    target = make_target(real_image, real_model)
    backend = DockerBackend(target, workdir, run_id)
    try:
        backend.launch()
        docker("rm", "-f", backend.facts()["container"])
        with pytest.raises(LaunchFailed, match="removed by somebody else"):
            wait_until_ready(backend, target, on_phase=lambda *_: None)
    finally:
        backend.stop()
    assert left_of(run_id) == []


@pytest.mark.usefixtures("clean_up")
def test_a_failed_up_says_what_the_engine_said_and_leaves_nothing(
    real_image: str,
    real_model: str,
    workdir: Path,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    """Files that look like GPU nodes and are none make the real engine refuse."""
    dev = workdir / "dev"
    (dev / "dri").mkdir(parents=True)
    for name in ("kfd", "dri/renderD128"):
        (dev / name).touch()
    looking_there = partial(choose_devices, dev=dev, sysfs=dev)
    monkeypatch.setattr(plan_module, "choose_devices", lambda gpus, **_: looking_there(gpus))
    backend = DockerBackend(make_target(real_image, real_model), workdir, run_id)
    with pytest.raises(HostError, match="not a device node") as caught:
        backend.launch()
    assert "--vllm-gpus=none" in caught.value.advice
    assert left_of(run_id) == []
    backend.stop()
    assert backend.exit_status() is None
    assert capfd.readouterr() == ("", "")


def test_an_absent_image_names_a_similar_one(
    real_image: str, real_model: str, workdir: Path, run_id: str
) -> None:
    backend = DockerBackend(make_target(f"{real_image}x", real_model), workdir, run_id)
    with pytest.raises(LaunchFailed, match=f"did you mean {real_image}") as caught:
        backend.launch()
    assert caught.value.diagnosis is not None
    assert caught.value.diagnosis.ref == "D3"
    assert f"docker pull {real_image}x" in caught.value.advice
    backend.stop()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("unix:///no/such/docker.sock", "there is no such socket"),
        ("tcp://127.0.0.1:9", "cannot be reached: Connection refused"),
        ("ssh://somebody@127.0.0.1", "is not on this host"),
    ],
)
def test_an_engine_that_cannot_be_used(
    real_model: str,
    workdir: Path,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    words: str,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    target = make_target("any/image:1", real_model)
    with pytest.raises(HostError, match=words) as caught:
        DockerBackend(target, workdir, run_id).launch()
    assert "DOCKER_HOST" in str(caught.value)
    assert "--vllm-url" in caught.value.advice
    line = command_line(target)
    assert line.startswith("# the image's entrypoint was not checked")
    assert "any/image:1" in line


def test_the_docker_run_line_is_accepted_by_the_engine(real_image: str, real_model: str) -> None:
    line = command_line(make_target(real_image, real_model))
    command = "\n".join(text for text in line.splitlines() if not text.startswith("#"))
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["docker", "run"]
    container = docker("create", *words[2:])
    try:
        inspected = json.loads(docker("inspect", container))[0]
        assert inspected["HostConfig"]["CapDrop"] == ["ALL"]
        assert inspected["HostConfig"]["Init"] is True
        assert inspected["Config"]["Cmd"][-4:] == shlex.split(ARGS)
        assert inspected["Mounts"][0]["Source"] == real_model
    finally:
        docker("rm", container)


@pytest.mark.usefixtures("clean_up")
def test_the_evidence_file_starts_the_same_server_by_hand(
    real_image: str, real_model: str, workdir: Path, run_id: str
) -> None:
    """`compose.json` alone is enough for compose; it is only created, not started, here."""
    from pytest_vllm.adapters.backends.engine import find_compose  # noqa: PLC0415

    target = make_target(real_image, real_model)
    backend = DockerBackend(target, workdir, run_id)
    backend.launch()
    backend.stop()
    compose, _ = find_compose({"PATH": str(Path(shutil.which("docker") or "").parent)})
    file = workdir / "evidence.json"
    file.write_text(backend.files()["compose.json"])
    base = [*compose, "-f", str(file)]
    try:
        subprocess.run([*base, "create", "--pull", "never"], check=True, capture_output=True)
        assert len(left_of(run_id)) == 2
    finally:
        subprocess.run([*base, "down", "-v"], check=True, capture_output=True)
    assert left_of(run_id) == []
