"""What only our client and the floor are measured by: growth, one core, busy cores, memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.clients import FLOOR, OURS
from benchmarks.measure import ClientError, measure
from benchmarks.python_truth import PythonTruth
from benchmarks.truth import TruthServer
from benchmarks.work import IDLE, Work, flood, paced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.clients import Client
    from benchmarks.results import Book

STREAMS = (1, 8, 64, 512, 2048)
EVENTS = (10_000, 100_000, 1_000_000, 10_000_000)
LOGGED = 1_000_000
"""Most events of a run whose truth is kept; beyond, only costs are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measurement of a part.

    Attributes:
        part: The table that it belongs to.
        client: Whose.
        work: What.
        rounds: How often it is measured.
        one_core: Whether the client may use one core only.
        busy: Whether a process without end runs on every core meanwhile.
        server: Which truth server.
        look_s: Pause between looks at its memory.
    """

    part: str
    client: Client
    work: Work
    rounds: int = 3
    one_core: bool = False
    busy: bool = False
    server: type[TruthServer | PythonTruth] = TruthServer
    look_s: float = 0.25


def _cases() -> tuple[Case, ...]:
    """Return all measurements, the short ones first."""
    both = (OURS, FLOOR)
    million = replace(flood(1_000_000, tokens=1024), name="flood-1e6")
    return (
        *(Case(part="idle", client=client, work=IDLE) for client in both),
        *(
            Case(part="streams", client=client, work=paced(streams), rounds=2)
            for streams in STREAMS
            for client in both
        ),
        *(
            Case(part="events", client=OURS, work=_growing(events), rounds=_rounds(events))
            for events in EVENTS
        ),
        *(Case(part="one core", client=c, work=million, one_core=True, look_s=0.1) for c in both),
        Case(part="busy cores", client=OURS, work=paced(256), busy=True),
        Case(part="busy cores", client=FLOOR, work=paced(256), busy=True),
        *(
            Case(part="python truth", client=OURS, work=paced(streams), server=PythonTruth)
            for streams in (64, 512)
        ),
    )


def _tiny() -> tuple[Case, ...]:
    """Return every kind of measurement with next to no work."""
    small = paced(4, tokens=4)
    return (
        Case(part="idle", client=OURS, work=IDLE, rounds=1),
        Case(part="streams", client=OURS, work=small, rounds=1),
        Case(part="one core", client=OURS, work=flood(4_000, tokens=100), one_core=True, rounds=1),
        Case(part="busy cores", client=OURS, work=small, busy=True, rounds=1),
        Case(part="python truth", client=OURS, work=small, server=PythonTruth, rounds=1),
    )


def run_own(book: Book, clients: Sequence[Client], *, number: int, until: float, tiny: bool) -> int:
    """Measure all cases that have so many rounds once; return how many measurements failed."""
    failed = 0
    for case in _tiny() if tiny else _cases():
        key = {
            "part": case.part,
            "client": case.client.name,
            "work": case.work.name,
            "round": number,
        }
        if number > case.rounds or case.client not in clients or book.has(**key):
            continue
        if time.monotonic() > until:
            print(f"own: no time for round {number} of {case.part}", file=sys.stderr)
            continue
        try:
            row = _measured(case)
        except ClientError as error:
            print(f"own: {error}", file=sys.stderr)
            failed += 1
            continue
        book.add({**key, **row})
        print(
            f"own: {case.part:12} {case.work.name:12} {case.client.name:16} "
            f"{row['wall_s']:6.1f} s, CPU {row['cpu_s']:6.2f} s, {row['pss_mb']:.0f} MB",
            file=sys.stderr,
            flush=True,
        )
    return failed


def _measured(case: Case) -> dict[str, Any]:
    with ExitStack() as stack:
        if case.busy:
            stack.enter_context(_busy_cores())
        return measure(
            case.client,
            case.work,
            look_s=case.look_s,
            cores={0} if case.one_core else None,
            server=case.server,
            log=case.work.events <= LOGGED * 1.1,
        )


def _growing(events: int) -> Work:
    """Return a flood that grows by the length of replies; thousands of requests in all."""
    tokens = max(256, min(4096, events // 1000))
    return replace(flood(events, tokens=tokens), name=f"flood-{events:.0e}".replace("+0", ""))


def _rounds(events: int) -> int:
    return 1 if events > LOGGED else 3


@contextmanager
def _busy_cores() -> Iterator[None]:
    """Keep every core busy, at the priority of all others."""
    hogs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
