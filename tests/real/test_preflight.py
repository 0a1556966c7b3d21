"""The preflight on a real engine: what it finds, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.data.hub.server import Hub, Repository

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
BRIDGE = "172.17.0.1"
"""Address of this host on Docker's default bridge, which every container reaches."""
MINE = "label=pytest-vllm.run=preflight"
PYTHON = "import sys; from pytest_vllm.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Our environment with an empty Hub cache and no settings of ours."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_VLLM", "HF_"))}
    return {**ours, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}


def start(env: dict[str, str], cwd: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Run the verb and return its exit code and its findings by name."""
    command = [sys.executable, "-c", PYTHON, "preflight", "--json", *words]
    return understand([*command], env, cwd)


def understand(command: list[str], env: dict[str, str], cwd: Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout, done.stderr
    document = json.loads(done.stdout)
    return done.returncode, {finding["id"]: finding for finding in document["findings"]}


def left() -> list[str]:
    """List containers and networks of any preflight."""
    command = ["docker", "ps", "-aq", "--filter", MINE]
    containers = subprocess.check_output(command, text=True).split()
    command = ["docker", "network", "ls", "-q", "--filter", MINE]
    return containers + subprocess.check_output(command, text=True).split()


def fatal(findings: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f["id"], f["ref"]) for f in findings.values() if f["severity"] == "fatal"]


def test_a_sound_target_has_nothing_against_it(
    env: dict[str, str], tmp_path: Path, real_image: str, real_model: str
) -> None:
    # Without a size of the cache it would take a share of this host's memory, busy as that may be.
    words = (f"--vllm-image={real_image}", f"--vllm-model={real_model}")
    code, findings = start(env, tmp_path, *words, "--vllm-env=VLLM_CPU_KVCACHE_SPACE=1")
    assert (code, fatal(findings)) == (0, [])
    severities = {finding["severity"] for finding in findings.values()}
    assert severities <= {"not applicable", "note"}
    assert findings["host.numa-balancing"]["seen"].startswith("this host has no AMD GPU")


def test_an_image_that_is_not_there_is_its_own_fault(
    env: dict[str, str], tmp_path: Path, real_image: str, real_model: str
) -> None:
    asked = f"127.0.0.1:9/{real_image}x"
    words = (f"--vllm-image={asked}", f"--vllm-model={real_model}")
    code, findings = start(env, tmp_path, *words)
    assert (code, fatal(findings)) == (1, [("image.absent", "D3")])
    assert f"docker pull {asked}" in findings["image.absent"]["cure"]
    code, findings = start(env, tmp_path, *words, "--vllm-pull=missing")
    assert (code, fatal(findings)) == (75, [("image.not-pullable", "D6")])
    assert "connection refused" in findings["image.not-pullable"]["seen"]


def test_near_names_on_the_engine_are_told(
    env: dict[str, str], tmp_path: Path, real_image: str, real_model: str
) -> None:
    words = (f"--vllm-image={real_image}x", f"--vllm-model={real_model}")
    code, findings = start(env, tmp_path, *words)
    assert code == 1
    assert findings["image.absent"]["cure"].startswith(f"--vllm-image={real_image}, or ")


def test_an_engine_that_is_down_leaves_the_verdict_open(
    env: dict[str, str], tmp_path: Path, real_image: str, real_model: str
) -> None:
    env["DOCKER_HOST"] = "unix:///nonexistent"
    words = (f"--vllm-image={real_image}", f"--vllm-model={real_model}")
    code, findings = start(env, tmp_path, *words)
    assert (code, fatal(findings)) == (75, [("engine.unreachable", "D1")])
    assert "systemctl start docker" in findings["engine.unreachable"]["cure"]


def test_a_user_outside_the_group_is_told_how_to_get_in(
    env: dict[str, str], tmp_path: Path, real_image: str, real_model: str
) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()
        path.chmod(0o600)
        os.chown(path, 65534, 65534)
        env["DOCKER_HOST"] = f"unix://{path}"
        powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
        verb = [sys.executable, "-c", PYTHON, "preflight", "--json"]
        target = [f"--vllm-image={real_image}", f"--vllm-model={real_model}"]
        code, findings = understand([*powerless, *verb, *target], env, tmp_path)
    assert (code, fatal(findings)) == (75, [("engine.permission", "D2")])
    assert "usermod -aG docker" in findings["engine.permission"]["cure"]


def test_what_a_compose_file_gives_away_is_a_warning(
    env: dict[str, str], tmp_path: Path, real_image: str, real_model: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "services:\n  vllm:\n    privileged: true\n    ports: ['9321:8000']\n"
        "    volumes: ['/var/run/docker.sock:/var/run/docker.sock']\n"
    )
    words = (f"--vllm-image={real_image}", f"--vllm-model={real_model}")
    code, findings = start(env, tmp_path, *words, f"--vllm-compose-override={file}")
    assert code == 0
    security = {name for name in findings if name.startswith("security.")}
    assert security == {
        "security.privileged",
        "security.engine-socket",
        "security.published-port",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services: [", "compose refuses"),
        ("services: {vllm: {no-such-key: 1}}", "compose refuses"),
        (None, "there is no file"),
    ],
)
def test_a_compose_file_that_is_none_is_a_wrong_option(
    env: dict[str, str],
    tmp_path: Path,
    real_image: str,
    real_model: str,
    text: str | None,
    words: str,
) -> None:
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    verb = [sys.executable, "-c", PYTHON, "preflight", f"--vllm-compose-override={file}"]
    target = [f"--vllm-image={real_image}", f"--vllm-model={real_model}"]
    done = subprocess.run(
        [*verb, *target], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def dns(address: str, *, answers: bool = True) -> Iterator[None]:
    """Stand in for a DNS server that knows one address for every name, or never answers."""
    stopped = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind((address, 53))
        door.settimeout(0.1)

        def serve() -> None:
            while not stopped.is_set():
                try:
                    packet, sender = door.recvfrom(4096)
                except TimeoutError:
                    continue
                if answers:
                    door.sendto(reply(packet, address), sender)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def reply(packet: bytes, address: str) -> bytes:
    """Answer a question for an IPv4 address, and any other with nothing."""
    question = packet[12:]
    end = question.index(b"\0") + 5
    kind = struct.unpack(">H", question[end - 4 : end - 2])[0]
    count = 1 if kind == 1 else 0
    header = packet[:2] + b"\x81\x80" + struct.pack(">4H", 1, count, 0, 0)
    record = b"\xc0\x0c" + struct.pack(">2HIH", 1, 1, 60, 4) + socket.inet_aton(address)
    return header + question[:end] + record * count


def test_a_dead_name_server_is_cured_by_one_that_works(
    env: dict[str, str], tmp_path: Path, real_image: str
) -> None:
    """The cure that it names is tried: with it, the same target has nothing against it."""
    (tmp_path / "config.json").write_text("{}")
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"nameserver {BRIDGE}\n")
    own = ["unshare", "--mount", "--propagation=private", "--", "sh", "-c"]
    own += ['mount --bind "$0" /etc/resolv.conf && exec "$@"', str(resolv)]
    verb = [sys.executable, "-c", PYTHON, "preflight", "--json"]
    with (
        dns(BRIDGE),
        Hub({"org/small": Repository(folder=tmp_path)}, hosts=(BRIDGE,)) as hub,
    ):
        where = f"--vllm-env=HF_ENDPOINT=http://hub.test:{hub.port}"
        target = [f"--vllm-image={real_image}", "--vllm-model=org/small", where]
        command = [*own, *verb, *target]
        code, findings = understand([*command, "--vllm-dns=127.0.0.9"], env, tmp_path)
        assert (code, fatal(findings)) == (75, [("network.dns", "H1")])
        cure = findings["network.dns"]["cure"].partition(";")[0]
        assert cure == f"--vllm-dns={BRIDGE}"
        assert hub.requests == []
        code, findings = understand([*command, cure], env, tmp_path)
        assert (code, fatal(findings)) == (0, [])
        assert hub.requests == [("HEAD", "/org/small/resolve/main/config.json", 200)]
    assert left() == []


@pytest.mark.parametrize(
    "verb",
    [["-c", PYTHON, "preflight"], ["-m", "pytest", "-p", "no:cacheprovider"]],
    ids=["verb", "run"],
)
def test_a_signal_in_the_middle_of_a_look_leaves_nothing(
    env: dict[str, str], tmp_path: Path, real_image: str, verb: list[str]
) -> None:
    words = [f"--vllm-image={real_image}", "--vllm-model=org/small", f"--vllm-dns={BRIDGE}"]
    since = f"{time.time():.6f}"
    with dns(BRIDGE, answers=False):
        process = subprocess.Popen(
            [sys.executable, *verb, *words, "--vllm-suite=models"],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with process:
            wait_for_container(process, since)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert left() == []


def wait_for_container(process: subprocess.Popen[bytes], since: str) -> None:
    """Wait until the throw-away container runs; the engine tells."""
    command = ["docker", "events", "--filter", MINE, "--filter", "event=start", "--since", since]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as events:
        assert events.stdout is not None
        events.stdout.readline()
        events.kill()
    assert process.poll() is None


def test_a_run_ends_before_the_launch_and_says_so_everywhere(
    env: dict[str, str], tmp_path: Path, real_image: str
) -> None:
    words = [f"--vllm-image={real_image}", "--vllm-model=org/small", "--vllm-dns=127.0.0.9"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--vllm-suite=models"]
    done = subprocess.run(
        [*command, *words], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 75
    (file,) = (tmp_path / ".vllm").glob("2*/run.json")
    folder, record = file.parent, json.loads(file.read_text())
    assert record["failure"]["kind"] == "host"
    assert record["failure"]["diagnosis"]["ref"] == "H1"
    assert record["failure"]["phase"] == "preflight"
    assert [f["ref"] for f in record["findings"] if f["severity"] == "fatal"] == ["H1"]
    assert set(record["facts"]) == {"host", "engine", "image", "model", "network"}
    assert record["launch"]["image"]["asked"] == real_image
    assert not (folder / "compose.json").exists()
    assert "--vllm-dns=IP" in done.stdout
    assert "H1" in (folder / "report.md").read_text()
    assert left() == []


def test_another_host_can_plan_with_what_a_look_here_printed(
    env: dict[str, str], tmp_path: Path, real_image: str, real_model: str
) -> None:
    verb = [sys.executable, "-c", PYTHON, "preflight", "--json"]
    target = [f"--vllm-image={real_image}", f"--vllm-model={real_model}"]
    first = subprocess.run(
        [*verb, *target], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (tmp_path / "box.json").write_text(first.stdout)
    code, findings = start(env, tmp_path, *target, "--vllm-host-facts=box.json")
    assert (code, fatal(findings)) == (0, [])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *target, "--vllm-host-facts=box.json"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "pytest-vllm preflight --vllm-host-facts=FILE" in done.stderr
