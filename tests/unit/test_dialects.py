"""What replies of the Responses and Messages APIs say, and what must hold for a response."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm.domain.dialects import (
    Call,
    NamedEvent,
    Said,
    read_message,
    read_message_stream,
    read_named_events,
    read_response,
    response_violations,
    sure_text,
)
from pytest_vllm.domain.generation import Generation, Token

DATE = {"date": "Sun, 22 Nov 2026 15:59:08 GMT"}
CREATED = 1795363148
USAGE = {
    "input_tokens": 5,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 8,
}
RESPONSE: dict[str, Any] = {"model": "m", "created_at": CREATED, "usage": USAGE}


def judged(**changes: Any) -> list[str]:
    return response_violations({**RESPONSE, **changes}, models=("m",), headers=DATE)


def test_a_sound_response_has_no_violations() -> None:
    assert judged() == []
    assert judged(usage=None) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": "x"}, "$.model: saw 'x', required 'm' as requested"),
        (
            {"usage": {**USAGE, "total_tokens": 9}},
            "$.usage.total_tokens: saw 9, required 8 (input_tokens 5 + output_tokens 3)",
        ),
        (
            {"usage": {**USAGE, "input_tokens_details": {"cached_tokens": 6}}},
            (
                "$.usage.input_tokens_details.cached_tokens: saw 6, "
                "required at most the 5 input_tokens"
            ),
        ),
        (
            {"usage": {**USAGE, "output_tokens_details": {"reasoning_tokens": 4}}},
            (
                "$.usage.output_tokens_details.reasoning_tokens: saw 4, "
                "required at most the 3 output_tokens"
            ),
        ),
    ],
)
def test_an_unsound_response_has_one_line(changes: dict[str, Any], line: str) -> None:
    assert judged(**changes) == [line]


def test_a_wrong_time_is_told_by_its_own_name() -> None:
    """The field is `created_at` here, not `created`."""
    (line,) = judged(created_at=CREATED - 3600)
    assert line.startswith(f"$.created_at: saw {CREATED - 3600}, required a time within")


def test_a_response_is_read_by_the_types_of_its_parts() -> None:
    """Text, thought and calls are told apart; what is of another type is passed over."""
    output = [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "reasoning", "content": None},
        {"type": "message", "content": [{"type": "output_text", "text": "a"}, {"type": "new"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "b"}]},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "web_search_call"},
    ]
    calls = (Call(name="f", arguments="{}"),)
    assert read_response({"output": output}) == Said(text="ab", thought="Hm.", calls=calls)


def test_a_message_is_read_by_the_types_of_its_blocks() -> None:
    """The input of a call is an object here, and becomes JSON text as in the other dialects."""
    content = [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "a"},
        {"type": "tool_use", "name": "f", "input": {"x": 1}},
    ]
    calls = (Call(name="f", arguments='{"x": 1}'),)
    assert read_message({"content": content}) == Said(text="a", thought="Hm.", calls=calls)


def test_a_streamed_message_is_put_together_by_block() -> None:
    """Parts of two calls are kept apart by the index of their block."""

    def step(index: int, **delta: str) -> NamedEvent:
        data = {"type": "content_block_delta", "index": index, "delta": delta}
        return NamedEvent(name="content_block_delta", data=data)

    def start(index: int, **block: str) -> NamedEvent:
        data = {"type": "content_block_start", "index": index, "content_block": block}
        return NamedEvent(name="content_block_start", data=data)

    events = [
        NamedEvent(name="message_start", data={"type": "message_start"}),
        start(0, type="thinking"),
        step(0, thinking="Hm"),
        step(0, thinking="."),
        step(0, signature="abc"),
        start(1, type="text"),
        step(1, text="a"),
        step(1, text="b"),
        start(2, type="tool_use", name="f"),
        step(2, partial_json='{"x"'),
        start(3, type="tool_use", name="g"),
        step(3, partial_json="{}"),
        step(2, partial_json=": 1}"),
    ]
    calls = (Call(name="f", arguments='{"x": 1}'), Call(name="g", arguments="{}"))
    assert read_message_stream(events) == Said(text="ab", thought="Hm.", calls=calls)


def test_events_keep_their_names_and_the_end_mark_is_none() -> None:
    """A name holds for one event only; `[DONE]`, a comment and a blank are no events."""
    lines = ["event: a", 'data: {"type": "a"}', "", ": ping", 'data: {"type": "b"}', "data: [DONE]"]
    events, violations = read_named_events(lines)
    assert violations == []
    assert [(event.name, event.type) for event in events] == [("a", "a"), ("", "b")]


def generation(*tokens: tuple[str, float], text: str | None = None) -> Generation:
    """Make a generation whose tokens each lead the next best one by so many nats."""
    made = tuple(
        Token(text=token, logprob=-0.1, top={token: -0.1, "?": -0.1 - lead})
        for token, lead in tokens
    )
    spelled = "".join(token for token, _ in tokens)
    return Generation(text=spelled if text is None else text, tokens=made)


@pytest.mark.parametrize(
    ("given", "sure"),
    [
        (generation(("1", 3.0), (",", 2.0)), "1,"),
        (generation(("1", 3.0), (",", 0.5), (" 2", 9.0)), "1"),
        (generation(("1", 0.0)), ""),
        (generation(("1", 3.0), text="One"), ""),
        (Generation(text="1"), ""),
        (Generation(text="1", tokens=(Token(text="1", logprob=-0.1, top={"1": -0.1}),)), ""),
    ],
    ids=["all", "up-to-a-tie", "tie-at-once", "not-spelled", "no-tokens", "no-alternative"],
)
def test_a_text_is_sure_up_to_its_first_near_tie(given: Generation, sure: str) -> None:
    assert sure_text(given) == sure
