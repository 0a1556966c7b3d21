"""What can be known beforehand of the week in the story: each told in under two seconds."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.data.hub.server import Hub

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOGGER = logging.getLogger(__name__)
LIMIT_S = 2.0
"""For all looks inside a container, whose work the clock alone can tell."""
TRIES = 5
"""The first may have to compile our modules, and neighbours may disturb any of them."""
CPU_LIMIT_S = 1.2
"""For the whole command, from the start of Python; on a busy host the clock says little."""
ROOT = Path(__file__).parents[2]
HOSTS = ROOT / "tests/data/hosts"
V3, V2 = "deepseek-ai/DeepSeek-V3.1", "deepseek-ai/DeepSeek-V2-Lite"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the verb told.

    Attributes:
        code: Its exit code.
        took_s: Seconds that its looks took, as it says.
        cpu_s: Seconds of CPU of the whole command.
        findings: What it found.
        text: All that it printed.
    """

    code: int
    took_s: float
    cpu_s: float
    findings: list[dict[str, Any]]
    text: str

    def one(self, name: str) -> dict[str, Any]:
        """Return the finding of a name."""
        (finding,) = [finding for finding in self.findings if finding["id"] == name]
        return finding

    @property
    def stopping(self) -> list[str]:
        """Rows of the failure table that end the run."""
        return [item["ref"] for item in self.findings if item["severity"] == "fatal"]


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Our environment with an empty Hub cache and no settings of ours."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_VLLM", "HF_"))}
    return {**ours, "HF_HOME": str(tmp_path / "hf")}


def run(command: list[str], env: Mapping[str, str], cwd: Path) -> Answer:
    """Run the verb once."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr == ""
    document = json.loads(done.stdout)
    return Answer(
        code=done.returncode,
        took_s=document["took_s"],
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        findings=document["findings"],
        text=done.stdout,
    )


def cheapest(once: Callable[[], Answer], cost: Callable[[Answer], float], limit: float) -> Answer:
    """Return the first answer within a limit, else the cheapest; every answer is the same."""
    answers: list[Answer] = []
    while len(answers) < TRIES and not any(cost(answer) < limit for answer in answers):
        answers.append(once())
    return min(answers, key=cost)


def ask(home: Mapping[str, str], tmp_path: Path, *words: str, host: str = "") -> Answer:
    """Ask the verb in a process of its own, on this host or with the facts of another."""
    facts = [f"--vllm-host-facts={HOSTS / host}.json"] if host else []
    command = [sys.executable, "-m", "pytest_vllm", "preflight", "--json", *words, *facts]
    env = {**home, "PYTHONPATH": str(ROOT)}
    answer = cheapest(lambda: run(command, env, tmp_path), lambda a: a.cpu_s, CPU_LIMIT_S)
    LOGGER.info("%.2f s, %.2f s of CPU: %s", answer.took_s, answer.cpu_s, answer.stopping)
    assert answer.cpu_s < CPU_LIMIT_S
    return answer


def test_an_image_that_starts_bash_is_told_and_no_obstacle(
    home: dict[str, str], tmp_path: Path, real_image_bash: str, real_model: str
) -> None:
    answer = ask(home, tmp_path, f"--vllm-image={real_image_bash}", f"--vllm-model={real_model}")
    assert answer.code == 0
    finding = answer.one("image.starts-no-server")
    assert finding["ref"] == "D16"
    assert "/bin/bash, which ends at once" in finding["seen"]


def test_latest_deserves_a_warning(home: dict[str, str], tmp_path: Path) -> None:
    words = ("--vllm-image=rocm/vllm:latest", f"--vllm-model={V2}-Chat")
    answer = ask(home, tmp_path, *words, host="mi300x")
    assert answer.code == 0
    assert answer.one("image.mutable-tag")["severity"] == "warning"


def test_a_model_of_671_billion_parameters_does_not_fit_on_one_gpu(
    home: dict[str, str], tmp_path: Path, real_image: str
) -> None:
    words = (f"--vllm-image={real_image}", f"--vllm-model={V3}")
    answer = ask(home, tmp_path, *words, host="mi300x")
    assert (answer.code, answer.stopping) == (1, ["G8"])
    seen = answer.one("model.weights")["seen"]
    assert "626.9 GiB" in seen
    assert "191.98 GiB" in seen
    assert "at least 4 of these GPUs" in seen
    assert "all 256 experts" in seen


@pytest.mark.parametrize(("size", "each"), [(8, "79.3 GiB"), (4, "157.5 GiB")])
def test_four_mi250_are_eight_gpus_that_are_still_too_small(
    home: dict[str, str], tmp_path: Path, real_image: str, size: int, each: str
) -> None:
    """Who counts the cards instead of the dies asks for twice as much of each."""
    args = f"--vllm-serve-arg=--tensor-parallel-size={size}"
    words = (f"--vllm-image={real_image}", f"--vllm-model={V3}", args)
    answer = ask(home, tmp_path, *words, host="4xmi250")
    assert answer.code == 1
    assert set(answer.stopping) == {"G8", "G21"}
    seen = answer.one("model.weights")["seen"]
    assert f"puts {each} of weights" in seen
    assert f"{size} GPUs" in seen
    assert f"63.98 GiB each, {63.984 * size:.1f} GiB in all" in seen


def test_memory_that_others_hold_gives_a_utilization_that_works(
    home: dict[str, str], tmp_path: Path, real_image: str
) -> None:
    args = "--vllm-serve-arg=--gpu-memory-utilization=0.9"
    words = (f"--vllm-image={real_image}", f"--vllm-model={V2}-Chat", args)
    answer = ask(home, tmp_path, *words, host="mi300x-busy")
    assert (answer.code, answer.stopping) == (75, ["G7"])
    finding = answer.one("gpu.free-memory")
    assert "164.76 of 191.98 GiB" in finding["seen"]
    assert "PID 4711" in finding["seen"]
    assert "--gpu-memory-utilization=0.83" in finding["cure"]


def test_eight_idle_mi300x_serve_it(home: dict[str, str], tmp_path: Path, real_image: str) -> None:
    args = "--vllm-serve-arg=--tensor-parallel-size=8"
    words = (f"--vllm-image={real_image}", f"--vllm-model={V3}", args)
    answer = ask(home, tmp_path, *words, host="8xmi300x")
    assert (answer.code, answer.stopping) == (0, [])
    assert answer.one("host.numa-balancing")["severity"] == "warning"


def test_a_wrong_name_brings_the_right_one(
    home: dict[str, str], tmp_path: Path, real_vllm_python: str
) -> None:
    words = ("--vllm-backend=process", f"--vllm-python={real_vllm_python}")
    with Hub() as hub:
        where = f"--vllm-env=HF_ENDPOINT={hub.url()}"
        answer = ask(home, tmp_path, *words, where, f"--vllm-model={V2}-instruct")
    assert (answer.code, answer.stopping) == (1, ["H7"])
    finding = answer.one("network.no-such-model")
    assert finding["cure"] == f"--vllm-model={V2}-Chat"


def test_a_dead_name_server_is_found_from_inside(
    home: dict[str, str], tmp_path: Path, real_image: str
) -> None:
    words = (f"--vllm-image={real_image}", "--vllm-dns=127.0.0.9")
    answer = ask(home, tmp_path, *words, "--vllm-model=deepseek-ai/deepseek-llm-7b-base")
    assert (answer.code, answer.stopping) == (75, ["H1"])
    finding = answer.one("network.dns")
    assert "huggingface.co cannot be resolved" in finding["seen"]
    assert "inside the container" in finding["seen"]
    assert finding["cure"].startswith("--vllm-dns=")


def test_a_base_model_has_no_chat(home: dict[str, str], tmp_path: Path, real_image: str) -> None:
    words = (f"--vllm-image={real_image}", "--vllm-model=deepseek-ai/deepseek-llm-7b-base")
    answer = ask(home, tmp_path, *words, host="mi300x")
    assert answer.code == 0
    finding = answer.one("model.no-chat-template")
    assert (finding["ref"], finding["severity"]) == ("Q1", "note")
    assert "--chat-template=FILE" in finding["cure"]


def test_a_client_inside_a_container_finds_nobody_at_localhost(
    home: dict[str, str], tmp_path: Path, real_image: str
) -> None:
    site = sysconfig.get_path("purelib")
    inside = ["-v", f"{ROOT}:/src:ro", "-v", f"{site}:/site:ro", "-e", "PYTHONPATH=/src:/site"]
    inside += ["-e", "PYTHONDONTWRITEBYTECODE=1", "-w", "/tmp", "--entrypoint", "python3"]  # noqa: S108
    verb = ["-m", "pytest_vllm", "preflight", "--json", "--vllm-url=http://localhost:8000"]
    command = ["docker", "run", "--rm", "--network=none", *inside, real_image, *verb]
    answer = cheapest(lambda: run(command, home, tmp_path), lambda a: a.took_s, LIMIT_S)
    assert (answer.code, answer.stopping) == (75, ["Q6"])
    finding = answer.one("network.client-in-container")
    assert "/.dockerenv" in finding["seen"]
    assert "http://SERVICE:8000" in finding["cure"]
    assert answer.took_s < LIMIT_S, "the start of the container is not ours"
