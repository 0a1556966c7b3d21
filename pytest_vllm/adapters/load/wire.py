"""What goes between `run` and its collector: a plan there, columns back, both as plain bytes.

A plan may be 100,000 requests: bodies stay bytes in the file, and are read one by one as they are
sent. The file is one in memory (memfd_create(2)), so nothing is left behind whatever happens.
"""

from __future__ import annotations

import json
import os
import struct
from array import array
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Any

from pytest_vllm.adapters.load.rows import COUNTS, SPANS, TIMES
from pytest_vllm.domain.load.columns import Columns
from pytest_vllm.domain.load.schedule import NO_ONE, NO_TIME, Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.adapters.load.rows import Rows
    from pytest_vllm.domain.load.plan import Request

_LENGTH = struct.Struct("<Q")
_NS = 1_000_000_000
_PLAN = (("due", "q"), ("after", "q"), ("pause", "q"), ("path", "H"), ("start", "q"))


def file_in_memory(name: str) -> IO[bytes]:
    """Open a file that has no place on any disk where the system knows such."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create(name), "w+b")  # noqa: PTH123 - the caller closes it
    import tempfile  # noqa: PLC0415 - it is slow to load and hardly ever wanted

    return tempfile.TemporaryFile()


def write_plan(file: IO[bytes], head: Mapping[str, Any], requests: Sequence[Request]) -> None:
    """Write a plan: what holds for all requests, then their columns, then their bodies."""
    paths = list(dict.fromkeys(one.path for one in requests))
    number = {path: index for index, path in enumerate(paths)}
    _write_head(file, {**head, "paths": paths, "requests": len(requests)})
    for column in (
        array("q", [NO_TIME if one.due_ns is None else one.due_ns for one in requests]),
        array("q", [NO_ONE if one.after is None else one.after for one in requests]),
        array("q", [one.pause_ns for one in requests]),
        array("H", [number[one.path] for one in requests]),
        array("q", accumulate((len(one.body) for one in requests), initial=0)),
    ):
        file.write(memoryview(column))
    for one in requests:
        file.write(one.body)
    file.flush()


class Order:
    """A plan as the collector has it.

    Attributes:
        head: What holds for all requests.
        length: How many there are.
        due: When each is due, `NO_TIME` in a closed loop.
        after: Which one it waits for, or `NO_ONE`.
        pause: For how long after that.
    """

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        self.head = _read_head(file)
        self.length: int = self.head["requests"]
        columns: dict[str, array[int]] = {}
        for name, code in _PLAN:
            columns[name] = column = array(code)
            column.fromfile(file, self.length + (name == "start"))
        self.due, self.after, self.pause = columns["due"], columns["after"], columns["pause"]
        self._path, self._start = columns["path"], columns["start"]
        self._offset, self._fd = file.tell(), file.fileno()
        self._heads = [head.encode("latin-1") for head in self.head["heads"]]

    def schedule(self, begin_ns: int) -> Schedule:
        """Return who is next when the load begins at a time."""
        return Schedule(
            due_ns=self.due,
            after=self.after,
            pause_ns=self.pause,
            places=self.head["concurrency"],
            ramp_ns=int(self.head["ramp_s"] * _NS),
            begin_ns=begin_ns,
        )

    def raw(self, number: int) -> bytes:
        """Return a request as it goes over the wire."""
        start = self._start[number]
        body = os.pread(self._fd, self._start[number + 1] - start, self._offset + start)
        return b"%b%d\r\n\r\n%b" % (self._heads[self._path[number]], len(body), body)


def write_rows(file: IO[bytes], rows: Rows, head: Mapping[str, Any]) -> None:
    """Write what came back."""
    columns = rows.columns
    _write_head(
        file,
        {
            **head,
            "begin_ns": columns.begin_ns,
            "finish_ns": columns.finish_ns,
            "requests": len(columns.ending),
            "events": len(columns.event_ns),
            "finishes": list(rows.finishes),
            "failures": list(rows.failures.items()),
            "server_ms": list(columns.server_ms),
        },
    )
    for name in (*TIMES, *SPANS, *COUNTS):
        file.write(memoryview(getattr(columns, name)))
    for column in (rows.finish, columns.event_ns, columns.event_tokens):
        file.write(memoryview(column))
    for timing in columns.server_ms.values():
        file.write(memoryview(timing))
    file.flush()


def read_rows(file: IO[bytes]) -> tuple[Columns, dict[str, Any]]:
    """Read what came back: columns, and what was said of how it was measured."""
    file.seek(0)
    head = _read_head(file)
    length, columns = head["requests"], Columns()
    for name in (*TIMES, *SPANS, *COUNTS):
        getattr(columns, name).fromfile(file, length)
    finish = array("B")
    finish.fromfile(file, length)
    columns.finish = [head["finishes"][one] for one in finish]
    columns.event_ns.fromfile(file, head["events"])
    columns.event_tokens.fromfile(file, head["events"])
    for name in head["server_ms"]:
        columns.server_ms[name] = array("d")
        columns.server_ms[name].fromfile(file, length)
    columns.failures = dict(head["failures"])
    columns.begin_ns, columns.finish_ns = head["begin_ns"], head["finish_ns"]
    return columns, head


def _write_head(file: IO[bytes], head: Mapping[str, Any]) -> None:
    raw = json.dumps(head).encode()
    file.write(_LENGTH.pack(len(raw)) + raw)


def _read_head(file: IO[bytes]) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
    head: dict[str, Any] = json.loads(file.read(length))
    return head
