"""The benchmarks' harness, and the smallest of its comparisons: ours, httpx and the floor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.clients import FLOOR, HTTPX, INSIDE, OURS, Job
from benchmarks.cost import spend
from benchmarks.measure import ClientError, measure
from benchmarks.truth import TruthServer
from benchmarks.work import IDLE, Work, flood, paced

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.clients import Client

BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"


def _httpx() -> Client:
    """Return httpx as it is installed here; the whole table pins its own."""
    script = str(INSIDE / "httpx_client.py")

    def command(job: Job) -> list[str]:
        return [sys.executable, script, job.text()]

    return replace(HTTPX, command=command, place=None)


def test_the_server_logs_when_it_wrote_what(tmp_path: Path) -> None:
    """Every event is in the log, between its request and the next, never before it was due."""
    work = Work(name="few", streams=1, requests=1, tokens=5, ttft_ms=20, itl_ms=10)
    with TruthServer(work, folder=tmp_path) as server:
        command = FLOOR.command(Job(work=work, url=server.url, folder=tmp_path))
        begin = time.monotonic_ns()
        subprocess.run(command, check=True)
        end = time.monotonic_ns()
        truth = server.read()

    assert begin < truth.arrival_ns[0] < truth.before_ns[0][0]
    assert len(truth.before_ns[0]) == work.tokens
    pairs = zip(truth.before_ns[0], truth.after_ns[0], strict=True)
    assert all(before <= after < end for before, after in pairs)
    assert all(late >= 0 for late in truth.late_ns)


def test_what_a_command_leaves_behind_is_counted_and_ended(tmp_path: Path) -> None:
    """A grandchild whose parent has gone is nobody's in a shell; here its time counts."""
    pid = tmp_path / "pid"
    orphan = (
        f"import os\n{BURN}"
        f"with open({f'{pid}.new'!r}, 'w') as file: file.write(str(os.getpid()))\n"
        f"os.replace({f'{pid}.new'!r}, {str(pid)!r})\n"
    )
    parent = (
        f"import subprocess, sys, os, time\n{BURN}"
        f"command = [sys.executable, '-c', {orphan + 'time.sleep(600)'!r}]\n"
        "subprocess.Popen(command, start_new_session=True)\n"
        f"while not os.path.exists({str(pid)!r}): time.sleep(0.05)\n"
    )

    cost = spend(
        [sys.executable, "-c", parent],
        output=tmp_path / "printed",
        environment={"PATH": os.environ["PATH"]},
        limit_s=60,
    )

    assert cost.code == 0
    assert cost.cpu_s >= 0.6
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text("utf-8")), 0)


def test_a_client_that_does_other_work_is_no_result() -> None:
    """One that leaves a request out is refused, whatever it tells."""
    lazy = replace(
        FLOOR, command=lambda job: FLOOR.command(replace(job, work=replace(job.work, requests=1)))
    )
    work = Work(name="few", streams=1, requests=2, tokens=2, ttft_ms=1, itl_ms=1)

    with pytest.raises(ClientError, match="2 requests with 4 events were asked for"):
        measure(lazy, work)


def test_ours_costs_at_most_half_of_httpx() -> None:
    """CPU for each event of a flood, without what a start costs; both in one run."""
    load = flood(40_000, tokens=256)
    costs = {}
    for client in (OURS, _httpx()):
        fixed, whole = measure(client, IDLE), measure(client, load)
        assert whole["matched_events"] == load.events
        costs[client.name] = whole["cpu_s"] - fixed["cpu_s"]

    assert costs["pytest-vllm"] <= costs["httpx"] / 2


def test_ours_errs_by_less_than_half_of_httpx() -> None:
    """Times of events against the truth, where an engine's step ends for all streams at once."""
    load = paced(32, tokens=16)
    ours, theirs = (measure(client, load) for client in (OURS, _httpx()))

    assert ours["matched_events"] == theirs["matched_events"] == load.events
    assert ours["event_error_p50_us"] <= theirs["event_error_p50_us"] / 2
