"""The comparison: every client on the same work, one after the other, again and again."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from benchmarks.measure import ClientError, measure
from benchmarks.results import Book
from benchmarks.work import IDLE, flood, paced

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from benchmarks.clients import Client

WORKS = (IDLE, paced(64), paced(256), paced(512), flood(65_536))
TINY = (IDLE, paced(4, tokens=4), flood(2_048, streams=4, tokens=64))


def run_peers(clients: Sequence[Client], options: argparse.Namespace, *, until: float) -> int:
    """Measure all clients in rounds (A B C ... A B C); return how many measurements failed."""
    book = Book(options.out / "peers.json", fresh=not options.resume)
    works = TINY if options.tiny else WORKS
    failed = 0
    for number in range(1, (1 if options.tiny else options.rounds) + 1):
        if time.monotonic() > until:
            print(f"peers: the time is over before round {number}", file=sys.stderr)
            break
        for work in works:
            for client in clients:
                key = {"client": client.name, "work": work.name, "round": number}
                if book.has(**key):
                    continue
                try:
                    row = measure(client, work)
                except ClientError as error:
                    print(f"peers: {error}", file=sys.stderr)
                    failed += 1
                    continue
                book.add({**key, "version": client.version, **row})
                print(
                    f"peers: round {number} {work.name:10} {client.name:16} "
                    f"{row['wall_s']:6.1f} s, CPU {row['cpu_s']:6.2f} s, {row['pss_mb']:.0f} MB",
                    file=sys.stderr,
                )
    return failed
