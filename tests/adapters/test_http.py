"""The transport against real small servers that behave and that do not."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.call import Call
from pytest_vllm.adapters.http import Transport
from pytest_vllm.domain.reply import TransportFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_vllm.domain.reply import StreamReply

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HANGS_S = 30
"""Ends a test that would hang."""


class Peer:
    """One end of a connection: reads a request, then does what a test wants."""

    def __init__(self, connection: socket.socket, stopped: threading.Event) -> None:
        self.connection = connection
        self.stopped = stopped
        self.request = self._read()

    def _read(self) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            ),
            0,
        )
        while len(body) < length:
            body += self.connection.recv(65536)
        return head + b"\r\n\r\n" + body

    def say(self, data: bytes) -> None:
        self.connection.sendall(data)

    def drip(self, data: bytes) -> None:
        """Send a byte now and then, as long as somebody listens."""
        try:
            while not self.stopped.wait(0.02):
                self.say(data)
        except OSError:  # the other end has had enough
            return


@contextmanager
def serving(behave: Callable[[Peer], None]) -> Iterator[tuple[str, list[bytes]]]:
    """Serve one connection after the other; give the URL and the requests that came."""
    requests: list[bytes] = []
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def serve() -> None:
            while not stopped.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(5)
                    peer = Peer(connection, stopped)
                    requests.append(peer.request)
                    behave(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        finally:
            stopped.set()
            thread.join()


def ask(
    behave: Callable[[Peer], None], *, timeout_s: float = 5, max_body_bytes: int = 100_000
) -> StreamReply:
    with (
        serving(behave) as (url, _),
        Transport(
            url, api_key=None, timeout_s=timeout_s, max_body_bytes=max_body_bytes
        ) as transport,
    ):
        return transport.send("GET", "/x")


def failure_of(behave: Callable[[Peer], None], **limits: float) -> TransportFailure:
    with pytest.raises(TransportFailure) as caught:
        ask(behave, **limits)  # type: ignore[arg-type]
    assert caught.value.exchange.failure == str(caught.value)
    return caught.value


def answer(body: bytes, head: bytes = OK) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


class TestGoodServers:
    def test_no_connection_is_kept(self) -> None:
        """Each request says so, else the pool may close one that another thread has taken."""
        with (
            serving(lambda peer: peer.say(answer(b"{}"))) as (url, requests),
            Transport(url, api_key=None, timeout_s=5) as transport,
        ):
            transport.send("GET", "/x")
        assert b"\r\nconnection: close\r\n" in requests[0].lower()

    def test_a_reply_comes_whole_with_its_evidence(self) -> None:
        with (
            serving(lambda peer: peer.say(answer(b'{"a": NaN}'))) as (url, requests),
            Transport(url, api_key="secret-key", timeout_s=5) as transport,
        ):
            reply = transport.send("POST", "/v1/x", json={"t": float("inf"), "s": "é\ud800"})
        assert (reply.status, reply.content_type, reply.body) == (
            200,
            "application/json",
            b'{"a": NaN}',
        )
        sent = requests[0].lower()
        assert sent.startswith(b"post /v1/x http/1.1\r\n")
        assert b"authorization: bearer secret-key" in sent
        assert requests[0].endswith(b'{"t": Infinity, "s": "\\u00e9\\ud800"}')
        exchange = reply.exchange
        assert exchange.request_headers == (("content-type", "application/json"),)
        assert exchange.request_body == '{"t": Infinity, "s": "\\u00e9\\ud800"}'
        assert (exchange.status, exchange.response_body) == (200, '{"a": NaN}')
        assert "secret-key" not in repr(exchange)

    def test_broken_content_is_sent_as_it_is(self) -> None:
        with (
            serving(lambda peer: peer.say(answer(b"{}"))) as (url, requests),
            Transport(url, api_key=None, timeout_s=5) as transport,
        ):
            transport.send("POST", "/", content=b'{"a": \xff', headers={"Content-Type": "a/b"})
            transport.send("POST", "/", content="")
        assert requests[0].endswith(b'\r\n\r\n{"a": \xff')
        assert b"content-type: a/b\r\n" in requests[0].lower()
        assert b"content-type" not in requests[1].lower()

    def test_lines_come_with_the_time_of_their_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second part is sent a while after the first was read, however late that was."""
        read = threading.Event()

        def feed(call: Call, chunk: bytes) -> None:
            take(call, chunk)
            if b"data: \xc3" in call.received:
                read.set()

        def in_two_parts(peer: Peer) -> None:
            peer.say(OK + b"\r\ndata: a\r\n\r\ndata: \xc3")
            assert read.wait(HANGS_S)
            peer.stopped.wait(0.2)
            peer.say(b"\xa9\nlast")

        take = Call.feed
        monkeypatch.setattr(Call, "feed", feed)
        reply = ask(in_two_parts, timeout_s=HANGS_S)
        assert [line for line, _ in reply.lines] == ["data: a", "", "data: é", "last"]
        times = [at_ms for _, at_ms in reply.lines]
        assert times[1] + 200 <= times[2] <= times[3] <= reply.elapsed_ms

    def test_a_redirect_is_not_followed(self) -> None:
        head = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\n"
        assert ask(lambda peer: peer.say(answer(b"", head))).status == 307

    def test_a_proxy_of_the_environment_is_not_used_for_loopback(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        assert ask(lambda peer: peer.say(answer(b"{}"))).status == 200

    def test_each_request_has_a_connection_of_its_own(self) -> None:
        """A server that closes after a reply without saying so breaks no later request."""
        with (
            serving(lambda peer: peer.say(answer(b"{}"))) as (url, requests),
            Transport(url, api_key=None, timeout_s=5) as transport,
        ):
            for _ in range(3):
                assert transport.send("GET", "/").status == 200
        assert len(requests) == 3

    def test_a_long_body_is_shortened_in_the_evidence_only(self) -> None:
        reply = ask(lambda peer: peer.say(answer(b"x" * 50_000)))
        assert len(reply.body) == 50_000
        assert reply.exchange.response_body.endswith("x... [30000 more characters]")


class TestBadServers:
    def test_nobody_listens(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            with (
                Transport(url, api_key=None, timeout_s=5) as transport,
                pytest.raises(TransportFailure) as caught,
            ):
                transport.send("GET", "/health")
        assert caught.value.kind == "refused"
        assert caught.value.exchange.status is None
        assert caught.value.exchange.url == f"{url}/health"

    @pytest.mark.parametrize(
        "head",
        [b"", b"HTTP/1.1 200 OK\r\nX: ", OK + b"\r\n", OK + b"Content-Length: 99999\r\n\r\n"],
        ids=["silence", "header", "body", "counted-body"],
    )
    def test_dripping_bytes_do_not_extend_the_deadline(self, head: bytes) -> None:
        def behave(peer: Peer) -> None:
            peer.say(head)
            peer.drip(b"x" if head else b"")

        start = time.monotonic()
        failure = failure_of(behave, timeout_s=0.5)
        assert time.monotonic() - start < HANGS_S  # the peer drips for as long as we listen
        assert failure.kind == "timeout"
        assert "within 0.5 s" in failure.message

    def test_endless_interim_replies_do_not_extend_the_deadline(self) -> None:
        failure = failure_of(
            lambda peer: peer.drip(b"HTTP/1.1 100 Continue\r\n\r\n"), timeout_s=0.5
        )
        assert failure.kind == "timeout"

    def test_a_huge_body_is_cut_off(self) -> None:
        def flood(peer: Peer) -> None:
            peer.say(OK + b"\r\n")
            try:
                while not peer.stopped.is_set():
                    peer.say(b"x" * 65536)
            except OSError:
                return

        failure = failure_of(flood, max_body_bytes=1_000_000)
        assert failure.kind == "too large"
        assert failure.exchange.status == 200
        assert len(failure.exchange.response_body) < 21_000

    def test_a_connection_that_is_reset(self) -> None:
        def reset(peer: Peer) -> None:
            peer.say(OK + b"Content-Length: 100\r\n\r\nhalf")
            peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        failure = failure_of(reset)
        assert failure.kind == "reset"

    @pytest.mark.parametrize("said", [b"", OK + b"Content-Length: 100\r\n\r\nhalf"])
    def test_a_connection_that_ends_too_early(self, said: bytes) -> None:
        assert failure_of(lambda peer: peer.say(said)).kind == "reset"

    @pytest.mark.parametrize(
        "said",
        [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", OK + b"Content-Length: -1\r\n\r\n"],
    )
    def test_what_is_no_http(self, said: bytes) -> None:
        assert failure_of(lambda peer: peer.say(said)).kind == "protocol"

    def test_a_flood_of_headers(self) -> None:
        def flood(peer: Peer) -> None:
            try:
                peer.say(OK)
                while not peer.stopped.is_set():
                    peer.say(b"X-Header: %s\r\n" % (b"y" * 1000))
            except OSError:
                return

        assert failure_of(flood).kind in ("protocol", "too large")

    def test_a_request_that_cannot_be_sent(self) -> None:
        with (
            Transport("http://127.0.0.1:1", api_key=None, timeout_s=5) as transport,
            pytest.raises(TransportFailure, match="cannot send this request"),
        ):
            transport.send("GET", "/", headers={"X": "é\n"})
