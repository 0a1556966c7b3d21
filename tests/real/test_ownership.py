"""A container gets the least it needs, secrets stay secret, and the engine may be elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import docker
import pytest

from tests.real.whole_runs import told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.cleanup.server import Server

LIMIT_S = 180
TOKEN = "hf_pytestVllmMustNotShowThis"  # noqa: S105 - it opens nothing
CHECK = """
import json, subprocess
from pathlib import Path
from pytest_vllm import check, suite

pytestmark = suite("own")


@check("own.looks")
def test_looks(vllm):
    '''The server MUST answer while its container is looked at.'''
    assert vllm.complete("Hello", max_tokens=2).text
    (run_id,) = (path.name for path in Path(".vllm").glob("2*"))
    words = ["docker", "ps", "-q", "--filter", "label=pytest-vllm.run"]
    project = ["--filter", "label=com.docker.compose.project=pv-" + run_id]
    ids = subprocess.check_output(words + project, text=True).split()
    with open("inspect.json", "w") as file:
        file.write(subprocess.check_output(["docker", "inspect", *ids], text=True))
    with open("processes.txt", "w") as file:
        file.write(subprocess.check_output(["ps", "axww", "-o", "args"], text=True))
"""


def run(
    folder: Path, server: Server, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Accept the stand-in by one check, as a user does."""
    (folder / "test_own.py").write_text(CHECK)
    words = [*server.arguments("docker"), "--vllm-gpus=none", *arguments]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_own.py", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, **(env or {})},
    )


def inspected(folder: Path) -> dict[str, Any]:
    (container,) = json.loads((folder / "inspect.json").read_text())
    return dict(container)


def record(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob(".vllm/*/run.json")
    return dict(json.loads(file.read_text()))


def left_of(folder: Path) -> list[str]:
    """List what the engine still has of a run."""
    project = f"label=com.docker.compose.project=pv-{record(folder)['run_id']}"
    found = []
    for words in (["ps", "-aq"], ["network", "ls", "-q"], ["volume", "ls", "-q"]):
        found += subprocess.check_output(["docker", *words, "--filter", project], text=True).split()
    return found


def test_the_least_and_no_secret_anywhere(stand_in_server: Server, tmp_path: Path) -> None:
    """What the container may do, and every artefact searched for a token and a key."""
    done = run(
        tmp_path,
        stand_in_server,
        "--vllm-dns=192.0.2.53",
        "-v",
        # Not on the command line, which everybody on the host can read.
        env={"HF_TOKEN": TOKEN, "PYTEST_VLLM_ENV": f"HF_TOKEN OTHER_TOKEN={TOKEN}2"},
    )
    assert done.returncode == 0, told(done)
    container = inspected(tmp_path)
    host = container["HostConfig"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["Privileged"]
    assert host["Dns"] == ["192.0.2.53"]
    assert [b["HostIp"] for b in host["PortBindings"]["8000/tcp"]] == ["127.0.0.1"]
    (mount,) = container["Mounts"]
    assert (mount["Source"], mount["RW"]) == (stand_in_server.model, False)
    assert all(group.isdigit() for group in host["GroupAdd"] or ())
    assert f"HF_TOKEN={TOKEN}" in container["Config"]["Env"]  # it got there all the same
    assert f"OTHER_TOKEN={TOKEN}2" in container["Config"]["Env"]
    evidence = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in evidence}
    assert {"run.json", "report.md", "junit.xml", "compose.json", "server.log"} <= names
    searched = [path for path in evidence if path.name != "inspect.json"]
    assert [path.name for path in searched if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in done.stdout + done.stderr
    assert left_of(tmp_path) == []


def test_a_compose_file_of_the_user_is_laid_over_ours(
    stand_in_server: Server, tmp_path: Path
) -> None:
    """Its paths start at its own folder; a side service of it is cleaned up as well."""
    other = tmp_path / "a folder"
    (other / "data").mkdir(parents=True)
    (other / "more.yaml").write_text(
        "services:\n"
        "  vllm:\n"
        "    environment: {EXTRA: '$${HOME}'}\n"
        "    volumes: ['./data:/data:ro', 'cache:/cache']\n"
        "  side:\n"
        f"    image: {stand_in_server.image}\n"
        "    entrypoint: [sleep, infinity]\n"
        "volumes: {cache: {}}\n"
    )
    done = run(tmp_path, stand_in_server, f"--vllm-compose-override={other / 'more.yaml'}")
    assert done.returncode == 0, told(done)
    found = json.loads((tmp_path / "inspect.json").read_text())
    services = {c["Config"]["Labels"]["com.docker.compose.service"]: c for c in found}
    assert set(services) == {"vllm", "side"}
    assert "EXTRA=${HOME}" in services["vllm"]["Config"]["Env"]
    sources = {mount["Destination"]: mount["Source"] for mount in services["vllm"]["Mounts"]}
    assert sources["/data"] == str(other / "data")
    assert {"pytest-vllm.owner", "pytest-vllm.run"} <= set(services["side"]["Config"]["Labels"])
    (evidence,) = tmp_path.glob(".vllm/*/compose.override.yaml")
    assert "side" in evidence.read_text()
    assert not (evidence.parent / ".launch").exists()
    assert "pytest-vllm.owner" not in (evidence.parent / "compose.json").read_text()
    assert left_of(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services: [", "compose refuses"),
        ("services: {vllm: {image: other}}", "changes the image to other"),
        (None, "there is no file|cannot read"),
    ],
    ids=["broken", "image", "absent"],
)
def test_a_compose_file_that_cannot_be_used_is_the_users_fault(
    stand_in_server: Server, tmp_path: Path, text: str | None, words: str
) -> None:
    if text is not None:
        (tmp_path / "more.yaml").write_text(text)
    done = run(tmp_path, stand_in_server, "--vllm-compose-override=more.yaml")
    assert done.returncode == 4, told(done)
    assert any(word in done.stderr for word in words.split("|")), done.stderr
    assert "fix: " in done.stderr


PROXY = """
import socket, sys, threading

def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(listener.getsockname()[1], flush=True)
while True:
    client, _ = listener.accept()
    engine = socket.socket(socket.AF_UNIX)
    engine.connect("/var/run/docker.sock")
    for pair in ((client, engine), (engine, client)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


class Proxy:
    """This host's engine behind a TCP port; it may break down and be repaired."""

    def __init__(self) -> None:
        self.port = 0
        self.repair()

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def repair(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROXY, str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def break_down(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.break_down()


@pytest.fixture
def tcp_engine(proxy: Proxy) -> str:
    """The engine as `DOCKER_HOST` names it."""
    return proxy.url


WAITS = """
from pytest_vllm import check, suite

pytestmark = suite("own")


@check("own.breaks")
def test_breaks(vllm):
    '''It MUST be asked.'''
    open("ready").read()
    assert vllm.complete("Hello", max_tokens=2).text


@check("own.after")
def test_after(vllm):
    '''It MUST NOT be asked.'''
    assert vllm.complete("Hello", max_tokens=2).text
"""


def test_an_engine_that_is_gone_proves_nothing_and_is_cleaned_when_it_is_back(
    stand_in_server: Server, tmp_path: Path, proxy: Proxy
) -> None:
    """The run cannot remove its container then; its reaper does as soon as the engine answers."""
    (tmp_path / "test_own.py").write_text(WAITS)
    os.mkfifo(tmp_path / "ready")
    words = [*stand_in_server.arguments("docker"), "--vllm-gpus=none", "--vllm-concurrency=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_own.py", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "DOCKER_HOST": proxy.url},
    )
    with (tmp_path / "ready").open("w"):  # opens when the check reads
        proxy.break_down()
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 75, output
    judged = record(tmp_path)
    assert "no longer answers" in " ".join(judged["verdict"]["reasons"]), output
    assert any("could not be removed" in warning for warning in judged["warnings"])
    assert left_of(tmp_path) != []
    proxy.repair()
    reaped = next(tmp_path.glob(".vllm/2*")) / "reaper.log"
    end = time.monotonic() + LIMIT_S
    pause = threading.Event()
    while not reaped.exists():
        assert time.monotonic() < end, "the reaper did nothing"
        pause.wait(0.1)
    assert left_of(tmp_path) == []
    assert "removed container" in reaped.read_text()


def test_an_engine_over_tcp_serves_and_nothing_is_left(
    stand_in_server: Server, tmp_path: Path, tcp_engine: str
) -> None:
    done = run(tmp_path, stand_in_server, env={"DOCKER_HOST": tcp_engine})
    assert done.returncode == 0, told(done)
    assert record(tmp_path)["launch"]["engine_endpoint"] == tcp_engine
    assert left_of(tmp_path) == []


def test_an_engine_that_does_not_see_our_files_is_refused(
    stand_in_server: Server, tmp_path: Path, tcp_engine: str
) -> None:
    """A folder of temporary files that only we see stands for another host's."""
    (tmp_path / "test_own.py").write_text(CHECK)
    words = [*stand_in_server.arguments("docker"), "--vllm-preflight-ignore=all"]
    inner = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_own.py", *words]
    hide = 'mount -t tmpfs none "$1" && export TMPDIR="$1" && shift && exec "$@"'
    private = tmp_path / "private"
    private.mkdir()
    client = docker.from_env()
    before = {c.id for c in client.containers.list(all=True, ignore_removed=True)}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, "sh", str(private), *inner],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "DOCKER_HOST": tcp_engine},
    )
    assert done.returncode == 75, told(done)
    assert "does not see this host's files" in " ".join(done.stdout.split())
    ours = [c for c in client.containers.list(all=True, ignore_removed=True) if c.id not in before]
    assert [c for c in ours if c.attrs["Config"]["Image"] == stand_in_server.image] == []
    client.close()


@pytest.mark.parametrize("url", ["ssh://nobody@192.0.2.1", "npipe:////./pipe/docker_engine"])
def test_an_engine_elsewhere_is_refused(stand_in_server: Server, tmp_path: Path, url: str) -> None:
    done = run(tmp_path, stand_in_server, env={"DOCKER_HOST": url})
    assert done.returncode == 75, told(done)
    assert "the Docker engine is not on this host" in " ".join(done.stdout.split())
