"""The connections of a load: opened when they are wanted, used again, closed within their time."""

from __future__ import annotations

import errno
import select
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load.link import NO_REQUEST, Link
from pytest_vllm.domain.load.columns import Ending

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_vllm.adapters.load.link import Address

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_NS = 1_000_000_000
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class NoConnectionError(Exception):
    """No address of the server takes a connection; the message says why."""


class Pool:
    """The connections to one server.

    Args:
        addresses: Where it may be reached, the likeliest first.
        stamped: Whether the kernel is to stamp what comes.
        limits: Nanoseconds by the names of `Limits`.

    Attributes:
        epoll: Where they are waited for.
        links: All of them by file descriptor.
        idle: Those that wait for a request.
    """

    def __init__(
        self, addresses: Sequence[Address], *, stamped: bool, limits: Mapping[str, int]
    ) -> None:
        self.epoll = select.epoll()
        self.links: dict[int, Link] = {}
        self.idle: list[Link] = []
        self._addresses = addresses
        self._stamped = stamped
        self._limits = limits
        self._choice = 0  # the address that took the last connection

    def open(self, now_ns: int, *, first: int | None = None) -> Link:
        """Begin a connection; the next address is tried where one refuses at once.

        Raises:
            NoConnectionError: All of them refuse.
            OSError: This host has no more sockets.
        """
        choice = self._choice if first is None else first
        why = ""
        for step in range(len(self._addresses) - (choice if first is not None else 0)):
            number = (choice + step) % len(self._addresses)
            try:
                link = Link(
                    self._addresses[number], choice=number, stamped=self._stamped, now_ns=now_ns
                )
            except OSError as error:
                if error.errno in _OURS:
                    raise
                why = error.strerror or str(error)
                continue
            self.links[link.fd] = link
            self.epoll.register(link.fd, _IN | _OUT if link.connecting else _IN)
            return link
        raise NoConnectionError(why)

    def connected(self, link: Link) -> bool:
        """Take note that connecting is over; tell whether there is a connection.

        Raises:
            NoConnectionError: There is none.
        """
        why = link.connected()
        if why:
            raise NoConnectionError(why)
        self._choice = link.choice
        self.epoll.modify(link.fd, _IN)
        return True

    def more(self, link: Link) -> bool:
        """Tell whether there are addresses that a failed connection did not try."""
        return link.choice + 1 < len(self._addresses)

    def drop(self, link: Link) -> None:
        """Close a connection."""
        if self.links.pop(link.fd, None) is None:
            return
        if link in self.idle:
            self.idle.remove(link)
        link.number, link.reply = NO_REQUEST, None
        link.reads.clear()
        link.close()

    def close(self) -> None:
        """Close all."""
        self.idle.clear()
        for link in list(self.links.values()):
            self.drop(link)
        self.epoll.close()

    def overdue(self, now_ns: int, sent_ns: Sequence[int]) -> Iterator[tuple[Link, Ending, str]]:
        """Find connections that took longer than they may, each with what that is called.

        Args:
            now_ns: Now.
            sent_ns: When each request was sent.
        """
        limits = self._limits
        for link in list(self.links.values()):
            if link.connecting:
                if now_ns - link.since_ns > limits["connect_s"]:
                    yield link, Ending.CONNECT, f"no connection in {_s(limits['connect_s'])}"
            elif link.number != NO_REQUEST:
                last = link.reads[-1][0] if link.reads else link.since_ns
                if now_ns - sent_ns[link.number] > limits["request_s"]:
                    yield link, Ending.TIMEOUT, f"not over after {_s(limits['request_s'])}"
                elif now_ns - last > limits["stall_s"] and _flows(link):
                    yield link, Ending.STALLED, f"not a byte for {_s(limits['stall_s'])}"


def _flows(link: Link) -> bool:
    """Tell whether a silence is a stall; before the first token it may be the server's queue."""
    return link.unsent or (link.reply is not None and bool(link.reply.events.times))


def _s(span_ns: int) -> str:
    return f"{span_ns / _NS:g} s"
