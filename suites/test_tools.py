"""Calls of tools: forced, forbidden, streamed, refused, and the way back with a result.

Small models do not call a tool by themselves, so calls are forced: vLLM then constrains the text.
The tool allows one set of arguments only, which makes a call the same from every healthy model. A
reasoning model may spend a short bound on thinking: it gets a larger one before a check stands
back.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from pytest_vllm import INFO, SHOULD, Client, check, not_applicable, suite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.reply import Reply
    from pytest_vllm.plugin.stream import Stream

pytestmark = suite("tools", concurrent=True)

CHAT = ("chat",)
TOOLS = ("chat", "tools")
PATH = "/v1/chat/completions"
QUESTION = "What is the weather in Paris?"
ARGUMENTS = {"city": "Paris"}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris"]}},
    "required": ["city"],
    "additionalProperties": False,
}
# Since 0.30 or so vLLM only holds a call to its schema when the tool asks for it with `strict`.
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": PARAMETERS,
        "strict": True,
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Tell the time of a city.",
        "parameters": PARAMETERS,
        "strict": True,
    },
}
NAMES = ("get_weather", "get_time")
NAMED = {"type": "function", "function": {"name": "get_time"}}
UNKNOWN = {"type": "function", "function": {"name": "no_such_tool"}}
INVALID = (400, 422)
FINISH_SINCE = (0, 10)
"""First vLLM that ends a call with `required` as `tool_calls`, not as `stop`."""
PARALLEL_SINCE = (0, 12)
"""First vLLM that heeds `parallel_tool_calls`."""


# --- without a parser, too -----------------------------------------------------------------------


@check("tools.parser.missing", needs=CHAT, ref="T01")
def test_no_parser(vllm: Client) -> None:
    """Without a tool parser, `tool_choice` auto MUST be refused and the missing flag named."""
    if "tools" in vllm.server.capabilities:
        not_applicable("the server has a tool parser")
    reply = vllm.refuse(PATH, body=_asked(tool_choice="auto"), statuses=INVALID)
    message = reply.json["error"]["message"]
    assert "--tool-call-parser" in message or "--enable-auto-tool-choice" in message


@check("tools.none.no-call", needs=CHAT, ref="T02", catches=("tool-choice-none-ignored",))
def test_none(vllm: Client) -> None:
    """With `tool_choice` none, a reply MUST be a text without calls."""
    reply = vllm.chat(QUESTION, tools=[WEATHER], tool_choice="none", max_tokens=16, temperature=0)
    assert not _calls(reply)
    generation = vllm.read(reply)
    assert generation.text or generation.reasoning
    assert generation.finish_reason in ("stop", "length")


@check("tools.none.no-call-streamed", needs=CHAT, ref="T02")
def test_none_streamed(vllm: Client) -> None:
    """With `tool_choice` none, a stream MUST be a text without calls."""
    stream = vllm.stream(
        "chat", QUESTION, tools=[WEATHER], tool_choice="none", max_tokens=16, temperature=0
    )
    assert list(_deltas(stream)) == []
    assert stream.text() or stream.generation().reasoning


@check("tools.refused.malformed", needs=CHAT, ref="T05", catches=("bad-tools-accepted",))
def test_malformed(vllm: Client) -> None:
    """A choice of an unknown tool, and tools that are none, MUST be refused."""
    vllm.refuse_each(
        PATH,
        {
            "unknown-tool": _asked(tool_choice=UNKNOWN),
            "unknown-choice": _asked(tool_choice="banana"),
            "no-function": _asked(tools=[{"type": "function"}]),
            "text": _asked(tools="get_weather"),
        },
        statuses=INVALID,
    )


@check("tools.refused.nothing-to-choose", level=SHOULD, needs=CHAT, ref="T05")
def test_nothing_to_choose(vllm: Client) -> None:
    """A choice without tools, and an empty list of tools, SHOULD be refused."""
    turn = {"messages": [{"role": "user", "content": QUESTION}]}
    vllm.refuse_each(
        PATH,
        {
            "required": {**turn, "tool_choice": "required"},
            "named": {**turn, "tool_choice": NAMED},
            "empty": {**turn, "tools": []},
        },
        statuses=INVALID,
    )


@check("tools.result.answered", needs=CHAT, ref="T08")
def test_result(vllm: Client) -> None:
    """A conversation with a call and its result MUST be answered."""
    reply = vllm.chat(_turns_or_stand_back(vllm, "sunny"), max_tokens=12, temperature=0)
    generation = vllm.read(reply)
    assert generation.text or generation.reasoning or generation.finish_reason == "stop"


@check("tools.result.counts", level=SHOULD, needs=CHAT, ref="T08")
def test_result_counts(vllm: Client) -> None:
    """The result of a tool SHOULD reach the prompt: a longer one makes more prompt tokens."""
    long, short = (
        vllm.chat(_turns_or_stand_back(vllm, result), max_tokens=1).json["usage"]["prompt_tokens"]
        for result in ("It is sunny and warm. " * 8, "sunny")
    )
    assert long > short


@check("tools.prompt.none-choice", needs=("chat", "tokenize"), ref="T10")
def test_prompt_none(vllm: Client) -> None:
    """With `tool_choice` none, the prompt MUST be the template's, with the tools or without."""
    with_tools, without = _template_lengths(vllm)
    usage = vllm.chat(QUESTION, tools=[WEATHER], tool_choice="none", max_tokens=1).json["usage"]
    assert usage["prompt_tokens"] in (with_tools, without)


@check(
    "tools.prompt.has-tools",
    needs=(*TOOLS, "tokenize"),
    ref="T10",
    catches=("tools-not-rendered",),
)
def test_prompt_has_tools(vllm: Client) -> None:
    """The prompt of a request with tools MUST be as long as the template renders them."""
    with_tools, without = _template_lengths(vllm)
    if with_tools == without:
        not_applicable("the chat template does not render tools")
    usage = vllm.chat(QUESTION, tools=[WEATHER], max_tokens=1).json["usage"]
    assert usage["prompt_tokens"] == with_tools


@check("tools.prompt.rendered", level=INFO, needs=CHAT, ref="T10")
def test_prompt_rendered(vllm: Client) -> None:
    """Whether the chat template renders tools at all is recorded."""
    choice = "auto" if "tools" in vllm.server.capabilities else "none"
    given, bare = (
        vllm.chat(QUESTION, max_tokens=1, **fields).json["usage"]["prompt_tokens"]
        for fields in ({"tools": [WEATHER], "tool_choice": choice}, {})
    )
    vllm.observe("tools.prompt-tokens", f"{given} with a tool ({choice}), {bare} without")


# --- forced calls --------------------------------------------------------------------------------


@check(
    "tools.required.calls",
    needs=TOOLS,
    ref="T03",
    catches=("tool-choice-ignored", "tool-name-wrong"),
)
def test_required(vllm: Client) -> None:
    """With `tool_choice` required, a reply MUST call at least one of the tools offered."""
    calls = _calls(_forced(vllm, tool_choice="required"))
    assert calls
    assert [
        call["function"]["name"] for call in calls if call["function"]["name"] not in NAMES
    ] == []


@check("tools.required.arguments", needs=TOOLS, ref="T03", catches=("tool-arguments-not-json",))
def test_required_arguments(vllm: Client) -> None:
    """The arguments of a forced call MUST be JSON that fits the schema of the tool."""
    calls = _calls(_forced(vllm, tool_choice="required"))
    assert calls
    for call in calls:
        _require_arguments(call["function"]["arguments"])


@check(
    "tools.required.finish-reason",
    needs=TOOLS,
    ref="T03 T07",
    catches=("tool-finish-stop", "tool-calls-empty"),
)
def test_required_finish(vllm: Client) -> None:
    """A reply with a required call MUST end with `tool_calls`, and carry the calls."""
    reply = _forced(vllm, tool_choice="required")
    assert _calls(reply)
    _require_finish(vllm, reply.json["choices"][0]["finish_reason"])


@check(
    "tools.named.call",
    needs=TOOLS,
    ref="T04",
    catches=("tool-choice-ignored", "tool-arguments-not-json", "tool-name-wrong"),
)
def test_named(vllm: Client) -> None:
    """A tool that is named MUST be the one that is called, with arguments that fit its schema."""
    reply = _forced(vllm, tool_choice=NAMED)
    calls = _calls(reply)
    assert [call["function"]["name"] for call in calls] == ["get_time"]
    _require_arguments(calls[0]["function"]["arguments"])
    assert reply.json["choices"][0]["finish_reason"] in ("stop", "tool_calls")


@check("tools.parallel.off", needs=TOOLS, ref="T09", catches=("parallel-tools-forced",))
def test_parallel_off(vllm: Client) -> None:
    """With `parallel_tool_calls` false, a reply MUST NOT have more than one call."""
    if _older_than(vllm, PARALLEL_SINCE):
        not_applicable(f"vLLM {vllm.server.version} does not know parallel_tool_calls yet")
    reply = _forced(vllm, tool_choice="required", parallel_tool_calls=False)
    assert len(_calls(reply)) == 1


@pytest.mark.parametrize("tools", [[WEATHER], None], ids=["offered", "not-offered"])
@check("tools.auto.consistent", needs=TOOLS, ref="T07")
def test_auto(vllm: Client, tools: list[Any] | None) -> None:
    """A reply MUST end with `tool_calls` exactly when it has calls, never without tools."""
    fields = {"tools": tools, "tool_choice": "auto"} if tools else {}
    reply = vllm.chat(QUESTION, max_tokens=32, temperature=0, **fields)
    ended = reply.json["choices"][0]["finish_reason"] == "tool_calls"
    assert ended == bool(_calls(reply)) or reply.json["choices"][0]["finish_reason"] == "length"
    assert tools or not ended


# --- streams -------------------------------------------------------------------------------------


@check("tools.stream.first-delta", needs=TOOLS, ref="T06", catches=("stream-tool-id-missing",))
def test_first_delta(vllm: Client) -> None:
    """The first delta of a call MUST have its ID, type and name, and no later one another ID."""
    ids: dict[int, str] = {}
    for delta in _deltas(_forced_stream(vllm, tool_choice="required")):
        if delta["index"] not in ids:
            assert delta.get("id")
            assert delta.get("type") == "function"
            assert delta["function"]["name"] in NAMES
            ids[delta["index"]] = delta["id"]
        assert delta.get("id") in (None, "", ids[delta["index"]])
    assert sorted(ids) == list(range(len(ids)))
    assert ids


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@check("tools.stream.arguments", needs=TOOLS, ref="T06", catches=("stream-tool-arguments-lost",))
def test_streamed_arguments(vllm: Client, choice: Any) -> None:
    """The parts of a call's arguments MUST make JSON that fits the schema, as without a stream."""
    parts: dict[int, str] = {}
    for delta in _deltas(_forced_stream(vllm, tool_choice=choice)):
        arguments = (delta.get("function") or {}).get("arguments") or ""
        parts[delta["index"]] = parts.get(delta["index"], "") + arguments
    assert parts
    for arguments in parts.values():
        _require_arguments(arguments)


@check("tools.stream.as-unstreamed", needs=TOOLS, ref="T06")
def test_as_unstreamed(vllm: Client) -> None:
    """A streamed call MUST be that of the same request without a stream, under another ID."""
    (call,) = _calls(_forced(vllm, tool_choice=NAMED))
    deltas = list(_deltas(_forced_stream(vllm, tool_choice=NAMED)))
    parts = [delta.get("function") or {} for delta in deltas]
    assert "".join(part.get("name") or "" for part in parts) == call["function"]["name"]
    # Blanks between the values are the model's choice, and may differ between two runs.
    streamed = json.loads("".join(part.get("arguments") or "" for part in parts))
    assert streamed == json.loads(call["function"]["arguments"])
    assert call["id"] not in [delta.get("id") for delta in deltas]


@check("tools.stream.finish-reason", needs=TOOLS, ref="T06 T07")
def test_streamed_finish(vllm: Client) -> None:
    """A stream with a required call MUST end with `tool_calls`, once."""
    stream = _forced_stream(vllm, tool_choice="required")
    (reason,) = stream.finish_reasons()
    _require_finish(vllm, reason)


# --- the way back --------------------------------------------------------------------------------


@check("tools.round-trip", needs=TOOLS, ref="T08")
def test_round_trip(vllm: Client) -> None:
    """A call as the server gave it MUST be taken back, with its result, and be answered."""
    message = _forced(vllm, tool_choice=NAMED).json["choices"][0]["message"]
    call = message["tool_calls"][0]
    turns = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": message["content"], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "It is noon."},
    ]
    _turns_or_stand_back(vllm, "sunny")
    vllm.chat(turns, tools=[WEATHER, TIME], max_tokens=12, temperature=0)


def _asked(**fields: Any) -> dict[str, Any]:
    turn = {"role": "user", "content": QUESTION}
    return {"messages": [turn], "tools": [WEATHER], "max_tokens": 1, **fields}


def _calls(reply: Reply) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = reply.json["choices"][0]["message"].get("tool_calls") or []
    return calls


def _deltas(stream: Stream) -> Iterator[dict[str, Any]]:
    for part in stream.choices():
        yield from part["delta"].get("tool_calls") or ()


def _bounds(vllm: Client) -> tuple[int, int]:
    """Return a bound that is enough for a call, and one that leaves room to think before it."""
    return 96, min(1024, (vllm.max_model_len or 2048) // 2)


def _forced(vllm: Client, **fields: Any) -> Reply:
    """Ask for a call that is forced; stand back when the model does not come to it."""
    for bound in _bounds(vllm):
        reply = vllm.chat(
            QUESTION, tools=[WEATHER, TIME], temperature=0, max_tokens=bound, **fields
        )
        said = vllm.read(reply)
        if said.finish_reason != "length" or (said.text.strip() and not said.reasoning):
            return reply  # a text where a call was forced is for the check to judge
    return not_applicable(f"the model came to no call within {bound} tokens")


def _forced_stream(vllm: Client, **fields: Any) -> Stream:
    """Do what `_forced` does, as a stream."""
    for bound in _bounds(vllm):
        stream = vllm.stream(
            "chat", QUESTION, tools=[WEATHER, TIME], temperature=0, max_tokens=bound, **fields
        )
        said = stream.generation()
        if said.finish_reason != "length" or (said.text.strip() and not said.reasoning):
            return stream
    return not_applicable(f"the model came to no call within {bound} tokens")


def _require_arguments(text: str) -> None:
    arguments = json.loads(text)
    found = [error.message for error in Draft202012Validator(PARAMETERS).iter_errors(arguments)]
    assert found == [], f"{text[:120]!r}: {'; '.join(found)}"
    assert arguments == ARGUMENTS


def _require_finish(vllm: Client, reason: str) -> None:
    reasons = ("tool_calls", "stop") if _older_than(vllm, FINISH_SINCE) else ("tool_calls",)
    assert reason in reasons


def _turns_or_stand_back(vllm: Client, result: str) -> list[dict[str, Any]]:
    """Return a conversation with a call and its result; stand back where no template has it."""
    call = {
        "id": "call00001",  # nine letters and digits, as Mistral's templates want it
        "type": "function",
        "function": {"name": "get_weather", "arguments": json.dumps(ARGUMENTS)},
    }
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": result},
    ]
    body = {"model": vllm.model, "messages": turns, "max_tokens": 1}
    if vllm.send("POST", PATH, body=body).status in INVALID:
        not_applicable("the chat template has no role for the result of a tool")
    return turns


def _template_lengths(vllm: Client) -> tuple[int, int]:
    """Return the tokens of the prompt as the template renders it, with a tool and without."""
    turn = [{"role": "user", "content": QUESTION}]
    ids = vllm.tokenize(turn)
    if "<|start|>system<|message|>" in vllm.detokenize(ids):
        not_applicable("gpt-oss's prompts are not made by the chat template")
    return len(vllm.tokenize(turn, tools=[WEATHER])), len(ids)


def _older_than(vllm: Client, version: tuple[int, int]) -> bool:
    number = re.match(r"(\d+)\.(\d+)", vllm.server.version)
    return number is not None and (int(number[1]), int(number[2])) < version
