"""The requests of a load on its connections: sent when they are due, judged when they end."""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load.framing import Reply
from pytest_vllm.adapters.load.link import NO_REQUEST
from pytest_vllm.adapters.load.pool import NoConnectionError
from pytest_vllm.adapters.load.template import Templates
from pytest_vllm.domain.load.columns import Ending

if TYPE_CHECKING:
    from pytest_vllm.adapters.load.link import Link
    from pytest_vllm.adapters.load.pool import Pool
    from pytest_vllm.adapters.load.rows import Rows
    from pytest_vllm.adapters.load.stamps import Stamps
    from pytest_vllm.adapters.load.tally import Tally
    from pytest_vllm.adapters.load.timer import Timer
    from pytest_vllm.adapters.load.wire import Order

_AT_ONCE = 64  # requests that are sent before the loop reads again
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_REDIRECTS = (301, 302, 303, 307, 308)
_now = time.monotonic_ns


class RedirectedError(Exception):
    """The server sends requests elsewhere, and this client does not follow."""


class Exchanges:
    """The requests of one load.

    Args:
        order: What is sent.
        pool: Connections.
        rows: Where it is written what came of a request.
        tally: Where it is counted.
        stamps: Times of arrival.
        timer: Fires when the next request is due.

    Attributes:
        schedule: Who is next; to be made anew when the load begins.
        more: Whether something may be sent at once.
        sent_ns: When each request was sent.
    """

    def __init__(  # noqa: PLR0913 - the parts of a load
        self,
        order: Order,
        *,
        pool: Pool,
        rows: Rows,
        tally: Tally,
        stamps: Stamps,
        timer: Timer,
    ) -> None:
        self.pool = pool
        self.rows = rows
        self.tally = tally
        self.schedule = order.schedule(0)
        self.more = False
        self.sent_ns = rows.columns.send_ns
        self._order = order
        self._stamps = stamps
        self._timer = timer
        self._templates = Templates()
        self._again = bytearray(order.length)

    def look(self, link: Link) -> None:
        """Understand what a connection brought."""
        reads, reply = link.reads, link.reply
        if not reads:
            return
        if reply is None:  # nobody asked for anything
            self.pool.drop(link)
            return
        reply.feed(reads)
        link.since_ns = reads[-1][0]
        reads.clear()
        link.eager = reply.eager
        if reply.ending is not None:
            self.over(link)

    def over(self, link: Link) -> None:
        """Take note that the reply of a connection has ended, and keep the connection if it may."""
        number, reply = link.number, link.reply
        if reply is None:
            return
        self.rows.write(number, reply, ordered=not (self.tally.unstamped or self._stamps.moved_ns))
        self.tally.over(self.sent_ns[number], reply)
        if reply.status in _REDIRECTS and not self.tally.done:
            raise RedirectedError(reply.reason)
        if reply.reusable and not link.unsent:
            link.number, link.reply, link.eager = NO_REQUEST, None, True
            link.used += 1
            self.pool.idle.append(link)
        else:
            self.pool.drop(link)
        self.schedule.ended(number, reply.end_ns)
        self.more = True

    def dispatch(self) -> None:
        """Send what is due, and set the timer for what comes next."""
        idle = self.pool.idle
        for _ in range(_AT_ONCE):
            number = self.schedule.ready(_now())
            if number is None:
                self.more = False
                self._timer.at(self.schedule.next_ns())
                return
            if idle:
                self._put(idle.pop(), number)
            else:
                self._open(number)
        self.more = True

    def _put(self, link: Link, number: int) -> None:
        """Send a request."""
        raw = self._order.raw(number)
        link.number, link.eager = number, True
        link.reply = Reply(self._templates, limit_bytes=self._order.head["reply_bytes"])
        link.since_ns = now = _now()
        if not self.sent_ns[number]:
            self.sent_ns[number] = now
            self.tally.sent += 1
        try:
            if not link.put(raw):
                self.pool.epoll.modify(link.fd, _IN | _OUT)
        except OSError as error:
            self.lost(link, _now(), broken=why_of(error))

    def push(self, link: Link) -> None:
        """Send more of a request."""
        try:
            if link.push():
                self.pool.epoll.modify(link.fd, _IN)
        except OSError as error:
            self.lost(link, _now(), broken=why_of(error))

    def lost(self, link: Link, at: int, *, broken: str = "") -> None:
        """Take note that a connection ended."""
        self.look(link)
        number, reply = link.number, link.reply
        if reply is None:
            self.pool.drop(link)
        elif link.used and not reply.received and not self._again[number]:
            # The server closed it just when this request was sent: any client would try again.
            self._again[number] = 1
            self.tally.again += 1
            self.pool.drop(link)
            self._open(number)
        else:
            reply.closed(at, broken=broken)
            self.over(link)

    def _open(self, number: int, *, first: int | None = None) -> None:
        """Open a connection for a request."""
        try:
            link = self.pool.open(_now(), first=first)
        except NoConnectionError as error:
            self._unreachable(number, str(error))
            return
        link.number = number
        if not link.connecting:
            self._put(link, number)

    def connected(self, link: Link) -> None:
        """Use a connection that just came to be, or see why it did not."""
        try:
            self.pool.connected(link)
        except NoConnectionError as error:
            self.not_connected(link, str(error))
            return
        if link.number == NO_REQUEST:
            self.pool.idle.append(link)
        else:
            self._put(link, link.number)

    def not_connected(self, link: Link, why: str) -> None:
        """Try the next address for the request that waits for a connection, if there is one."""
        number, more, choice = link.number, self.pool.more(link), link.choice
        self.pool.drop(link)
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
        self.more = True


def why_of(error: OSError) -> str:
    """Return what an error of the system says."""
    return error.strerror or str(error)
