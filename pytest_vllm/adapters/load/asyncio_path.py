"""The load by a kept library: HTTPS, proxies, redirects, several choices, systems without epoll.

It costs some ten times the CPU of the collector and has no kernel times, so `run.run_load` takes it
only where the collector cannot go, and the record says so. What is sent when, and how an event is
read, is the same code as the collector's.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load.asyncio_columns import gather, lateness
from pytest_vllm.adapters.load.asyncio_lanes import Lanes
from pytest_vllm.adapters.load.asyncio_reply import Exchange, Reply, Tally
from pytest_vllm.adapters.load.template import Templates
from pytest_vllm.domain.load.columns import NEVER, CollectorFacts
from pytest_vllm.domain.load.percentile import rank
from pytest_vllm.domain.load.progress import Progress
from pytest_vllm.domain.load.schedule import NO_ONE, NO_TIME, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.plan import LoadPlan

REPORT_S = 0.5
_NS = 1_000_000_000
_now = time.monotonic_ns


def run_asyncio(
    plan: LoadPlan, *, progress: Callable[[Progress], None] | None = None, reason: str = ""
) -> Columns:
    """Send a load through httpx, on a thread of its own.

    Proxies and certificates come from the environment (`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`,
    `SSL_CERT_DIR`), redirects are followed. Several choices of a request are one request: its
    events are those of all choices as they came, and its TTFT is that of the first.

    Args:
        plan: What is sent.
        progress: Told about twice a second, on the thread of the load.
        reason: Why not by the collector.

    Raises:
        TargetError: The URL or a header cannot be sent at all.
        HostError: This process may not have so many connections.
    """
    load = _Load(plan, progress=progress, reason=reason)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(load.run())
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=work, name="pytest-vllm-load", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:  # Ctrl-C: nothing is left in flight behind it
        load.stop()
        thread.join()
        raise
    if failed:
        raise failed[0]
    return load.columns()


class _Load:
    """One load while it runs."""

    def __init__(
        self, plan: LoadPlan, *, progress: Callable[[Progress], None] | None, reason: str
    ) -> None:
        self._plan = plan
        self._progress = progress
        self._reason = reason
        self._replies = [Reply() for _ in plan.requests]
        self._tally = Tally()
        self._templates = Templates()
        self._reported = (0, 0, 0)
        self._begin = self._finish = 0
        self._cpu_s = self._wait_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._schedule: Schedule | None = None
        self._clock_shift = 0

    def stop(self) -> None:
        """End the load from another thread."""
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(task.cancel)

    async def run(self) -> None:
        """Send all requests, and wait for their ends or the end of time."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        clocks, cpu, waited = _clocks(), time.thread_time(), _waited_s()
        try:
            async with Lanes(self._plan) as lanes:
                await self._send_all(lanes)
        finally:
            self._finish = _now()
            self._cpu_s = time.thread_time() - cpu
            self._wait_s = _waited_s() - waited
            self._clock_shift = _clocks() - clocks

    async def _send_all(self, lanes: Lanes) -> None:
        plan = self._plan
        self._begin = _now()
        schedule = self._schedule = Schedule(
            due_ns=[NO_TIME if one.due_ns is None else one.due_ns for one in plan.requests],
            after=[NO_ONE if one.after is None else one.after for one in plan.requests],
            pause_ns=[one.pause_ns for one in plan.requests],
            places=plan.concurrency,
            ramp_ns=int(plan.ramp_s * _NS),
            begin_ns=self._begin,
        )
        last = self._begin + int(plan.limits.run_s * _NS)
        report = self._begin + int(REPORT_S * _NS)
        flying: dict[asyncio.Task[None], tuple[int, httpx.AsyncClient]] = {}
        change = asyncio.Event()

        def over(task: asyncio.Task[None]) -> None:
            number, client = flying.pop(task)
            lanes.give_back(client)
            schedule.ended(number, self._replies[number].end_ns)
            change.set()

        try:
            while (now := _now()) < last:
                number = schedule.ready(now)
                if number is not None:
                    client = lanes.take()
                    exchange = Exchange(
                        client,
                        plan.requests[number],
                        plan.limits,
                        reply=self._replies[number],
                        tally=self._tally,
                        templates=self._templates,
                    )
                    task = asyncio.create_task(exchange.run())
                    flying[task] = (number, client)
                    task.add_done_callback(over)
                    continue
                upcoming = schedule.next_ns()
                if upcoming is None and not flying:
                    return
                if now >= report:
                    self._tell(now)
                    report = now + int(REPORT_S * _NS)
                until = min(last, report, last if upcoming is None else upcoming)
                change.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout((until - now) / _NS):
                        await change.wait()
        finally:
            left = list(flying)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            self._tell(_now())

    def _tell(self, now: int) -> None:
        if self._progress is None:
            return
        before, counted, known = self._reported
        tally = self._tally
        firsts = sorted(tally.latest)
        per_s = _NS / max(1, now - (before or self._begin))
        self._progress(
            Progress(
                elapsed_s=(now - self._begin) / _NS,
                planned=len(self._replies),
                sent=tally.sent,
                in_flight=tally.sent - tally.done - tally.failed,
                done=tally.done,
                failed=tally.failed,
                events=tally.events,
                events_per_s=(tally.events - counted) * per_s,
                tokens_per_s=None if tally.untold else (tally.tokens - known) * per_s,
                ttft_p50_ms=firsts[rank(500, len(firsts)) - 1] / 1e6 if firsts else None,
            )
        )
        self._reported = (now, tally.events, tally.tokens)

    def columns(self) -> Columns:
        """Give what came back."""
        schedule = self._schedule
        due = schedule.due_ns if schedule is not None else [NEVER] * len(self._replies)
        held = schedule.held if schedule is not None else bytes(len(self._replies))
        columns = gather(self._replies, due)
        columns.begin_ns, columns.finish_ns = self._begin, self._finish
        columns.facts = CollectorFacts(
            path="asyncio",
            reason=self._reason,
            clock="user",
            cpu_s=self._cpu_s,
            wall_s=(self._finish - self._begin) / _NS,
            peak_rss_bytes=_peak_rss_bytes(),
            reads=self._tally.reads,
            coalesced_reads=self._tally.coalesced,
            events=len(columns.event_ns),
            lateness_ns=lateness(columns, held),
            clock_shift_ns=self._clock_shift,
            wait_s=self._wait_s,
            notes=tuple(self._notes()),
        )
        return columns

    def _notes(self) -> Iterator[str]:
        if self._tally.redirects:
            yield f"{self._tally.redirects} redirects were followed, within the time of the request"
        if self._tally.again:
            yield (
                f"{self._tally.again} requests were sent once more: the server closed their idle "
                "connection just then"
            )


def _clocks() -> int:
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def _waited_s() -> float:
    """Give the seconds that this thread could have run but had no core; 0 where untold."""
    try:
        told = Path("/proc/thread-self/schedstat").read_text(encoding="ascii")
        return int(told.split()[1]) / _NS
    except (OSError, ValueError, IndexError):
        return 0.0


def _peak_rss_bytes() -> int:
    """Give the largest resident memory of this process; getrusage has that of its parent in it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
