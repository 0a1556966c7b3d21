"""One measurement: a truth server, a client, and what both say."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.clients import Job
from benchmarks.cost import spend
from benchmarks.report import figures, told
from benchmarks.truth import TruthServer

if TYPE_CHECKING:
    from benchmarks.clients import Client
    from benchmarks.cost import Cost
    from benchmarks.python_truth import PythonTruth
    from benchmarks.truth import Truth
    from benchmarks.work import Work

LIMIT_S = 120.0
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "PYTEST_VLLM_CACHE")


class ClientError(Exception):
    """A client did not do its work; the message says what it printed last."""


def measure(  # noqa: PLR0913 - the parts of one measurement
    client: Client,
    work: Work,
    *,
    look_s: float = 1.0,
    cores: set[int] | None = None,
    server: type[TruthServer | PythonTruth] = TruthServer,
    log: bool = True,
) -> dict[str, Any]:
    """Run a client on some work; return a row of plain figures.

    Args:
        client: Which client.
        work: What it has to do.
        look_s: Pause between looks at its memory.
        cores: The cores that it may use; all by default.
        server: The kind of truth server.
        log: Whether the truth is kept; without, only costs are told.

    Raises:
        ClientError: It failed, or did other work than it was asked for.
    """
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as name,
        server(work, folder=Path(name), log=log) as serving,
    ):
        job = Job(work=work, url=serving.url, folder=Path(name))
        output = job.folder / "printed"
        load = os.getloadavg()[0]
        cost = spend(
            client.command(job),
            output=output,
            environment=_environment() | client.variables(job),
            limit_s=LIMIT_S,
            every_s=look_s,
            cores=cores,
            begun=serving.begun,
        )
        tail = output.read_text("utf-8", "replace")[-2000:]
        if cost.code:
            raise ClientError(f"{client.name}, {work.name}: exit code {cost.code}\n{tail}")
        stats = serving.stats()
        if stats["requests"] != work.requests or stats["events"] != work.events:
            raise ClientError(
                f"{client.name}, {work.name}: {work.requests} requests with {work.events} events "
                f"were asked for, the server saw {stats['requests']} and sent {stats['events']}\n"
                f"{tail}"
            )
        report = client.read(job)
        if report.requests != work.requests:
            raise ClientError(f"{client.name}, {work.name}: it tells of {report.requests} requests")
        truth = serving.read() if log else None
    return {
        "client": client.name,
        "work": work.name,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_before": round(load, 2),
        "events": work.events,
        "cpu_s": round(cost.cpu_s, 3),
        **({} if cost.start_cpu_s is None else {"start_cpu_s": round(cost.start_cpu_s, 3)}),
        "wall_s": round(cost.wall_s, 3),
        "pss_mb": round(cost.pss_mb, 1),
        "processes": cost.processes,
        "server_cpu_s": round(stats["cpu_s"], 3),
        **(told(report) if truth is None else figures(report, truth)),
        **_start(truth, cost),
        **(report.notes or {}),
    }


def _start(truth: Truth | None, cost: Cost) -> dict[str, float]:
    """Return the seconds until the first request arrived, where that is known."""
    if truth is None or not truth.arrival_ns:
        return {}
    return {"start_s": round((truth.first_ns - cost.spawn_ns) / 1e9, 3)}


def _environment() -> dict[str, str]:
    """Return the variables that a client gets: no proxies, no settings of ours."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"NO_COLOR": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
