"""Framing of HTTP/1.1: what is sound in any pieces, and what is none."""

from __future__ import annotations

import re

import pytest

from pytest_vllm.adapters.load.framing import Reply
from pytest_vllm.adapters.load.template import Templates
from pytest_vllm.domain.load.columns import Ending

OK = b"HTTP/1.1 200 OK\r\n"
SSE = b"content-type: text/event-stream\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
EVENT = b'data: {"choices": [{"text": "a"}]}\n\ndata: [DONE]\n\n'
SIZED = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
LIMIT = 100_000


def read(raw: bytes, *, step: int = 0, closed: bool = True) -> Reply:
    reply = Reply(Templates(), limit_bytes=LIMIT)
    step = step or len(raw) or 1
    for at in range(0, len(raw), step):
        reply.feed([(at + 1, raw[at : at + step])])
    if closed and reply.ending is None:
        reply.closed(len(raw) + 1)
    return reply


SOUND = {
    "chunked": OK + SSE + CHUNKED + b"\r\n" + SIZED + b"0\r\n\r\n",
    "extensions": OK
    + SSE
    + CHUNKED
    + b"\r\n"
    + SIZED.replace(b"\r", b' ;a="b"\r', 1)
    + b"0;z\r\n\r\n",
    "trailers": OK + SSE + CHUNKED + b"\r\n" + SIZED + b"0\r\nA: b\r\nC: d\r\n\r\n",
    "length": OK + SSE + b"Content-Length: %d\r\n\r\n" % len(EVENT) + EVENT,
    "to the end": OK + SSE + b"\r\n" + EVENT,
    "continue first": b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n" + OK + SSE + b"\r\n" + EVENT,
    "no phrase": b"HTTP/1.1 200\r\n" + SSE + CHUNKED + b"\r\n" + SIZED + b"0\r\n\r\n",
    "upper case": OK
    + SSE.upper()
    + CHUNKED.upper()
    + b"\r\n"
    + SIZED.upper()[:4]
    + SIZED[4:]
    + b"0\r\n\r\n",
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("step", [0, 1, 2, 3, 7, 50])
def test_sound_replies_in_any_pieces(name: str, step: int) -> None:
    raw = SOUND[name]
    if name == "upper case":
        raw = raw.replace(SSE.upper(), b"CONTENT-TYPE: Text/Event-Stream; charset=UTF-8\r\n")
    reply = read(raw, step=step)
    assert (reply.ending, reply.reason) == (Ending.DONE, "")
    assert (reply.status, len(reply.events.times), reply.received) == (200, 1, len(raw))
    assert reply.reusable == (
        b"\r\nDATA" in raw.upper() and name not in {"to the end", "continue first"}
    )


WRONG = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "status": b"HTTP/1.1 2000 OK\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "folded": OK + b"a: b\r\n c\r\n\r\n",
    "space before the colon": OK + b"Content-Length : 5\r\n\r\n",
    "no colon": OK + b"what\r\n\r\n",
    "control byte": OK + b"a: \x00\r\n\r\n",
    "two lengths": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
    "length and chunks": OK + CHUNKED + b"content-length: 5\r\n\r\n",
    "negative length": OK + b"content-length: -5\r\n\r\n",
    "gzip": OK + SSE + b"content-encoding: gzip\r\n\r\n",
    "gzip transfer": OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
    "huge head": OK + b"a: b\r\n" * 20_000,
    "endless status line": b"HTTP/1.1 200 " + b"x" * 70_000,
    "size": OK + SSE + CHUNKED + b"\r\n0x5\r\n",
    "negative size": OK + SSE + CHUNKED + b"\r\n-5\r\n",
    "huge size": OK + SSE + CHUNKED + b"\r\nffffffffffffffffff\r\n",
    "no size": OK + SSE + CHUNKED + b"\r\n\r\n",
    "endless size": OK + SSE + CHUNKED + b"\r\n" + b"0" * 5000,
    "LF after a size": OK + SSE + CHUNKED + b"\r\n" + SIZED.replace(b"\r\n", b"\n", 1),
    "chunk too long": OK + SSE + CHUNKED + b"\r\n" + SIZED[:-2] + b"more\r\n",
    "no line end after a chunk": OK + SSE + CHUNKED + b"\r\n" + SIZED[:-2] + b"xx0\r\n\r\n",
    "trailers": OK + SSE + CHUNKED + b"\r\n" + SIZED + b"0\r\n" + b"a: b\r\n" * 20_000,
    "no JSON": OK + b"content-length: 2\r\n\r\n{]",
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("step", [0, 1])
def test_what_is_no_reply_is_malformed_at_once(name: str, step: int) -> None:
    """Without waiting for the connection's end, and with the reason on one line."""
    reply = read(WRONG[name][:LIMIT], step=step, closed=False)
    assert reply.ending is Ending.MALFORMED
    assert reply.reason
    assert "\n" not in reply.reason
    assert len(reply.reason) < 400
    assert reply.reusable == (name == "no JSON")  # whose framing is sound


@pytest.mark.parametrize(
    ("raw", "ending", "words"),
    [
        (b"", Ending.TRUNCATED, "before a reply"),
        (OK, Ending.TRUNCATED, "within the reply"),
        (SOUND["chunked"][:-5], Ending.TRUNCATED, "within the reply"),
        (SOUND["length"][:-1], Ending.TRUNCATED, "within the reply"),
        (OK + SSE + b"\r\n", Ending.TRUNCATED, r"without \[DONE\]"),
        (b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nhi", Ending.STATUS, "503 No hi"),
        (b"HTTP/1.1 204 None\r\n\r\n", Ending.STATUS, "204"),
        (b"HTTP/1.1 307 Go\r\nlocation: /x\r\n\r\n", Ending.STATUS, "307 Go to /x"),
        (b"HTTP/1.1 500 No\r\n\r\n" + b"x" * 9000, Ending.STATUS, "500 No xxx"),
        (SOUND["to the end"] + b"data: x" * LIMIT, Ending.TOO_LARGE, "more than 100000 bytes"),
    ],
)
def test_what_is_not_whole(raw: bytes, ending: Ending, words: str) -> None:
    reply = read(raw)
    assert reply.ending is ending
    assert re.search(words, reply.reason)
    assert reply.reusable == (raw.startswith(b"HTTP/1.1 503") or b" 204 " in raw)


def test_what_follows_the_end_spoils_the_connection() -> None:
    """The reply counts all the same."""
    for reads in ([SOUND["chunked"] + b"HTTP"], [SOUND["chunked"], b"HTTP"]):
        reply = Reply(Templates(), limit_bytes=LIMIT)
        reply.feed([(at, raw) for at, raw in enumerate(reads)])
        assert reply.ending is Ending.DONE
        assert not reply.reusable


def test_the_reason_that_came_first_stays() -> None:
    """An error event explains a broken connection better than that it broke."""
    reply = Reply(Templates(), limit_bytes=LIMIT)
    reply.feed([(1, OK + SSE + b'\r\ndata: {"error": {"message": "dead"}}\n\n')])
    reply.closed(2, broken="Connection reset by peer")
    assert (reply.ending, reply.reason) == (Ending.ERROR_EVENT, "error event: dead")
    assert reply.end_ns == 2
