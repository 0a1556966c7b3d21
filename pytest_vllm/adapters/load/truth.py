"""A server whose every write is known: what a client measures can be held against the truth.

It writes streams in the shape of vLLM 0.32 by an exact `Schedule`, from a process of its own, and
logs the monotonic clock just before and after each write. The idea is that of the C stub by which
the client stacks were measured; this one needs no compiler, so it comes with the package.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pytest_vllm.adapters.load.truth_schedule import Schedule
from pytest_vllm.adapters.load.truth_stream import COLUMNS
from pytest_vllm.domain.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Schedule", "TruthLog", "TruthServer"]

PATIENCE_S = 30.0
"""Seconds for an answer of the process; it takes milliseconds on an idle host."""

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthLog:
    """What was written when: one row for each write, in the order of the writes.

    Attributes:
        request: Number of the request, from 1 in the order of arrival.
        tag: The request's own `stub_tag`, -1 without.
        event: Number of the first event of the write within its request, from 0.
        events: How many events it carried.
        due_ns: When it was due by the schedule, monotonic; 0 in a flood.
        before_ns: Monotonic clock just before the write.
        after_ns: And just after it.
        requests: Requests that were answered with tokens.
        written: Events that were written.
        dropped: Writes that the log had no room for.
        cpu_s: CPU seconds of the server's process since its start.
    """

    request: array[int]
    tag: array[int]
    event: array[int]
    events: array[int]
    due_ns: array[int]
    before_ns: array[int]
    after_ns: array[int]
    requests: int
    written: int
    dropped: int
    cpu_s: float

    def by_tag(self) -> dict[int, array[int]]:
        """Give the time before the write of each event, by the tag of its request."""
        times: dict[int, array[int]] = {}
        for tag, events, before in zip(self.tag, self.events, self.before_ns, strict=True):
            column = times.get(tag)
            if column is None:
                column = times[tag] = array("q")
            for _ in range(events):
                column.append(before)
        return times

    def lateness_ns(self) -> Iterator[int]:
        """Give how late each write was against its schedule."""
        return (
            before - due for before, due in zip(self.before_ns, self.due_ns, strict=True) if due
        )


class TruthServer:
    """Serve by a schedule while the context lasts, on a port of its own of 127.0.0.1.

    Args:
        schedule: When a reply is written.

    Raises:
        HostError: Its process did not come up, or ended.
    """

    def __init__(self, schedule: Schedule | None = None) -> None:
        self._schedule = schedule or Schedule()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.url = ""

    def __enter__(self) -> Self:
        """Start the process and set its schedule."""
        if not hasattr(select, "epoll"):
            raise HostError(
                "the truth server, which the client is calibrated against, needs Linux, not "
                f"{sys.platform}",
                advice="load from a Linux host, or leave the calibration out (--no-calibrate)",
            )
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE_S)
        start = f"import sys; sys.path.append({str(_ROOT)!r}); sys.argv[1:] = [{theirs.fileno()!r}]"
        code = f"{start}; from pytest_vllm.adapters.load.truth_server import main; main()"
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                    [sys.executable, "-I", "-S", "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    # A Ctrl-C is for whoever started it; it ends when their end closes.
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise HostError(f"the truth server could not be started: {error}") from error
        self._control = ours
        try:
            self.url = f"http://127.0.0.1:{json.loads(self._line())['port']}"
            self.set(self._schedule)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the process; closing its socket is all that it takes."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stderr is not None:
                self._process.stderr.close()

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self._process.pid if self._process is not None else 0

    def set(self, schedule: Schedule) -> None:
        """Change the schedule, and begin its noise anew, for requests that come from now on."""
        self._order({"do": "set", "schedule": asdict(schedule)})

    def log(self) -> TruthLog:
        """Give what was written since the start or the last call."""
        told = self._order({"do": "log"})
        columns: dict[str, array[int]] = {}
        for (name, code), size in zip(COLUMNS, told["sizes"], strict=True):
            columns[name] = array(code)
            columns[name].frombytes(self._exactly(size))
        return TruthLog(
            **columns,
            requests=told["requests"],
            written=told["events"],
            dropped=told["dropped"],
            cpu_s=told["cpu_s"],
        )

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        if self._control is None:
            raise HostError("the truth server is asked outside of its context")
        try:
            self._control.sendall(json.dumps(order).encode() + b"\n")
        except OSError as error:
            raise self._ended(error) from error
        told: dict[str, Any] = json.loads(self._line())
        return told

    def _line(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._exactly(1)
        return bytes(line)

    def _exactly(self, size: int) -> bytes:
        if self._control is None:
            raise HostError("the truth server is asked outside of its context")
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                got = self._control.recv_into(view)
            except OSError as error:
                raise self._ended(error) from error
            if not got:
                raise self._ended(None)
            view = view[got:]
        return bytes(data)

    def _ended(self, error: OSError | None) -> HostError:
        said = ""
        if self._process is not None and self._process.stderr is not None:
            self._process.kill()
            said = self._process.stderr.read().decode(errors="replace").strip()[-500:]
        why = said.splitlines()[-1] if said else str(error or "it closed its socket")
        return HostError(
            f"the truth server, which the client is calibrated against, ended: {why}",
            advice="see whether the host is out of memory or file descriptors, then run it again",
        )
