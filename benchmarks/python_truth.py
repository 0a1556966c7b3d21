"""The truth server that ships with the package, behind the face of the C one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from benchmarks.truth import Truth
from pytest_vllm.adapters.load.truth import Schedule
from pytest_vllm.adapters.load.truth import TruthServer as Shipped

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.work import Work


class PythonTruth:
    """The shipped truth server for one piece of work.

    It does not tell when a request arrived, so there is no true TTFT: the schedule's start is
    taken for it, the time at which the server had read the request.
    """

    def __init__(self, work: Work, *, folder: Path, log: bool = True) -> None:  # noqa: ARG002 - its log is in memory
        self._schedule = Schedule(
            ttft_us=round(work.ttft_ms * 1000),
            itl_us=round(work.itl_ms * 1000),
            tokens=work.tokens,
            events_per_write=work.events_per_write,
            grid=work.grid,
        )
        self.url = ""
        self.begun = None  # it does not tell when the first request has come

    def __enter__(self) -> Self:
        """Start it."""
        self._server = Shipped(self._schedule).__enter__()
        self.url = self._server.url
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._server.__exit__(None, None, None)

    def stats(self) -> dict[str, Any]:
        """Return the server's counts and its CPU seconds."""
        log = self._log = self._server.log()  # reading empties it
        return {"events": log.written, "requests": log.requests, "cpu_s": log.cpu_s}

    def read(self) -> Truth:
        """Return what was sent until `stats` was asked for."""
        log = self._log
        truth = Truth()
        truth.before_ns = log.by_tag()
        truth.late_ns.extend(log.lateness_ns())
        return truth
