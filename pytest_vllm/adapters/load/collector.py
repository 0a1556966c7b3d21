"""The measuring client: one process, one epoll loop, the kernel's own times of arrival.

The loop reads and remembers, no more: what was read is understood when nothing is waiting to be
read, or when it is much, or when it looks like the end of a reply.
"""

from __future__ import annotations

import os
import select
import time
from array import array
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load.exchange import Exchanges, why_of
from pytest_vllm.adapters.load.link import Link
from pytest_vllm.adapters.load.pool import NoConnectionError, Pool
from pytest_vllm.adapters.load.rows import Rows
from pytest_vllm.adapters.load.spent import Spent
from pytest_vllm.adapters.load.stamps import Stamps, unpack
from pytest_vllm.adapters.load.tally import Tally
from pytest_vllm.adapters.load.timer import Timer
from pytest_vllm.domain.load.columns import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_vllm.adapters.load.link import Address
    from pytest_vllm.adapters.load.wire import Order

READ_BYTES = 64 * 2**10
SOON_BYTES = 2**20
"""Bytes not yet understood from which on that is done when nothing is waiting to be read."""
NOW_BYTES = 6 * 2**20
"""Bytes not yet understood at which it is done at once, so that memory is bounded."""

_NS = 1_000_000_000
_STAMP_BYTES = 64
_READY = 1024
_BATCH = 64
_AHEAD = 16  # connections that an open loop begins with
_SLOWEST_LOOK_S, _FASTEST_LOOK_S = 0.25, 0.01
_END = b"\r\n\r\n"
_SHORT = 8
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_now = time.monotonic_ns


class Collector:
    """One load, from the first connection to the last byte.

    Args:
        order: What is sent.
        addresses: Where the server may be reached.
        control: File descriptor of the other end; when that is closed, this process ends.
        report: Told about twice a second how far it is.
    """

    def __init__(
        self,
        order: Order,
        addresses: Sequence[Address],
        *,
        control: int,
        report: Callable[[Mapping[str, object]], None],
    ) -> None:
        self._order = order
        self._limits = {name: int(span * _NS) for name, span in order.head["limits"].items()}
        self.rows = Rows(order.length)
        self.tally = Tally(order.length, report)
        self.stamps = Stamps()
        self._pool = Pool(addresses, stamped=self.stamps.works, limits=self._limits)
        self._timer = Timer()
        self._exchanges = Exchanges(
            order,
            pool=self._pool,
            rows=self.rows,
            tally=self.tally,
            stamps=self.stamps,
            timer=self._timer,
        )
        self.spent = Spent()
        self._control = control
        self._pool.epoll.register(control, _IN)
        self._pool.epoll.register(self._timer.fd, _IN)

    @property
    def held(self) -> bytearray:
        """1 for each request that a bound held back."""
        return self._exchanges.schedule.held

    def run(self) -> None:
        """Send all requests, and wait for their ends or the end of time.

        Raises:
            RedirectedError: The server redirects, and nothing was served yet.
            OSError: This host lacks something, such as file descriptors.
        """
        columns, exchanges = self.rows.columns, self._exchanges
        try:
            self._open_ahead()
            self.spent = Spent()
            columns.begin_ns = self.tally.begin(_now())
            exchanges.schedule = self._order.schedule(columns.begin_ns)
            exchanges.dispatch()
            self._loop()
        finally:
            columns.finish_ns = _now()
            self.spent.until_now()
            columns.due_ns = array("q", exchanges.schedule.due_ns)
            self._pool.close()
            self._timer.close()
            self.stamps.close()

    def _open_ahead(self) -> None:
        """Open the connections of a closed loop (some of an open one) before anything is sent."""
        order = self._order
        places = order.head["concurrency"]
        if not places or max(order.due, default=0) >= 0:
            places = min(places or _AHEAD, _AHEAD)
        left = min(places, order.length)
        deadline = _now() + self._limits["connect_s"]
        while _now() < deadline:
            pending = sum(link.connecting for link in self._pool.links.values())
            if left and pending < _BATCH:
                left -= 1
                try:
                    link = self._pool.open(_now())
                except NoConnectionError:
                    return  # each request will say so
                if not link.connecting:
                    self._pool.idle.append(link)
            elif pending:
                for fd, mask in self._pool.epoll.poll(_FASTEST_LOOK_S, _READY):
                    self._odd(fd, mask)
            else:
                return

    def _loop(self) -> None:  # noqa: C901, PLR0912, PLR0915 - calls would cost more than reads
        """Read, and between reads: understand, send what is due, look after the limits."""
        poll, links, tally = self._pool.epoll.poll, self._pool.links, self.tally
        exchanges, unread, shift = self._exchanges, list[Link](), self.stamps.shift
        look_s = min(_SLOWEST_LOOK_S, *(span / _NS / 8 for span in self._limits.values()))
        look_s = max(look_s, _FASTEST_LOOK_S)
        find, look, plain = links.get, exchanges.look, _IN
        flush = False  # whether to understand all that is there
        backlog = reads = look_at = 0
        while tally.left:
            busy = exchanges.more or flush or backlog > SOON_BYTES
            ready = poll(0 if busy else look_s, _READY)
            for fd, mask in ready:
                link = find(fd)
                if link is None or mask != plain:
                    self._odd(fd, mask)
                    continue
                try:
                    data, extra, _, _ = link.receive(READ_BYTES, _STAMP_BYTES)
                except BlockingIOError:
                    continue
                except OSError as error:
                    exchanges.lost(link, _now(), broken=why_of(error))
                    continue
                reads += 1
                if extra:
                    seconds, rest = unpack(extra[0][2])
                    at = seconds * _NS + rest - shift
                elif data:
                    at = _now()
                    tally.unstamped += 1
                else:
                    exchanges.lost(link, _now())
                    continue
                kept, length = link.reads, len(data)
                if not kept:
                    unread.append(link)
                kept.append((at, data))
                backlog += length
                if link.eager or length < _SHORT or data[-4:] == _END:
                    look(link)
                    if exchanges.more:
                        exchanges.dispatch()
            if backlog > NOW_BYTES or (busy and not ready):
                for _ in range(len(unread) if backlog > NOW_BYTES else min(_BATCH, len(unread))):
                    look(unread.pop())
                if not unread:
                    backlog, flush = 0, False
            if exchanges.more:
                exchanges.dispatch()
            now = _now()
            if now >= look_at:
                look_at = now + int(look_s * _NS)
                tally.reads = reads
                self.stamps.watch()
                shift = self.stamps.shift
                self._keep_limits(now, all_read=len(ready) < _READY)
                flush = tally.tell(now, links.values(), exchanges.sent_ns)
        tally.reads = reads

    def _keep_limits(self, now: int, *, all_read: bool) -> None:
        """End what took too long, unless it may be that we only have not read it yet."""
        if now >= self.tally.begin_ns + self._limits["run_s"]:
            self._cut(now)
        elif all_read:
            for link, ending, reason in self._pool.overdue(now, self._exchanges.sent_ns):
                if link.connecting:
                    self._exchanges.not_connected(link, reason)
                    continue
                self._exchanges.look(link)
                if link.reply is not None:
                    link.reply.stop(ending, reason, now)
                    self._exchanges.over(link)

    def _cut(self, now: int) -> None:
        """End the load: what is in flight is cut, what was not sent never will be."""
        for link in list(self._pool.links.values()):
            self._exchanges.look(link)
            if link.reply is not None:
                link.reply.stop(Ending.CUT, "still in flight when the load's time was over", now)
                self._exchanges.over(link)
        self.tally.left = 0

    def _odd(self, fd: int, mask: int) -> None:
        """Handle what is no plain read."""
        link = self._pool.links.get(fd)
        if link is None:
            if fd == self._timer.fd:
                self._timer.fired()
                self._exchanges.dispatch()
            elif fd == self._control:
                os._exit(1)  # whoever asked for this load is gone
        elif link.connecting:
            self._exchanges.connected(link)
        else:
            if mask & ~_OUT:
                self._read(link)
            if mask & _OUT and link.unsent:
                self._exchanges.push(link)

    def _read(self, link: Link) -> None:
        """Read from a connection outside the fast way."""
        try:
            data, extra, _, _ = link.receive(READ_BYTES, _STAMP_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._exchanges.lost(link, _now(), broken=why_of(error))
            return
        at = _now()
        if extra:
            seconds, rest = unpack(extra[0][2])
            at = seconds * _NS + rest - self.stamps.shift
        if data:
            link.reads.append((at, data))
            self._exchanges.look(link)
        else:
            self._exchanges.lost(link, at)
