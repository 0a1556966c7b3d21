"""The comparison: every client on the same work, one after the other, again and again."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from benchmarks.measure import ClientError, measure
from benchmarks.work import IDLE, flood, paced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.clients import Client
    from benchmarks.results import Book
    from benchmarks.work import Work

WORKS = (IDLE, paced(512), flood(65_536), paced(256), paced(64))
TINY = (IDLE, paced(4, tokens=4), flood(2_048, streams=4, tokens=64))


def run_peers(
    book: Book, clients: Sequence[Client], *, number: int, until: float, tiny: bool
) -> int:
    """Measure all clients once, work by work; return how many measurements failed.

    A work is not begun when it would not be done by `until`, so that a round has all clients of a
    work or none.
    """
    failed = 0
    for work in TINY if tiny else WORKS:
        if time.monotonic() + _took_s(book, work, number - 1) > until:
            print(f"peers: no time for round {number} of {work.name}", file=sys.stderr)
            continue
        for client in clients:
            failed += _one(book, client, work, number)
    return failed


def _one(book: Book, client: Client, work: Work, number: int) -> int:
    key = {"client": client.name, "work": work.name, "round": number}
    if book.has(**key):
        return 0
    begun = time.monotonic()
    try:
        row = measure(client, work)
    except ClientError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    book.add(
        {**key, "version": client.version, **row, "took_s": round(time.monotonic() - begun, 1)}
    )
    print(
        f"peers: round {number} {work.name:10} {client.name:16} "
        f"{row['wall_s']:6.1f} s, CPU {row['cpu_s']:6.2f} s, {row['pss_mb']:.0f} MB",
        file=sys.stderr,
        flush=True,
    )
    return 0


def _took_s(book: Book, work: Work, number: int) -> float:
    """Return how long a round of some work took; 0 before the first."""
    rows = [row for row in book.rows if row["work"] == work.name and row["round"] == number]
    return sum(float(row["took_s"]) for row in rows)
