"""What an event of a stream means: a token or none, how many, where content begins, what is odd."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_vllm.adapters.load.events import TokenEvents
from pytest_vllm.adapters.load.template import Templates
from pytest_vllm.domain.load.columns import UNTOLD, Ending

DONE = b"data: [DONE]\n\n"


def said(*found: dict[str, Any]) -> TokenEvents:
    """A stream of events, a nanosecond apart."""
    stream = TokenEvents(Templates())
    for at, event in enumerate(found):
        stream.feed(b"data: " + json.dumps(event).encode() + b"\n\n", at + 1)
    stream.feed(DONE, len(found) + 1)
    stream.close()
    return stream


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": fields}]}


def test_what_is_a_token_event() -> None:
    """A role, a comment, usage, an empty finish and [DONE] are none."""
    stream = said(
        delta(role="assistant", content=""),
        delta(content="a"),
        delta(tool_calls=[{"function": {"name": "f", "arguments": ""}}]),
        delta(tool_calls=[{"function": {"arguments": "{"}}]),
        {"choices": [{"text": "", "token_ids": [7]}]},
        {"choices": [{"text": "", "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}},
    )
    assert list(stream.times) == [2, 4, 5]
    assert list(stream.tokens) == [0, 0, 1]
    assert (stream.prompt_tokens, stream.completion_tokens) == (3, 5)
    assert (stream.finish, stream.done, stream.failure) == ("length", True, None)


def test_tokens_of_an_event_are_those_told() -> None:
    """By IDs, else by how far usage grew since the event before."""
    usage = [0, 2, 2, 5]
    stream = said(
        *(
            {"choices": [{"text": text}], "usage": {"completion_tokens": told}}
            for text, told in zip(["", " a", "", " b"], usage, strict=True)
        ),
        {"choices": [{"text": " c", "token_ids": [1, 2]}], "usage": {"completion_tokens": 7}},
        {"choices": [{"text": " d"}]},
    )
    assert list(stream.tokens) == [2, 3, 2, 0]


@pytest.mark.parametrize(
    ("parts", "number"),
    [
        (["content"], 0),
        (["reasoning", "reasoning", "content"], 2),
        (["reasoning_content", "reasoning"], UNTOLD),
        (["content", "reasoning"], 0),
        ([], UNTOLD),
    ],
)
def test_where_content_begins(parts: list[str], number: int) -> None:
    assert said(*(delta(**{part: "x"}) for part in parts)).content_event == number


def test_an_endless_event_is_bounded() -> None:
    stream = TokenEvents(Templates())
    for _ in range(300):
        stream.feed(b"data: " + b"x" * 2**16, 1)
    assert stream.failure is not None
    assert stream.failure[0] is Ending.TOO_LARGE
    assert stream.fatal


def test_deep_and_odd_documents_are_malformed() -> None:
    for payload in (b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"1e999999", b"[]", b'"x"'):
        stream = TokenEvents(Templates())
        stream.feed(b"data: " + payload + b"\n\n", 1)
        assert stream.failure is not None, payload[:9]
        assert stream.failure[0] is Ending.MALFORMED


def test_odd_values_do_no_harm() -> None:
    """Whatever types a server chooses."""
    stream = said(
        {"choices": {"text": "a"}, "usage": [1], "metrics": 3},
        {"choices": [None, 3, {"text": 5, "delta": [], "token_ids": "abc"}]},
        {"choices": [{"delta": {"tool_calls": [3, {"function": 4}], "content": ["a"]}}]},
        {"choices": [{"finish_reason": {"a": 1}}], "usage": {"completion_tokens": -3}},
        {"usage": {"completion_tokens": 10**30, "prompt_tokens": True}, "metrics": {"a": 10**400}},
        {"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 4}}},
    )
    assert not stream.times
    assert stream.cached_tokens == 4
    assert (stream.prompt_tokens, stream.completion_tokens) == (UNTOLD, UNTOLD)
    assert stream.failure is None
