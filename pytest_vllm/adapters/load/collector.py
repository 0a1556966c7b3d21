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

from pytest_vllm.adapters.load.framing import Reply
from pytest_vllm.adapters.load.link import NO_REQUEST, Link
from pytest_vllm.adapters.load.pool import NoConnectionError, Pool
from pytest_vllm.adapters.load.rows import Rows
from pytest_vllm.adapters.load.stamps import Stamps, unpack
from pytest_vllm.adapters.load.tally import Tally
from pytest_vllm.adapters.load.template import Templates
from pytest_vllm.adapters.load.timer import Timer
from pytest_vllm.domain.load.columns import Ending
from pytest_vllm.domain.load.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_vllm.adapters.load.link import Address
    from pytest_vllm.adapters.load.wire import Order

READ_BYTES = 64 * 2**10
SOON_BYTES = 256 * 2**10
"""Bytes not yet understood from which on that is done when nothing is waiting to be read."""
NOW_BYTES = 4 * 2**20
"""Bytes not yet understood at which it is done at once, so that memory is bounded."""

_NS = 1_000_000_000
_STAMP_BYTES = 64
_READY = 4096
_BATCH = 64
_AHEAD = 16  # connections that an open loop begins with
_SLOWEST_LOOK_S, _FASTEST_LOOK_S = 0.25, 0.01
_END = b"\r\n\r\n"
_SHORT = 8
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_REDIRECTS = (301, 302, 303, 307, 308)
_now = time.monotonic_ns


class RedirectedError(Exception):
    """The server sends requests elsewhere, and this client does not follow."""


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
        self.rows = Rows(order.length)
        self.tally = Tally(order.length, report)
        self.stamps = Stamps()
        self.schedule = _schedule(order, 0)
        self._order = order
        self._limits = {name: int(span * _NS) for name, span in order.head["limits"].items()}
        self._pool = Pool(addresses, stamped=self.stamps.works, limits=self._limits)
        self._control = control
        self._timer = Timer()
        self._pool.epoll.register(control, _IN)
        self._pool.epoll.register(self._timer.fd, _IN)
        self._sent_ns = self.rows.columns.send_ns
        self._templates = Templates()
        self._unread: list[Link] = []
        self._again = bytearray(order.length)
        self._more = self._flush = False

    def run(self) -> None:
        """Send all requests, and wait for their ends or the end of time.

        Raises:
            RedirectedError: The server redirects, and nothing was served yet.
            OSError: This host lacks something, such as file descriptors.
        """
        columns = self.rows.columns
        try:
            self._open_ahead()
            columns.begin_ns = self.tally.begin(_now())
            self.schedule = _schedule(self._order, columns.begin_ns)
            self._dispatch()
            self._loop()
        finally:
            columns.finish_ns = _now()
            columns.due_ns = array("q", self.schedule.due_ns)
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

    def _loop(self) -> None:
        """Read, and between reads: understand, send what is due, look after the limits."""
        poll, links, tally = self._pool.epoll.poll, self._pool.links, self.tally
        unread, shift = self._unread, self.stamps.shift
        look_s = min(_SLOWEST_LOOK_S, *(span / _NS / 8 for span in self._limits.values()))
        look_s = max(look_s, _FASTEST_LOOK_S)
        backlog = reads = look_at = 0
        while tally.left:
            busy = self._more or self._flush or backlog > SOON_BYTES
            ready = poll(0 if busy else look_s, _READY)
            for fd, mask in ready:
                link = links.get(fd)
                if link is None or mask != _IN:
                    self._odd(fd, mask)
                    continue
                try:
                    data, extra, _, _ = link.receive(READ_BYTES, _STAMP_BYTES)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._lost(link, _now(), broken=_why(error))
                    continue
                reads += 1
                if extra:
                    seconds, rest = unpack(extra[0][2])
                    at = seconds * _NS + rest - shift
                else:
                    at = _now()
                    tally.unstamped += 1
                if not data:
                    self._lost(link, at)
                    continue
                if not link.reads:
                    unread.append(link)
                link.reads.append((at, data))
                backlog += len(data)
                if link.eager or data[-4:] == _END or len(data) < _SHORT:
                    self._look(link)
                    if self._more:
                        self._dispatch()
            if backlog > NOW_BYTES or (busy and not ready):
                for _ in range(len(unread) if backlog > NOW_BYTES else min(_BATCH, len(unread))):
                    self._look(unread.pop())
                if not unread:
                    backlog, self._flush = 0, False
            if self._more:
                self._dispatch()
            now = _now()
            if now >= look_at:
                look_at = now + int(look_s * _NS)
                tally.reads = reads
                self.stamps.watch()
                shift = self.stamps.shift
                self._keep_limits(now, all_read=len(ready) < _READY)
                tally.tell(now, links.values(), self._sent_ns)
                self._flush = bool(unread)
        tally.reads = reads

    def _keep_limits(self, now: int, *, all_read: bool) -> None:
        """End what took too long, unless it may be that we only have not read it yet."""
        if now >= self.tally.begin_ns + self._limits["run_s"]:
            self._cut(now)
        elif all_read:
            for link, ending, reason in self._pool.overdue(now, self._sent_ns):
                if link.connecting:
                    self._not_connected(link, reason)
                    continue
                self._look(link)
                if link.reply is not None:
                    link.reply.stop(ending, reason, now)
                    self._over(link)

    def _cut(self, now: int) -> None:
        """End the load: what is in flight is cut, what was not sent never will be."""
        for link in list(self._pool.links.values()):
            self._look(link)
            if link.reply is not None:
                link.reply.stop(Ending.CUT, "still in flight when the load's time was over", now)
                self._over(link)
        self.tally.left = 0

    def _odd(self, fd: int, mask: int) -> None:
        """Handle what is no plain read."""
        link = self._pool.links.get(fd)
        if link is None:
            if fd == self._timer.fd:
                self._timer.fired()
                self._dispatch()
            elif fd == self._control:
                os._exit(1)  # whoever asked for this load is gone
        elif link.connecting:
            self._connected(link)
        else:
            if mask & ~_OUT:
                self._read(link)
            if mask & _OUT and link.unsent:
                self._push(link)

    def _read(self, link: Link) -> None:
        """Read from a connection outside the fast way."""
        try:
            data, extra, _, _ = link.receive(READ_BYTES, _STAMP_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(link, _now(), broken=_why(error))
            return
        at = _now()
        if extra:
            seconds, rest = unpack(extra[0][2])
            at = seconds * _NS + rest - self.stamps.shift
        if data:
            link.reads.append((at, data))
            self._look(link)
        else:
            self._lost(link, at)

    def _look(self, link: Link) -> None:
        """Understand what a connection brought."""
        reads, reply = link.reads, link.reply
        if not reads:
            return
        if reply is None:  # nobody asked for anything
            self._pool.drop(link)
            return
        reply.feed(reads)
        link.since_ns = reads[-1][0]
        reads.clear()
        link.eager = reply.eager
        if reply.ending is not None:
            self._over(link)

    def _over(self, link: Link) -> None:
        """Take note that the reply of a connection has ended, and keep the connection if it may."""
        number, reply = link.number, link.reply
        if reply is None:
            return
        self.rows.write(number, reply, ordered=not (self.tally.unstamped or self.stamps.moved_ns))
        self.tally.over(self._sent_ns[number], reply)
        if reply.status in _REDIRECTS and not self.tally.done:
            raise RedirectedError(reply.reason)
        if reply.reusable and not link.unsent:
            link.number, link.reply, link.eager = NO_REQUEST, None, True
            link.used += 1
            self._pool.idle.append(link)
        else:
            self._pool.drop(link)
        self.schedule.ended(number, reply.end_ns)
        self._more = True

    def _dispatch(self) -> None:
        """Send what is due, and set the timer for what comes next."""
        idle = self._pool.idle
        for _ in range(_BATCH):
            number = self.schedule.ready(_now())
            if number is None:
                self._more = False
                self._timer.at(self.schedule.next_ns())
                return
            if idle:
                self._put(idle.pop(), number)
            else:
                self._open(number)
        self._more = True

    def _put(self, link: Link, number: int) -> None:
        """Send a request."""
        raw = self._order.raw(number)
        link.number, link.eager = number, True
        link.reply = Reply(self._templates, limit_bytes=self._order.head["reply_bytes"])
        link.since_ns = now = _now()
        if not self._sent_ns[number]:
            self._sent_ns[number] = now
            self.tally.sent += 1
        try:
            if not link.put(raw):
                self._pool.epoll.modify(link.fd, _IN | _OUT)
        except OSError as error:
            self._lost(link, _now(), broken=_why(error))

    def _push(self, link: Link) -> None:
        """Send more of a request."""
        try:
            if link.push():
                self._pool.epoll.modify(link.fd, _IN)
        except OSError as error:
            self._lost(link, _now(), broken=_why(error))

    def _lost(self, link: Link, at: int, *, broken: str = "") -> None:
        """Take note that a connection ended."""
        self._look(link)
        number, reply = link.number, link.reply
        if reply is None:
            self._pool.drop(link)
        elif link.used and not reply.received and not self._again[number]:
            # The server closed it just when this request was sent: any client would try again.
            self._again[number] = 1
            self.tally.again += 1
            self._pool.drop(link)
            self._open(number)
        else:
            reply.closed(at, broken=broken)
            self._over(link)

    def _open(self, number: int, *, first: int | None = None) -> None:
        """Open a connection for a request."""
        try:
            link = self._pool.open(_now(), first=first)
        except NoConnectionError as error:
            self._unreachable(number, str(error))
            return
        link.number = number
        if not link.connecting:
            self._put(link, number)

    def _connected(self, link: Link) -> None:
        """Use a connection that just came to be, or see why it did not."""
        try:
            self._pool.connected(link)
        except NoConnectionError as error:
            self._not_connected(link, str(error))
            return
        if link.number == NO_REQUEST:
            self._pool.idle.append(link)
        else:
            self._put(link, link.number)

    def _not_connected(self, link: Link, why: str) -> None:
        """Try the next address for the request that waits for a connection, if there is one."""
        number, more, choice = link.number, self._pool.more(link), link.choice
        self._pool.drop(link)
        if number == NO_REQUEST:
            return
        if more:
            self._open(number, first=choice + 1)
        else:
            self._unreachable(number, why)

    def _unreachable(self, number: int, why: str) -> None:
        now = _now()
        self.rows.end(number, Ending.CONNECT, f"no connection: {why}", now)
        self.tally.ended(Ending.CONNECT)
        self.schedule.ended(number, now)
        self._more = True


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _schedule(order: Order, begin_ns: int) -> Schedule:
    return Schedule(
        due_ns=order.due,
        after=order.after,
        pause_ns=order.pause,
        places=order.head["concurrency"],
        ramp_ns=int(order.head["ramp_s"] * _NS),
        begin_ns=begin_ns,
    )
