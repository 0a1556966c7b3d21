"""Run the benchmarks: `python -m benchmarks` (./dev benchmarks).

    python -m benchmarks                    all of it; prints the page
    python -m benchmarks --write            and keeps the results for docs/benchmarks.md
    python -m benchmarks peers own          parts of it
    python -m benchmarks --minutes 20       ends within so long, with fewer rounds
    python -m benchmarks --tiny             a try of everything, with next to no work

Results are kept after every measurement; `--resume` goes on where a run with the same `--out` (or
`--write`) was interrupted. The exit code is 1 when a client failed or when a ratio of costs is not
as it must be. Times are no reason for that: they depend on who else uses the machine.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.load_tools import CLIENTS_ALL
from benchmarks.own import run_own
from benchmarks.page import render
from benchmarks.peers import run_peers
from benchmarks.places import PLACES, provide
from benchmarks.results import RESULTS, Book
from benchmarks.targets import targets

PARTS = {"peers": run_peers, "own": run_own}


def main(words: list[str]) -> int:
    """Run what was asked for, print what came of it."""
    options = _options(words)
    clients = [client for client in CLIENTS_ALL if not options.only or client.name in options.only]
    if "peers" in options.parts or options.provide:
        provide([place for place in PLACES if any(c.place is place for c in clients)])
    if options.provide:
        return 0
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for thousands of streams
    until = time.monotonic() + options.minutes * 60
    failed = 0
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        out = options.out or (RESULTS if options.write else Path(folder))
        books = {part: Book(out / f"{part}.json", fresh=not options.resume) for part in PARTS}
        for number in range(1, (1 if options.tiny else options.rounds) + 1):
            # in the last round ours come first: it is the one that time may cut
            parts = [part for part in PARTS if part in options.parts]
            for part in parts[::-1] if number == options.rounds else parts:
                failed += PARTS[part](
                    books[part], clients, number=number, until=until, tiny=options.tiny
                )
        if not all(book.rows for book in books.values()):
            return int(bool(failed))
        print(render(out))
    held = targets(books["peers"].rows, books["own"].rows)
    missed = [target for target in held if target.unit == "x" and not target.reached]
    for target in () if options.tiny else missed:
        print(f"benchmarks: {': '.join(target.cells()[:3])}", file=sys.stderr)
    return int(bool(failed or (missed and not options.tiny)))


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Our load client beside the others."
    )
    parser.add_argument("parts", nargs="*", metavar="own|peers", help="all without")
    parser.add_argument("--only", nargs="+", metavar="CLIENT", help="only these clients")
    parser.add_argument("--rounds", type=int, default=3, help="times that all is measured")
    parser.add_argument(
        "--minutes", type=float, default=25.0, help="begin nothing that lasts longer"
    )
    parser.add_argument("--write", action="store_true", help="results into benchmarks/results")
    parser.add_argument("--out", type=Path, help="results into another folder")
    parser.add_argument("--resume", action="store_true", help="keep the results that are there")
    parser.add_argument("--tiny", action="store_true", help="with next to no work")
    parser.add_argument("--provide", action="store_true", help="only install the peers")
    options = parser.parse_args(words)
    for kind, given, known in (
        ("part", options.parts, list(PARTS)),
        ("client", options.only or [], [client.name for client in CLIENTS_ALL]),
    ):
        for name in given:
            if name not in known:
                parser.error(f"there is no {kind} {name!r}, only {', '.join(known)}")
    options.parts = options.parts or list(PARTS)
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
