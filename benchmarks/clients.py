"""What a client is, and those that are scripts of `inside/`: ours, the floor, two libraries."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.places import CLIENTS
from benchmarks.report import Report, read_times, report_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.places import Place
    from benchmarks.work import Work

INSIDE = Path(__file__).with_name("inside")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One measurement of one client: what to do, against which server, in which folder."""

    work: Work
    url: str
    folder: Path

    @property
    def out(self) -> Path:
        """File for the result."""
        return self.folder / "result"

    def text(self) -> str:
        """Return the job as JSON for the scripts of `inside/`."""
        return json.dumps(
            {
                "url": self.url,
                "streams": self.work.streams,
                "requests": self.work.requests,
                "tokens": self.work.tokens,
                "out": str(self.out),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client under comparison.

    Attributes:
        name: Its name in tables.
        version: Of what.
        command: The command line for a job; may write files into the job's folder.
        read: Its own figures, after the run.
        place: Its environment, `None` for those that others provide.
        variables: More environment variables for a job.
        tool: Whether it is a load tool of its own (else a library, or the floor).
    """

    name: str
    version: str
    command: Callable[[Job], list[str]]
    read: Callable[[Job], Report]
    place: Place | None = None
    variables: Callable[[Job], dict[str, str]] = lambda _: {}
    tool: bool = True


def _script(name: str, python: Callable[[], str]) -> Callable[[Job], list[str]]:
    return lambda job: [python(), str(INSIDE / name), job.text()]


def times(job: Job) -> Report:
    """Return the figures that follow from the times that a script left."""
    return report_of(read_times(job.out))


def _floor(job: Job) -> Report:
    """Tell the times of replies of which each event was one read, after the header's."""
    seen = read_times(job.out)
    count = len(seen.sent_ns)
    whole = {
        n: reads[1 : job.work.tokens + 1]
        for n, reads in seen.events_ns.items()
        if len(reads) >= job.work.tokens + 1
    }
    if not whole:
        return Report(requests=count)
    return replace(report_of(replace(seen, events_ns=whole)), requests=count)


def _ours(job: Job) -> Report:
    facts = json.loads(Path(f"{job.out}.facts").read_text("utf-8"))
    notes = {
        "collector_cpu_s": round(facts["cpu_s"], 3),
        "collector_peak_rss_mb": round(facts["peak_rss_bytes"] / 1e6, 1),
        "reads": facts["reads"],
        "coalesced_reads": facts["coalesced_reads"],
        "clock": facts["clock"],
        "path": facts["path"],
    }
    return replace(times(job), notes=notes)


OURS = Client(
    name="pytest-vllm",
    version="this commit",
    command=_script("ours.py", lambda: sys.executable),
    read=_ours,
)
FLOOR = Client(
    name="bare epoll loop",
    version="Python's select and socket",
    command=_script("floor.py", lambda: sys.executable),
    read=_floor,
    tool=False,
)
HTTPX = Client(
    name="httpx",
    version="0.28.1",
    command=_script("httpx_client.py", lambda: CLIENTS.program("python")),
    read=times,
    place=CLIENTS,
    tool=False,
)
OPENAI = Client(
    name="openai",
    version="2.46.0",
    command=_script("openai_client.py", lambda: CLIENTS.program("python")),
    read=times,
    place=CLIENTS,
    tool=False,
)
