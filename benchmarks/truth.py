"""The truth: the C server of this folder, compiled once, one process for each measurement."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import urllib.request
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from tools.provision.place import cache_root

if TYPE_CHECKING:
    from benchmarks.work import Work

SOURCE = Path(__file__).with_name("truth_server.c")
_RECORD = struct.Struct("<Iiqqq")
_ARRIVED, _ENDED = -1, -2


def compiled() -> Path:
    """Return the program of the truth server; compile it where its source is new."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("error: the benchmarks compile their truth server: install a C compiler.")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    program = cache_root() / f"truth-server-{digest}"
    if not program.exists():
        partial = program.with_suffix(".partial")
        subprocess.run([compiler, "-O2", "-Wall", "-o", partial, SOURCE], check=True)
        partial.rename(program)
    return program


@dataclass(slots=True, kw_only=True)
class Truth:
    """What the server saw and sent, in nanoseconds of CLOCK_MONOTONIC, by request.

    Attributes:
        arrival_ns: When the kernel got the request.
        before_ns: Just before the send() of each token event.
        after_ns: Just after it.
        late_ns: How late each event was sent against its schedule, of all requests.
    """

    arrival_ns: dict[int, int] = field(default_factory=dict)
    before_ns: dict[int, array[int]] = field(default_factory=dict)
    after_ns: dict[int, array[int]] = field(default_factory=dict)
    late_ns: array[int] = field(default_factory=lambda: array("q"))

    @property
    def first_ns(self) -> int:
        """The moment of the first request."""
        return min(self.arrival_ns.values())

    @property
    def last_ns(self) -> int:
        """The moment of the last event."""
        return max(times[-1] for times in self.before_ns.values())


class TruthServer:
    """A truth server for one piece of work; `with` it, then `read` what was sent."""

    def __init__(self, work: Work, *, folder: Path, log: bool = True) -> None:
        self._log = folder / "truth.log"
        self._command = [
            str(compiled()),
            str(round(work.ttft_ms * 1000)),
            str(round(work.itl_ms * 1000)),
            str(work.tokens),
            str(work.events_per_write),
            str(int(work.grid)),
            # a client that asks more than it should is noticed, not cut off
            str((work.events + 2 * work.requests) * 2 if log else 0),
            str(self._log),
        ]
        self.url = ""

    def __enter__(self) -> Self:
        """Start it; it ends with this process, too."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None  # noqa: S101 - it is piped
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self.begun.close()

    @property
    def begun(self) -> IO[str]:
        """What gives a line when the first request has come."""
        assert self._process.stdout is not None  # noqa: S101 - it is piped
        return self._process.stdout

    def stats(self) -> dict[str, Any]:
        """Return the server's counts and its CPU seconds."""
        answer: dict[str, Any] = json.loads(self._get("/_truth/stats"))
        return answer

    def read(self) -> Truth:
        """Return what was sent so far."""
        self._get("/_truth/log")
        truth = Truth()
        for request, event, scheduled, before, after in _RECORD.iter_unpack(self._log.read_bytes()):
            if event == _ARRIVED:
                truth.arrival_ns[request] = scheduled
                truth.before_ns[request] = array("q")
                truth.after_ns[request] = array("q")
            elif event != _ENDED:
                truth.before_ns[request].append(before)
                truth.after_ns[request].append(after)
                truth.late_ns.append(before - scheduled)
        self._log.unlink()
        return truth

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as reply:  # noqa: S310 - ours
            content: bytes = reply.read()
        return content
