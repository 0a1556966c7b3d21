"""Copies its input to its output and notes when each line came: `note.py FILE`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

CHUNK = 65_536


def main(file: str) -> None:
    """Copy until the last writer has gone, whatever signals the server's processes get."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    rest = b""
    with Path(file).open("ab", buffering=0) as notes:
        notes.write(b"%.6f\t[a server begins]\n" % time.monotonic())
        while chunk := os.read(0, CHUNK):
            now = time.monotonic()
            os.write(1, chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            notes.write(b"".join(b"%.6f\t%s\n" % (now, line) for line in lines))


if __name__ == "__main__":
    main(sys.argv[1])
