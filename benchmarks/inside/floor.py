"""The floor: a bare loop of epoll and recvmsg that keeps the kernel's time of every read.

It understands nothing of what comes but the end of a reply; a client that tells tokens, failures
and figures cannot do less.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time

from raw import body, job, save

SO_TIMESTAMPNS = 35


def main(work: dict) -> None:
    unpack = struct.Struct("qq").unpack
    host, _, port = work["url"].removeprefix("http://").partition(":")
    poll = select.epoll()
    now = time.perf_counter_ns
    offset = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(
        time.CLOCK_MONOTONIC
    )
    sockets: dict[int, socket.socket] = {}
    for _ in range(work["streams"]):
        one = socket.create_connection((host, int(port)))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        one.setblocking(False)  # noqa: FBT003 - positional only
        poll.register(one.fileno(), select.EPOLLIN)
        sockets[one.fileno()] = one
    requests = []
    for number in range(work["requests"]):
        text = json.dumps(body(number, work["tokens"])).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        requests.append(head + b"Content-Length: %d\r\n\r\n" % len(text) + text)
    begun = 0
    times: dict[int, tuple[int, int, list[int]]] = {}
    done = []

    def begin(descriptor: int) -> None:
        nonlocal begun
        number, begun = begun, begun + 1
        times[descriptor] = (number, now(), [])
        sockets[descriptor].send(requests[number])

    for descriptor in sockets:
        begin(descriptor)
    while len(done) < work["requests"]:
        for descriptor, _ in poll.poll(-1, 1024):
            data, control, _, _ = sockets[descriptor].recvmsg(65536, 64)
            seconds, part = unpack(control[0][2])
            times[descriptor][2].append(seconds * 1_000_000_000 + part - offset)
            if data.endswith(b"\r\n0\r\n\r\n"):
                done.append(times[descriptor])
                if begun < work["requests"]:
                    begin(descriptor)
    save(work["out"], done)


main(job())
