"""Runs on real vLLM that are ended in their middle: the verdict, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.backends.session import describe_holder
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.verdict import Decision
from tests.real.whole_runs import (
    alive,
    by_docker,
    by_process,
    containers_of,
    family_of,
    record,
    run_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import psutil

ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run that was ended in its middle.

    Attributes:
        code: Exit code of pytest.
        output: All that it wrote.
        folder: Where it ran.
        family: The server's processes at that moment.
        container: What the engine told of the server's container then, empty without one.
    """

    code: int
    output: str
    folder: Path
    family: list[psutil.Process]
    container: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run is ended, and when; `None` kills the engine's process and spares pytest."""

    backend: str
    moment: str
    number: signal.Signals | None


ENDINGS = {
    "killed-engine": Ending(backend="process", moment="PASSED", number=None),
    "docker-int-running": Ending(backend="docker", moment="PASSED", number=signal.SIGINT),
    "docker-term-starting": Ending(
        backend="docker", moment=r"vllm: .* config$", number=signal.SIGTERM
    ),
    "process-int-starting": Ending(
        backend="process", moment=r"vllm: .* config$", number=signal.SIGINT
    ),
    "process-term-running": Ending(backend="process", moment="PASSED", number=signal.SIGTERM),
}
SIGNALS = [name for name, ending in ENDINGS.items() if ending.number]
AT_ONCE = 2
"""Such runs at a time: they only start a server, which is mostly one busy core, and see it end."""


@pytest.fixture(scope="module")
def ended(
    request: pytest.FixtureRequest,
    real_vllm_python: str,
    real_model: str,
    real_image_bash: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[Ended]]]:
    """Begin the endings that the selected tests will ask for.

    The image starts bash, as rocm/vllm does; the others of these tests have the other image.
    """
    targets = {
        "docker": by_docker(real_image_bash, real_model),
        "process": by_process(real_vllm_python, real_model),
    }
    wanted = [
        item.callspec.params["ending"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and hasattr(item, "callspec")
        and "ending" in item.callspec.params
    ]

    def end(name: str) -> Ended:
        ending = ENDINGS[name]
        mark = f"PV_TEST_MARK={uuid.uuid4().hex}"
        family: list[psutil.Process] = []
        container: dict[str, Any] = {}

        def act(process: subprocess.Popen[str]) -> None:
            family.extend(family_of(mark))
            if ending.backend == "docker":
                container.update(inspect(mark))
            if ending.number is not None:
                process.send_signal(ending.number)
                return
            (engine,) = [p for p in family if "EngineCore" in " ".join(p.cmdline())]
            engine.kill()

        folder = tmp_path_factory.mktemp(name)
        arguments = (*targets[ending.backend], f"--vllm-env={mark}")
        code, output = run_until(ending.moment, act, folder, *arguments)
        return Ended(code=code, output=output, folder=folder, family=family, container=container)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            yield {name: pool.submit(end, name) for name in dict.fromkeys(wanted)}
        finally:
            pool.shutdown(cancel_futures=True)


def inspect(mark: str) -> dict[str, Any]:
    """Return what the engine tells of the one container whose environment has a mark."""
    listed = ["docker", "ps", "-q", "--filter", "label=pytest-vllm.run"]
    ids = subprocess.check_output(listed, text=True).split()
    told = [facts for container in ids for facts in inspect_one(container)]
    (ours,) = [container for container in told if mark in container["Config"]["Env"]]
    return ours


def inspect_one(container: str) -> list[dict[str, Any]]:
    """Return what the engine tells of a container, nothing where another run has removed it."""
    words = ["docker", "inspect", "--type=container", container]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "no such container" in done.stderr.lower(), done.stderr
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("ending", ["killed-engine"])
def test_an_engine_that_is_killed_in_mid_run_is_rejected(
    ending: str, ended: dict[str, Future[Ended]]
) -> None:
    """When its engine dies, vLLM 0.32 ends with exit code 0; that is no reason to promote."""
    seen = ended[ending].result()
    judged = record(seen.folder)
    assert (seen.code, judged.verdict.decision) == (1, Decision.REJECT), seen.output
    assert "the server ended in mid-run with exit code 0" in judged.verdict.reasons[0]
    outcomes = [result.outcome for result in judged.results]
    failed = [result for result in judged.results if result.outcome is Outcome.FAIL]
    assert 1 <= len(failed) <= 16  # those that were under way, and nothing else
    said = "the server ended in mid-run with exit code 0"
    assert all(said in r.message for r in failed), seen.output
    assert all("server.log:" in result.message for result in failed)
    assert outcomes.count(Outcome.NOT_RUN) > len(failed)
    assert [finding.ref for finding in judged.findings if "mid-run" in finding.seen] == ["Q5"]
    assert alive(seen.family) == []


@pytest.mark.parametrize("ending", SIGNALS if ALL else SIGNALS[:-1])
def test_a_signal_leaves_nothing_behind(ending: str, ended: dict[str, Future[Ended]]) -> None:
    """Ctrl-C and SIGTERM, at the start and in mid-run: no process, container or network stays."""
    seen, number = ended[ending].result(), ENDINGS[ending].number
    assert number is not None
    assert seen.code == (2 if number is signal.SIGINT else 128 + number), seen.output
    assert "INCONCLUSIVE" in seen.output
    assert seen.family
    assert alive(seen.family) == []
    assert containers_of(record(seen.folder).run_id) == []


@pytest.mark.parametrize("ending", ["docker-int-running"])
def test_an_image_that_starts_bash_is_told_to_serve(
    ending: str, ended: dict[str, Future[Ended]]
) -> None:
    """What ran was the image's digest with vLLM's command, with the least rights and one port."""
    seen = ended[ending].result()
    launch = record(seen.folder).launch
    assert "no vLLM server" in launch["entrypoint_why"]
    assert launch["command"][:2] == ["vllm", "serve"]
    assert launch["image"]["runs"].startswith("sha256:")
    assert seen.container["Image"] == launch["image"]["id"]
    host = seen.container["HostConfig"]
    assert (host["ShmSize"], host["CapDrop"]) == (16 * 2**30, ["ALL"])
    assert seen.container["Mounts"][0]["RW"] is False
    (published,) = seen.container["NetworkSettings"]["Ports"]["8000/tcp"]
    assert published == {"HostIp": "127.0.0.1", "HostPort": str(launch["port"])}
    assert describe_holder(launch["port"]) == ""
