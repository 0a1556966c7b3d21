"""Runs of pytest as a user has them, on real vLLM, and what is left of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.record import RunRecord, from_json
from pytest_vllm.domain.verdict import Decision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SERVE = "--vllm-serve-arg=--enforce-eager --max-model-len=2048 --max-num-seqs=16 --dtype=bfloat16"
ENV = ("--vllm-env=VLLM_CPU_KVCACHE_SPACE=1", "--vllm-env=TORCHDYNAMO_DISABLE=1")
LIMIT_S = 1500


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder, as a user does."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a run says from its verdict on, which a CI's log then shows first; else all."""
    words = "|".join(decision.value.upper() for decision in Decision)
    said = done.stdout + done.stderr
    found = re.search(rf"^=+ ({words}) =+$", said, re.MULTILINE)
    return said[found.start() :] if found else said


def by_process(python: str, model: str) -> tuple[str, ...]:
    where = (f"--vllm-python={python}", f"--vllm-model={model}")
    return ("--vllm-backend=process", *where, SERVE, *ENV)


def by_docker(image: str, model: str) -> tuple[str, ...]:
    return (f"--vllm-image={image}", f"--vllm-model={model}", SERVE, *ENV)


def evidence(folder: Path) -> Path:
    (found,) = folder.glob(".vllm/*/run.json")
    return found.parent


def record(folder: Path) -> RunRecord:
    return from_json((evidence(folder) / "run.json").read_text(), where="run.json")


def family_of(mark: str) -> list[psutil.Process]:
    """List the processes whose environment holds a text, and all that descend from them.

    vLLM's engine and workers write their title over their environment, so they have no mark.
    """
    found: dict[int, psutil.Process] = {}
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError, psutil.NoSuchProcess):
            if mark.encode() in entry.read_bytes():
                process = psutil.Process(int(entry.parent.name))
                for member in (process, *process.children(recursive=True)):
                    found[member.pid] = member
    return list(found.values())


def alive(processes: Iterable[psutil.Process]) -> list[str]:
    """Describe the processes that still run; a dead one that init has not collected does not."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.status()} {process.cmdline()}")
    return found


def containers_of(run_id: str) -> list[str]:
    mine = f"label=com.docker.compose.project=pv-{run_id}"
    words = ["docker", "ps", "-aq", "--filter", mine]
    networks = ["docker", "network", "ls", "-q", "--filter", mine]
    out = [subprocess.check_output(words, text=True), subprocess.check_output(networks, text=True)]
    return " ".join(out).split()


def open_judgements(judged: RunRecord, *levels: Level) -> list[str]:
    """Describe the results that are no pass, of checks of some levels or of any."""
    good = (Outcome.PASS, Outcome.NOT_APPLICABLE)
    return [
        f"{result.name}: {result.message}"
        for result in judged.results
        if result.outcome not in good and result.check.level in (levels or Level)
    ]


def run_until(
    moment: str, act: Callable[[subprocess.Popen[str]], object], folder: Path, *arguments: str
) -> tuple[int, str]:
    """Run pytest, act on the first line that matches, and return exit code and output."""
    lines = []
    with subprocess.Popen(
        command("-v", *arguments),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A shell starts background jobs deaf to Ctrl-C; a CI may run these tests in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if re.search(moment, line.rstrip()):
                act(process)
                break
        lines += process.stdout.readlines()
        return process.wait(timeout=LIMIT_S), "".join(lines)
