"""Who is next: which request of a load may be sent now, and since when it is due."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_TIME = -1
"""In `due_ns`: not timed, as soon as a place is free."""
NO_ONE = -1
"""In `after`: it waits for no other request."""

_PLACE = -1


class Schedule:
    """The order of a load; it does no input or output and has no clock.

    In a closed loop a place is held by a session: a request, those that wait for it, and the pauses
    between. In an open loop `places` only bounds how many are in flight, and a pause holds none.
    A request whose predecessor failed is sent all the same: the plan says what is sent.

    Args:
        due_ns: When each request is due after the begin, `NO_TIME` in a closed loop.
        after: Number of the (earlier) request whose end each one waits for, or `NO_ONE`.
        pause_ns: How long after that end.
        places: Places of a closed loop, bound of an open loop (0: no bound).
        ramp_ns: Time over which places open, evenly; the first one opens at once.
        begin_ns: When the load begins, on the clock of the caller.
    """

    def __init__(  # noqa: PLR0913 - the columns of a plan
        self,
        *,
        due_ns: Sequence[int],
        after: Sequence[int],
        pause_ns: Sequence[int],
        places: int,
        ramp_ns: int,
        begin_ns: int,
    ) -> None:
        self.due_ns = [0] * len(due_ns)
        """When each request was due, known once `ready` gave it."""
        self.held = bytearray(len(due_ns))
        """1 for each request that was due before a place was free: the bound held it back."""
        self._timed, self._pause_ns = due_ns, pause_ns
        self._begin_ns = begin_ns
        self._unbound = places == 0
        self._free: deque[int] = deque()  # since when each free place is free
        self._heap: list[tuple[int, int, bool]] = []  # time, request, whether it has a place
        self._own: deque[tuple[int, int]] = deque()  # due, and with a place
        self._waiting: deque[tuple[int, int]] = deque()  # due, and in want of a place
        self._next: dict[int, list[int]] = {}
        self._session = bytearray(len(due_ns))
        closed: list[int] = []
        for number, before in enumerate(after):
            if before != NO_ONE:
                self._next.setdefault(before, []).append(number)
                self._session[number] = self._session[before]
            elif due_ns[number] == NO_TIME:
                self._session[number] = 1
                closed.append(number)
            else:
                self._heap.append((begin_ns + due_ns[number], number, False))
        self._closed = deque(closed)
        for place in range(places if closed else 0):
            self._heap.append((begin_ns + ramp_ns * place // places, _PLACE, False))
        if not closed:
            self._free.extend([begin_ns] * places)
        heapq.heapify(self._heap)

    def ready(self, now_ns: int) -> int | None:
        """Take the next request that may be sent now, `None` when there is none."""
        heap = self._heap
        while heap and heap[0][0] <= now_ns:
            at, number, own = heapq.heappop(heap)
            if number == _PLACE:
                self._free.append(at)
            else:
                (self._own if own else self._waiting).append((at, number))
        if self._own:
            due, number = self._own.popleft()
        elif self._waiting and (self._unbound or self._free):
            due, number = self._waiting.popleft()
            if not self._unbound:
                self.held[number] = self._free.popleft() > due
        elif self._closed and self._free and not self._waiting:
            due, number = self._free.popleft(), self._closed.popleft()
        else:
            return None
        self.due_ns[number] = due
        return number

    def next_ns(self) -> int | None:
        """Return when something gets due by itself, `None` when nothing does."""
        return self._heap[0][0] if self._heap else None

    def ended(self, number: int, at_ns: int) -> None:
        """Take note that a request ended, however it did."""
        held, passed_on = bool(self._session[number]), False
        for follower in self._next.pop(number, ()):
            due = at_ns + self._pause_ns[follower]
            if self._timed[follower] != NO_TIME:
                due = max(due, self._begin_ns + self._timed[follower])
            # The first follower gets the session's place, any other wants one of its own.
            heapq.heappush(self._heap, (due, follower, held and not passed_on))
            passed_on = held
        if not passed_on and not self._unbound:
            self._free.append(at_ns)
