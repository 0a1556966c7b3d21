"""Run the benchmarks: `python -m benchmarks` (./dev benchmarks).

    python -m benchmarks                    all of it, into benchmarks/results/
    python -m benchmarks peers own          parts of it
    python -m benchmarks --minutes 20       begin no further round after so long
    python -m benchmarks --tiny --out DIR   a try of everything, with next to no work

What is in the results already is not run again (an interrupted run goes on); `--fresh` begins anew.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.clients import CLIENTS_ALL
from benchmarks.own import run_own
from benchmarks.peers import run_peers
from benchmarks.places import PLACES, provide
from benchmarks.results import RESULTS

PARTS = {"own": run_own, "peers": run_peers}


def main(words: list[str]) -> int:
    """Run what was asked for; return 1 if a client failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Our load client beside the others."
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], metavar="own|peers")
    parser.add_argument("--only", nargs="+", metavar="CLIENT", help="only these clients")
    parser.add_argument("--rounds", type=int, default=3, help="times that all is repeated")
    parser.add_argument("--minutes", type=float, default=25.0, help="no new round after so long")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--tiny", action="store_true", help="with next to no work")
    parser.add_argument("--fresh", action="store_true", help="forget the results that are there")
    parser.add_argument("--provide", action="store_true", help="only install the peers")
    options = parser.parse_args(words)
    names = {client.name for client in CLIENTS_ALL}
    unknown = set(options.only or ()) - names
    if unknown:
        parser.error(
            f"--only: no client {', '.join(unknown)}; there are {', '.join(sorted(names))}"
        )
    clients = [client for client in CLIENTS_ALL if not options.only or client.name in options.only]
    parts = options.parts or list(PARTS)
    if "peers" in parts or options.provide:
        provide([place for place in PLACES if any(c.place is place for c in clients)])
    if options.provide:
        return 0
    until = time.monotonic() + options.minutes * 60
    failed = 0
    for part, run in PARTS.items():
        if part in parts:
            failed += run(clients, options, until=until)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
