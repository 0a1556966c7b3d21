"""Failures provoked live on real vLLM and real Docker: the right cause, cure and exit code.

Each case has up to two parts. Early: preflight finds it and no server is started. Late: preflight
is told to let it pass, and real vLLM or the real engine fails. `PYTEST_VLLM_TEST_ALL` runs all late
parts; else those run that are cheap, and one of each kind. `python -m tools.failures` runs all and
writes the table in docs/failures.md.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import tarfile
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.domain.finding import Severity
from tests.data.broken_models import break_model
from tests.data.hub.server import Hub, Repository
from tests.real.failures.case import Case, Ending, Place
from tests.real.failures.cases import CASES
from tests.real.failures.run import Seen, provoke

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
EARLY = [case for case in CASES if case.early is not None]
LATE = [case for case in CASES if case.late is not None and (case.always or ALL)]
AT_ONCE = 2
"""Runs at the same time: vLLM's start is mostly one busy core."""
REPORT_S = 40
"""From failure to verdict; most of it is the end of the rest of the server, on two busy cores: what
hears no SIGTERM has a grace of 20 s.

A machine on which the start takes longer than this may take as long for the report.
"""
FOREIGN_IMAGE = f"pytest-vllm-test:foreign-program-{uuid.uuid4().hex[:8]}"
"""Of this process alone: another run on this host may use its own at the same time."""

Provoked = Future[Seen]


@pytest.fixture(scope="module")
def foreign_image() -> Iterator[str]:
    """Import an image whose programs have the head of an ELF program for S390.

    Its shell, too: what the kernel cannot execute is tried as a script.
    """
    head = b"\x7fELF" + bytes([2, 2, 1]) + bytes(9) + (2).to_bytes(2) + (22).to_bytes(2) + bytes(44)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("usr/bin/vllm", "bin/sh"):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(head), 0o755
            tar.addfile(entry, io.BytesIO(head))
    command = ["docker", "import", "--change", "ENV PATH=/usr/bin", "-", FOREIGN_IMAGE]
    subprocess.run(command, input=packed.getvalue(), check=True, capture_output=True)
    yield FOREIGN_IMAGE
    subprocess.run(["docker", "image", "rm", FOREIGN_IMAGE], check=True, capture_output=True)


@pytest.fixture(scope="module")
def hubs(real_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Hub]]:
    """Two stand-ins for the Hub: one open, one with a certificate that nobody knows."""
    file = tmp_path_factory.mktemp("tls") / "own.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{file}.key", "-out", file]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + Path(f"{file}.key").read_bytes())
    repositories = {"org/small": Repository(folder=Path(real_model))}
    with Hub(repositories) as plain, Hub(repositories, certificate=file) as encrypted:
        yield plain, encrypted


@pytest.fixture(scope="module")
def make_place(  # the parts of a place
    real_vllm_python: str,
    real_model: str,
    real_image: str,
    hubs: tuple[Hub, Hub],
    foreign_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], Place]]:
    """Make the place of one run, with an empty folder of its own."""
    with ExitStack() as stack:
        holder = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def make() -> Place:
            folder = tmp_path_factory.mktemp("run")
            models = tmp_path_factory.mktemp("models")
            return Place(
                python=real_vllm_python,
                model=real_model,
                image=real_image,
                folder=folder,
                hub=hubs[0],
                tls=hubs[1],
                foreign_image=foreign_image,
                broken=lambda kind: break_model(kind, Path(real_model), models),
                port=holder.getsockname()[1],
            )

        yield make


@pytest.fixture(scope="module")
def provoked(
    request: pytest.FixtureRequest, make_place: Callable[[], Place]
) -> Iterator[Callable[[Case, bool], Seen]]:
    """Return what came of a run; the runs go ahead of the tests, two at a time.

    Under xdist a worker does not know which tests are its own, so each run waits for its test.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        started: dict[tuple[str, bool], Provoked] = {}

        def start(case: Case, *, early: bool) -> Provoked:
            key = (case.name, early)
            if key not in started:
                started[key] = pool.submit(provoke, case, make_place(), early=early)
            return started[key]

        for item in [] if hasattr(request.config, "workerinput") else request.session.items:
            if isinstance(item, pytest.Function) and item.module is request.module:
                start(item.callspec.params["case"], early=item.originalname == test_early.__name__)
        try:
            yield lambda case, early: start(case, early=early).result()
        finally:
            pool.shutdown(cancel_futures=True)


def judge(case: Case, ending: Ending, seen: Seen) -> dict[str, Any]:
    """Hold a run against what it has to come to; return a row for the table."""
    shown = f"{' '.join(seen.command)}\n{seen.output}\n{seen.log[-4000:]}"
    assert seen.exit_code == ending.exit_code, shown
    assert seen.record is not None, shown
    failure = seen.record.failure
    diagnosis = failure.diagnosis if failure is not None else None
    attempts = [attempt.diagnosis for attempt in seen.record.attempts]
    fatal = [f for f in seen.record.findings if f.severity is Severity.FATAL and not f.ignored]
    ended = [f for f in seen.record.findings if f.seen.startswith("the server ended in mid-run")]
    said = diagnosis or [*attempts, *fatal, *ended][0]
    assert said.ref == ending.ref, shown
    assert re.search(ending.cure, said.cure), f"cure: {said.cure}\n{shown}"
    assert seen.left == (), shown
    assert str(said.ref) in seen.output, shown
    return {
        "case": case.name,
        "what": case.what,
        "ref": said.ref,
        "id": said.id,
        "fault": said.fault,
        "exit": seen.exit_code,
        "took_s": seen.took_s,
        "lived_s": seen.lived_s,
        "report_s": seen.report_s,
        "cure": said.cure,
    }


@pytest.mark.parametrize("case", EARLY, ids=lambda case: case.name)
def test_early(
    case: Case,
    provoked: Callable[[Case, bool], Seen],
    record_property: Callable[[str, object], None],
) -> None:
    """Preflight finds it: no server is started."""
    seen = provoked(case, True)  # noqa: FBT003 - which part of the case
    assert case.early is not None
    row = judge(case, case.early, seen)
    assert not seen.began
    assert seen.log == ""
    record_property("failure", json.dumps({**row, "layer": "preflight"}))


@pytest.mark.parametrize("case", LATE, ids=lambda case: case.name)
def test_late(
    case: Case,
    provoked: Callable[[Case, bool], Seen],
    record_property: Callable[[str, object], None],
) -> None:
    """Real vLLM or the real engine fails, and is understood."""
    seen = provoked(case, False)  # noqa: FBT003 - which part of the case
    assert case.late is not None
    row = judge(case, case.late, seen)
    if case.late.line and seen.log:
        lines = seen.log.splitlines()
        assert any(re.search(case.late.line, line) for line in lines), seen.log
    phase = seen.record.failure.phase if seen.record and seen.record.failure else ""
    assert not case.late.phases or phase in case.late.phases, f"{phase}\n{seen.output}"
    limit_s = max(REPORT_S, seen.lived_s or 0)
    assert seen.report_s is None or seen.report_s < limit_s, seen.output
    record_property("failure", json.dumps({**row, "layer": "live", "phase": phase}))
