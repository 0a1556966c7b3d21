"""Whose is it? A run removes what is its own and what the dead have left, and nothing else."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import docker
import psutil
import pytest

from pytest_vllm.adapters.backends.container import OWNER_LABEL
from pytest_vllm.adapters.backends.owner import OWNER_VARIABLE, Owner, this_owner
from tests.real.cleanup.bystander import bystander
from tests.real.cleanup.cell import Run, run_to_end, write_checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.real.cleanup.server import Server

BACKENDS = pytest.mark.parametrize("backend", ["process", "docker"])
_WAIT = "import signal; signal.pause()"


@pytest.fixture
def new_run(tmp_path: Path, stand_in_server: Server) -> Iterator[Callable[..., Run]]:
    """Make runs that share a temporary folder, and leave nothing of them."""
    made: list[Run] = []

    def make() -> Run:
        folder = tmp_path / f"run{len(made)}"
        folder.mkdir()
        run = Run(folder=folder, server=stand_in_server)
        if made:
            run.tmp.rmdir()
            run.tmp = made[0].tmp
        made.append(run)
        return run

    yield make
    for run in reversed(made):
        run.close()


def underway(run: Run, backend: str) -> None:
    """Start a run and wait until a check of it is under way."""
    write_checks(run.folder, "running")
    run.start(backend)
    run.wait_for("running", (run.folder / "underway").exists)


def record(run: Run) -> dict[str, Any]:
    """Return the record of a run."""
    (file,) = run.folder.glob(".vllm/*/run.json")
    document: dict[str, Any] = json.loads(file.read_text())
    return document


@BACKENDS
def test_two_runs_at_once_do_not_touch_each_other(backend: str, new_run: Callable[[], Run]) -> None:
    first, second = new_run(), new_run()
    underway(first, backend)
    outcome = run_to_end(second, backend)
    assert outcome.code == 0, outcome.output
    assert [p.pid for p in first.known.processes if not p.is_running()] == []
    assert first.title("::EngineCore up")
    assert [what for what in outcome.left if second.mark in what] == []
    first.pytest.send_signal(signal.SIGTERM)
    assert first.pytest.wait(60) == 128 + signal.SIGTERM
    assert first.await_nothing() == []
    assert second.await_nothing() == []


@BACKENDS
def test_the_next_run_sweeps_what_is_left_of_one_whose_reaper_was_killed_too(
    backend: str, new_run: Callable[[], Run]
) -> None:
    first, second = new_run(), new_run()
    underway(first, backend)
    reapers = [p for p in first.known.processes if "reaper" in " ".join(p.cmdline())]
    assert len(reapers) == 1
    reapers[0].kill()
    first.pytest.kill()
    first.pytest.wait()
    outcome = run_to_end(second, backend)
    assert outcome.code == 0, outcome.output
    assert first.await_nothing() == []
    if backend == "process":  # any other run on this host may have swept the rest before
        swept = [f["seen"] for f in record(second)["findings"] if f["id"] == "cleanup.swept"]
        assert len(swept) == 1
        assert "runs that were killed had left process " in swept[0]
    assert second.await_nothing() == []


@BACKENDS
def test_a_kept_server_stays_until_its_hint_is_followed(
    backend: str, new_run: Callable[[], Run]
) -> None:
    first, second = new_run(), new_run()
    outcome = run_to_end(first, backend, "--vllm-keep")
    assert outcome.code == 0, outcome.output
    assert first.title("::EngineCore up")
    assert run_to_end(second, backend).code == 0
    with urllib.request.urlopen(f"{record(first)['server']['url']}/version", timeout=10) as reply:  # noqa: S310
        assert reply.status == 200
    hint = re.search(r"stop it with: (.+)$", outcome.output, re.MULTILINE)
    assert hint is not None, outcome.output
    subprocess.run(["bash", "-c", hint[1]], check=True, capture_output=True, timeout=60)
    assert first.await_nothing() == []


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who is said to own something, and whether that one is certainly dead."""

    owner: Owner
    dead: bool


def claims() -> dict[str, Claim]:
    """Return owners of all kinds."""
    us = this_owner()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    start = int(psutil.Process(ended.pid).create_time())
    ended.wait()
    return {
        "living": Claim(owner=us, dead=False),
        "ended": Claim(owner=replace(us, pid=ended.pid, start=start), dead=True),
        "number-used-again": Claim(owner=replace(us, start=us.start + 1), dead=True),
        "other-host": Claim(owner=replace(us, host="elsewhere", pid=ended.pid), dead=False),
        "other-boot": Claim(owner=replace(us, boot="0" * 36, pid=ended.pid), dead=False),
        "other-space": Claim(owner=replace(us, space="pid:[1]", pid=ended.pid), dead=False),
    }


def test_only_containers_of_dead_owners_of_this_host_are_swept(
    new_run: Callable[[], Run], stand_in_server: Server
) -> None:
    """A running container of another boot is another host's: ours did not survive the reboot."""
    said = claims()
    with ExitStack() as stack:
        other = stack.enter_context(bystander(stand_in_server.image))
        client = docker.from_env()
        stack.callback(client.close)
        containers = {}
        for name, claim in said.items():
            label = {OWNER_LABEL: json.dumps(claim.owner.facts())}
            containers[name] = client.containers.run(
                stand_in_server.image, ["sleep", "infinity"], labels=label, detach=True
            )
            stack.callback(_remove, client, containers[name].id)
        outcome = run_to_end(new_run(), "docker")
        assert outcome.code == 0, outcome.output
        there = {c.id for c in client.containers.list(all=True, ignore_removed=True)}
        gone = {name for name, container in containers.items() if container.id not in there}
        assert gone == {name for name, claim in said.items() if claim.dead}
        assert other.harmed() == []


def _remove(client: docker.DockerClient, container: str) -> None:
    for found in client.containers.list(all=True, filters={"id": container}, ignore_removed=True):
        found.remove(force=True)


def test_only_processes_of_dead_owners_of_this_host_are_swept(
    new_run: Callable[[], Run], stand_in_server: Server
) -> None:
    said = claims()
    with ExitStack() as stack:
        other = stack.enter_context(bystander(stand_in_server.image))
        processes = {}
        for name, claim in said.items():
            ours = {
                OWNER_VARIABLE: json.dumps(claim.owner.facts()),
                "PYTEST_VLLM_LAUNCH": f"{name}-0123456789abcdef",
            }
            processes[name] = subprocess.Popen(
                [sys.executable, "-S", "-c", _WAIT], env={**os.environ, **ours}
            )
            stack.callback(processes[name].wait)
            stack.callback(processes[name].kill)
        outcome = run_to_end(new_run(), "process")
        assert outcome.code == 0, outcome.output
        gone = {name for name, process in processes.items() if process.poll() is not None}
        assert gone == {name for name, claim in said.items() if claim.dead}
        assert other.harmed() == []
