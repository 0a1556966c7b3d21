"""What a reply says is the same however it is cut, and whether or not its events were known."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_vllm.adapters.load.events import TokenEvents
from pytest_vllm.adapters.load.framing import Reply
from pytest_vllm.adapters.load.template import Templates
from pytest_vllm.domain.load.columns import Ending

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
EXAMPLES = 300 if os.environ.get("PYTEST_VLLM_TEST_ALL") else 10
DONE = b"data: [DONE]\n\n"
WARM = Templates()
"""Shared by all examples, as it is by all replies of a load: what one leaves the next one finds."""


class Forgetful(Templates):
    """Knows no event by its bytes, so that each is parsed."""

    def adopt(self, stream: TokenEvents, payload: bytes, tokens: int) -> None:
        pass


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def columns(reply: Reply) -> dict[str, Any]:
    """All that a load keeps of a reply."""
    events = reply.events
    return {
        "times": list(events.times),
        "tokens": list(events.tokens),
        "usage": (events.prompt_tokens, events.completion_tokens, events.cached_tokens),
        "content": events.content_event,
        "finish": events.finish,
        "server_ms": repr(events.server_ms),
        "status": reply.status,
        "ending": reply.ending,
        "reason": reply.reason,
        "at": (reply.header_ns, reply.end_ns),
        "received": reply.received,
        "reusable": reply.reusable,
        "coalesced": reply.coalesced,
    }


def read(reads: list[tuple[int, bytes]], templates: Templates, *, batch: int) -> dict[str, Any]:
    """Feed reads, so many at a time."""
    reply = Reply(templates, limit_bytes=2**20)
    for first in range(0, len(reads), batch):
        reply.feed(reads[first : first + batch])
    if reply.ending is None:
        reply.closed(10**6)
    return columns(reply)


TEXTS = st.sampled_from(
    ["", " a", " the", '"', "\\", "\n", "\u00e9", "\u2028", "\U0001f600", "}]}"]
)
IDS = st.sampled_from([None, [], [5], [5, 77], [123456]])
HEADS = st.sampled_from(
    [
        {"id": "cmpl-0a", "object": "text_completion", "created": 1795362747},
        {"id": "cmpl-0b", "object": "text_completion", "created": 1795362748},
        {"id": "x", "object": "chat.completion.chunk", "created": 0},
        {"object": "error", "id": "y"},
        {"id": 'a"b', "created": 5},
        {},
    ]
)


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """One event as a server may send it, its lines ended as they may be."""
    kind = draw(st.sampled_from(["text", "text", "text", "content", "reasoning", "both", "args"]))
    text, more, ids = draw(TEXTS), draw(TEXTS), draw(IDS)
    choice: dict[str, Any] = {"index": 0}
    if kind == "text":
        choice["text"] = text
    elif kind == "args":
        choice["delta"] = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
    else:
        names = {"content": ["content"], "reasoning": ["reasoning_content"]}
        for name in names.get(kind, ["reasoning", "content"]):
            choice.setdefault("delta", {})[name] = more if name == "reasoning" else text
    choice |= draw(st.sampled_from([{}, {"finish_reason": None}, {"finish_reason": "length"}]))
    choice |= {"token_ids": ids} if draw(st.booleans()) else {}
    body = draw(HEADS) | {"model": "m", "choices": [choice]}
    body |= draw(
        st.sampled_from(
            [
                {},
                {},
                {},
                {"usage": None},
                {"usage": {"prompt_tokens": 4, "completion_tokens": draw(st.integers(0, 9))}},
                {"metrics": {"queue_time_ms": 1.5, "n": 3, "x": None}},
                {"choices": []},
                {"error": {"message": "no"}},
            ]
        )
    )
    compact = (",", ":") if draw(st.booleans()) else (", ", ": ")
    data = json.dumps(body, separators=compact, ensure_ascii=draw(st.booleans())).encode(
        "utf-8", "surrogatepass"
    )
    end = draw(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r"]))
    before = draw(st.sampled_from([b"", b"", b": ping" + end, b"event: x" + end, b"id: 7" + end]))
    if draw(st.integers(0, 9)) == 0 and b", " in data:
        data = data.replace(b", ", b"," + end + b"data: ", 1)
    return before + draw(st.sampled_from([b"data: ", b"data: ", b"data:"])) + data + end + end


@st.composite
def bodies(draw: st.DrawFn) -> list[bytes]:
    """Events and what stands between them, most often with an end."""
    found = draw(st.lists(events(), max_size=8))
    found *= draw(st.integers(1, 3))  # the same bytes again: what templates are for
    return [*found, draw(st.sampled_from([DONE, DONE, DONE, b"", b"data: {\n\n", b"data: 3\n\n"]))]


def cut(data: bytes, draw: st.DrawFn, most: int) -> list[bytes]:
    places = sorted(draw(st.sets(st.integers(0, len(data)), max_size=most)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@st.composite
def replies(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """A whole reply in reads, perhaps with a byte that is wrong."""
    body = draw(bodies())
    if draw(st.booleans()):
        body = [piece for piece in cut(b"".join(body), draw, 6) if piece]
    raw = HEAD + b"".join(chunk(one) for one in body if one)
    raw += draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"", b"0\r\n\r\njunk"]))
    if draw(st.integers(0, 3)) == 0:
        where = draw(st.integers(0, len(raw) - 1))
        wrong = draw(st.sampled_from([b"", b"\x00", b"\n", b'"', b"\xff", b"{", b"0"]))
        raw = raw[:where] + wrong + raw[where + 1 :]
    if draw(st.booleans()):  # a read for each chunk, the usual case
        pieces = re.findall(rb".*?\n\r\n(?=[0-9a-f]|$)|.+", raw, re.DOTALL) or [raw]
    else:
        pieces = cut(raw, draw, 12)
    return [(1000 + at, piece) for at, piece in enumerate(pieces) if piece]


@settings(max_examples=10 * EXAMPLES, deadline=None)
@given(replies(), st.integers(1, 9))
def test_known_events_mean_what_they_would_parsed(
    reads: list[tuple[int, bytes]], batch: int
) -> None:
    """With shapes kept from whatever came before, and fed in any batches, nothing else comes out.

    A limit is looked at once a batch, and so are counts of bytes, which is why they are the same
    only where the reply did not fail.
    """
    plain = read(reads, Forgetful(), batch=1)
    known = read(reads, WARM, batch=batch)
    if plain["ending"] is not Ending.DONE:
        plain.pop("received")
        known.pop("received")
    assert known == plain


@settings(max_examples=5 * EXAMPLES, deadline=None)
@given(bodies(), st.data())
def test_the_read_that_completes_an_event_gives_its_time(
    body: list[bytes], data: st.DataObject
) -> None:
    """Against a parser that has all bytes at once and knows which read brought each of them."""
    raw = b"".join(body)
    reads = [(n + 1, piece) for n, piece in enumerate(cut(raw, data.draw, 9)) if piece]
    arrival = [at for at, piece in reads for _ in piece]
    stream = TokenEvents(WARM)
    for at, piece in reads:
        stream.feed(piece, at)
    expected = by_the_book(raw, arrival)
    assert list(stream.times) == expected


def by_the_book(raw: bytes, arrival: list[int]) -> list[int]:  # noqa: C901 - as the standard
    """Times of token events of a body by the text of the standard, without any state."""
    times, lines, told = [], [], 0
    for found in re.finditer(rb"([^\r\n]*)(\r\n|\n|\r)", raw):
        line, at = found[1], arrival[found.start(2)]
        if line:
            if line.startswith(b"data:"):
                lines.append(line[5:].removeprefix(b" "))
            continue
        payload, lines = b"\n".join(lines), []
        if payload == b"[DONE]":
            return times
        if not payload:
            continue
        try:
            event = json.loads(payload)
        except ValueError:
            return times
        if not isinstance(event, dict):
            return times
        if "error" in event or event.get("object") == "error":
            continue
        usage = (event.get("usage") or {}).get("completion_tokens", -1)
        for choice in event["choices"]:
            delta = choice.get("delta", {})
            calls = delta.get("tool_calls", [{"function": {"arguments": ""}}])
            written = choice.get("text", "") + "".join(
                delta.get(name, "") for name in ("content", "reasoning", "reasoning_content")
            )
            ids = choice.get("token_ids") or []
            grown = not ids and usage > told
            if written or calls[0]["function"]["arguments"] or ids or grown:
                times.append(at)
                told = max(told, usage)
    return times


def usual(choice: str, rest: str = "") -> bytes:
    """An event as vLLM writes it."""
    return (
        b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m",'
        b'"choices":[{"index":0,%b}]%b}\n\n' % (choice.encode(), rest.encode())
    )


A = usual('"text":" a","token_ids":[1]')
B = usual('"text":" b","token_ids":[2,3]')
THOUGHT = usual('"delta":{"reasoning":"r"}')
BOTH = usual('"delta":{"reasoning":"r","content":"c"}')
CONTENT = usual('"delta":{"content":"c"}')
TRAPS = {
    "as usual": [A, B, A, B],
    "within a line": [A, B, b"data: ", A, B],
    "within an event": [A, B, b"data: {\n", A, B],
    "after a comment": [A, B, b": x\n", A, B],
    "after a carriage return": [A, b": x\r", b"\n" + A, B],
    "two in a chunk": [A, A + B, B],
    "one in two chunks": [A, B[:40], B[40:], B],
    "its end in the next chunk": [A, B[:-1], b"\n", B],
    "after the end": [A, DONE, A],
    "after an error": [A, usual("", ',"error":{"message":"no"}'), A],
    "a finish": [A, usual('"text":" a","finish_reason":"stop","token_ids":[1]'), A],
    "usage": [A, usual('"text":" a","token_ids":[1]', ',"usage":{"prompt_tokens":4}')],
    "usage that grew": [usual('"text":""', ',"usage":{"completion_tokens":4}'), A],
    "thoughts": [THOUGHT, THOUGHT, CONTENT, CONTENT],
    "thoughts and content at once": [THOUGHT, BOTH, THOUGHT],
    "content, then thoughts": [CONTENT, THOUGHT, BOTH],
    "IDs before a text": [usual('"text":"","token_ids":[1]'), THOUGHT, CONTENT],
    "a size with zeros": [A, A],
    "another field of the same length": [A, A.replace(b"choices", b"chooses"), B],
    "no JSON in the time": [A, A.replace(b'"created":1', b'"created":01')],
    "no line end after a chunk": [A, A],
}


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("warm", [[A, B], [THOUGHT, BOTH, CONTENT], [*TRAPS["a finish"], A]])
def test_a_known_event_is_known_only_where_it_stands_alone(
    name: str, *, joined: bool, warm: list[bytes]
) -> None:
    templates = Templates()
    pieces = [chunk(one) for one in TRAPS[name]]
    if name == "a size with zeros":
        pieces.append(b"00" + pieces[0])
    if name == "no line end after a chunk":
        pieces[1] = pieces[1][:-2] + b"xx"
    raw = [HEAD, *pieces, chunk(DONE), b"0\r\n\r\n"]
    reads = [(1, HEAD), (2, b"".join(raw[1:]))] if joined else [*enumerate(raw)]
    read([*enumerate([HEAD, *map(chunk, warm)])], templates, batch=99)
    read(reads, templates, batch=99)
    again = read(reads, templates, batch=99)
    plain = read(reads, Forgetful(), batch=1)
    assert again == plain
    assert plain["times"] or name == "after an error"


def test_a_known_event_may_be_cut_anywhere() -> None:
    """Into two reads, the second of which gives its time."""
    templates = Templates()
    whole = chunk(B)
    for place in range(1, len(whole)):
        rest = whole[place:] + chunk(A) + chunk(DONE) + b"0\r\n\r\n"
        reads = [(1, HEAD + chunk(A)), (2, chunk(A) + whole[:place]), (3, rest)]
        found = read(reads, templates, batch=3)
        assert found == read(reads, Forgetful(), batch=1)
        assert found["ending"] is Ending.DONE
        # Complete is an event with its empty line, before the end of its chunk.
        assert found["times"] == [1, 2, 2 if place >= len(whole) - 2 else 3, 3]
        assert found["tokens"] == [1, 1, 2, 1]


def test_most_events_are_known_by_their_bytes() -> None:
    """Of a usual stream only the first events, those that end it, and new words are parsed."""
    parsed = []

    class Counting(TokenEvents):
        __slots__ = ()

        def _parsed(self, payload: bytes) -> dict[str, Any] | None:
            parsed.append(payload)
            return super()._parsed(payload)

    templates = Templates()
    for request in range(20):
        reply = Reply(templates, limit_bytes=2**20)
        reply.events = Counting(templates)
        words = [
            {
                "id": f"cmpl-{request:08x}",
                "object": "text_completion",
                "created": 1795362747 + request,
                "model": "m",
                "choices": [{"index": 0, "text": f" {n % 10}", "token_ids": [n % 10]}],
            }
            for n in range(100)
        ]
        raw = [b"data: " + json.dumps(one, separators=(",", ":")).encode() for one in words]
        reply.feed([(1, HEAD), *((2, chunk(one + b"\n\n")) for one in raw), (3, chunk(DONE))])
        reply.feed([(4, b"0\r\n\r\n")])
        assert reply.ending is Ending.DONE
        assert len(reply.events.times) == sum(reply.events.tokens) == 100
    assert len(parsed) < 20 * 3 + 10


def test_a_vocabulary_need_not_be_parsed() -> None:
    """Plain text in the place of other text is known unseen; what is not plain is parsed once."""
    parsed = []

    class Counting(TokenEvents):
        __slots__ = ()

        def _parsed(self, payload: bytes) -> dict[str, Any] | None:
            parsed.append(payload)
            return super()._parsed(payload)

    templates = Templates()
    reply = Reply(templates, limit_bytes=2**20)
    reply.events = Counting(templates)
    texts = [f" {n}" for n in range(500)] + [' "', "\u00e9", ' "', "\\n", "", " z"]
    raw = [
        json.dumps({"choices": [{"index": 0, "text": text, "token_ids": None}]}).encode()
        for text in texts
    ]
    reads = [(number, chunk(b"data: " + one + b"\n\n")) for number, one in enumerate(raw, 1)]
    reply.feed([(0, HEAD), *reads, (900, chunk(DONE)), (901, b"0\r\n\r\n")])

    assert reply.ending is Ending.DONE
    assert list(reply.events.times) == [*range(1, 505), 506]  # all but the empty text
    assert len(parsed) == 1 + 3 + 1  # the first, three that are not plain, the empty one
