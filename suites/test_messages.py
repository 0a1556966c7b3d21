"""`/v1/messages`, the way in which clients of Anthropic's API ask: shape, ends, streams, counting.

vLLM answers it by way of its chat endpoint. Older versions know less of it (no counting, no
thinking, no `stop_sequence`), so only what all of them do is a MUST.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm import INFO, SHOULD, Client, Layer, check, not_applicable, suite
from pytest_vllm.domain.dialects import sure_text

if TYPE_CHECKING:
    from pytest_vllm.domain.dialects import Said

pytestmark = suite("messages", concurrent=True)

PATH = "/v1/messages"
NEEDS = ("chat", "messages")
TOOL_NEEDS = ("chat", "messages", "tools")
QUESTION = "Count from 1 to 100."
TURN = {"role": "user", "content": QUESTION}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}
# Longer than the system message that some templates put in by themselves.
SYSTEM = "You are a careful assistant. " * 12
VOWELS = ["a", "e", "i", "o"]
INVALID = (400, 422)
FORCED = {
    "temperature": 0,
    "tools": [
        {
            "name": "get_weather",
            "description": "Tell the weather of a city.",
            "strict": True,
            "input_schema": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        }
    ],
    "tool_choice": {"type": "any"},
}
WEATHER = "What is the weather in Paris?"
CONVERSATIONS = {
    "one-turn": ([TURN], {}),
    "system": ([TURN], {"system": SYSTEM}),
    "several-turns": ([TURN, {"role": "assistant", "content": "1, 2."}, TURN], {}),
}


@check("messages.output.text", needs=NEEDS, ref="R10")
def test_output(vllm: Client) -> None:
    """A message MUST carry a text, or thinking before one."""
    _require_told(vllm, vllm.messages.read(vllm.messages.create(QUESTION, **GREEDY)))


@check("messages.output.as-chat", needs=NEEDS, ref="R10")
def test_as_chat(vllm: Client) -> None:
    """A greedy message MUST begin as a chat completion of the same turn does."""
    sure = _sure_text(vllm)
    text = vllm.messages.read(vllm.messages.create(QUESTION, **GREEDY)).text
    assert text.startswith(sure)


@check("messages.id.unique", needs=NEEDS, ref="R10")
def test_ids_differ(vllm: Client) -> None:
    """Two messages MUST have two IDs."""
    ids = [vllm.messages.create("Hi", max_tokens=1).json["id"] for _ in range(2)]
    assert ids[0] != ids[1]


@check("messages.id.prefix", level=INFO, layer=Layer.STRICT, needs=NEEDS, ref="R10")
def test_id_prefix(vllm: Client) -> None:
    """What the ID of a message begins with is recorded; Anthropic says `msg_`."""
    name = vllm.messages.create("Hi", max_tokens=1).json["id"]
    vllm.observe("messages.id.prefix", name.partition("-")[0].partition("_")[0])


@check(
    "messages.stop-reason.max-tokens",
    needs=NEEDS,
    ref="R10",
    catches=("messages-stop-reason-wrong",),
)
def test_max_tokens(vllm: Client) -> None:
    """A message that the bound cut MUST say `max_tokens` and have no more tokens than that."""
    message = vllm.messages.create(QUESTION, max_tokens=4, temperature=0).json
    assert message["usage"]["output_tokens"] <= 4
    if message["usage"]["output_tokens"] < 4:
        not_applicable("the model ended by itself within 4 tokens")
    assert message["stop_reason"] == "max_tokens"


@check("messages.stop-reason.end-turn", needs=NEEDS, ref="R10")
def test_end_turn(vllm: Client) -> None:
    """A message that ended before its bound MUST say `end_turn`."""
    message = vllm.messages.create("Say OK.", max_tokens=64, temperature=0).json
    if message["usage"]["output_tokens"] == 64:
        not_applicable("the model did not end within 64 tokens")
    assert message["stop_reason"] == "end_turn"


@check("messages.stop-sequences.cut", needs=NEEDS, ref="R10", catches=("messages-stop-ignored",))
def test_stop_sequences(vllm: Client) -> None:
    """A message MUST end before the first of its `stop_sequences`, which is not in the text."""
    message = _stopped(vllm)
    text = "".join(block.get("text", "") for block in message["content"])
    assert [vowel for vowel in VOWELS if vowel in text] == []
    assert message["usage"]["output_tokens"] < 48
    assert message["stop_reason"] in ("stop_sequence", "end_turn")


@check("messages.stop-sequences.told", level=SHOULD, needs=NEEDS, ref="R10")
def test_stop_sequence_told(vllm: Client) -> None:
    """A message that a stop sequence ended SHOULD say so, and which one it was."""
    message = _stopped(vllm)
    assert message["stop_reason"] == "stop_sequence"
    assert message["stop_sequence"] in VOWELS


@check("messages.system.counts", needs=NEEDS, ref="R10", catches=("messages-system-ignored",))
def test_system(vllm: Client) -> None:
    """A system prompt MUST reach the model, or be refused by a template without that role."""
    _require_system_role(vllm)
    long = vllm.messages.create("Hi", max_tokens=1, system=SYSTEM).json["usage"]
    short = vllm.messages.create("Hi", max_tokens=1).json["usage"]
    assert vllm.messages.input_tokens(long) > vllm.messages.input_tokens(short)


@check("messages.system.blocks", needs=NEEDS, ref="R10")
def test_system_blocks(vllm: Client) -> None:
    """A system prompt as a list of blocks MUST make the prompt that its text alone makes."""
    _require_system_role(vllm)
    blocks = [{"type": "text", "text": SYSTEM}]
    listed = vllm.messages.create("Hi", max_tokens=1, system=blocks).json["usage"]
    plain = vllm.messages.create("Hi", max_tokens=1, system=SYSTEM).json["usage"]
    assert vllm.messages.input_tokens(listed) == vllm.messages.input_tokens(plain)


@check("messages.content.blocks", needs=NEEDS, ref="R10")
def test_blocks(vllm: Client) -> None:
    """A content of one text block MUST make about the prompt that its text alone makes."""
    turn = {"role": "user", "content": [{"type": "text", "text": QUESTION}]}
    listed = vllm.messages.create([turn], max_tokens=1).json["usage"]
    plain = vllm.messages.create(QUESTION, max_tokens=1).json["usage"]
    # Templates of multi-modal models set a blank or a line break around parts.
    gap = vllm.messages.input_tokens(listed) - vllm.messages.input_tokens(plain)
    assert abs(gap) <= 4


@check("messages.turns.count", needs=NEEDS, ref="R10")
def test_turns(vllm: Client) -> None:
    """Earlier turns MUST reach the model."""
    turns = [TURN, {"role": "assistant", "content": "1, 2, 3."}, {"role": "user", "content": "On."}]
    many = vllm.messages.create(turns, max_tokens=1).json["usage"]
    one = vllm.messages.create(turns[:1], max_tokens=1).json["usage"]
    assert vllm.messages.input_tokens(many) > vllm.messages.input_tokens(one)


@check("messages.usage.as-chat", needs=NEEDS, ref="R10 R13")
def test_usage_as_chat(vllm: Client) -> None:
    """The prompt of a message MUST have the tokens of the same chat completion's prompt."""
    usage = vllm.messages.create(QUESTION, max_tokens=1).json["usage"]
    chat = vllm.chat(QUESTION, max_tokens=1).json["usage"]
    assert vllm.messages.input_tokens(usage) == chat["prompt_tokens"]


# --- streams -------------------------------------------------------------------------------------


@check("messages.stream.event-names", needs=NEEDS, ref="R11")
def test_event_names(vllm: Client) -> None:
    """The `event:` line of every event MUST say the `type` of its data."""
    stream = vllm.messages.stream(QUESTION, **GREEDY)
    assert [event.name for event in stream.events] == stream.types


@check("messages.stream.order", needs=NEEDS, ref="R11", catches=("messages-events-disordered",))
def test_order(vllm: Client) -> None:
    """Between start and end of a message its blocks MUST come one after the other, each whole."""
    types = vllm.messages.stream(QUESTION, **GREEDY).types
    assert types[0] == "message_start"
    last = len(types) - 1 - types[::-1].index("message_delta") if "message_delta" in types else -1
    assert last > 0, "no message_delta"
    opened = False
    for name in types[1:last]:
        if name == "content_block_start":
            assert not opened, "a block began inside of another"
            opened = True
        else:
            assert name in ("content_block_delta", "content_block_stop")
            assert opened, f"{name} outside of a block"
            opened = name != "content_block_stop"
    assert not opened, "message_delta came before the end of the block"


@check("messages.stream.end", needs=NEEDS, ref="R11", catches=("messages-stop-missing",))
def test_end(vllm: Client) -> None:
    """A stream MUST end with one `message_delta` and one `message_stop`."""
    types = vllm.messages.stream(QUESTION, **GREEDY).types
    assert types[-2:] == ["message_delta", "message_stop"]
    assert [types.count(name) for name in types[-2:]] == [1, 1]


@check("messages.stream.blocks-numbered", needs=NEEDS, ref="R11")
def test_block_indexes(vllm: Client) -> None:
    """Blocks MUST be numbered from 0, and each of their events say the number."""
    stream = vllm.messages.stream(QUESTION, **GREEDY)
    begun = [event["index"] for event in stream.of("content_block_start")]
    assert begun == list(range(len(begun)))
    assert [event["index"] for event in stream.of("content_block_stop")] == begun
    assert {event["index"] for event in stream.of("content_block_delta")} <= set(begun)


@check("messages.stream.text", needs=NEEDS, ref="R11")
def test_stream_text(vllm: Client) -> None:
    """The deltas of a stream MUST make a text, or thinking before one."""
    _require_told(vllm, vllm.messages.stream(QUESTION, **GREEDY).said)


@check("messages.stream.as-chat", needs=NEEDS, ref="R11")
def test_stream_as_chat(vllm: Client) -> None:
    """A greedy stream MUST begin as a chat completion of the same turn does."""
    sure = _sure_text(vllm)
    text = vllm.messages.stream(QUESTION, **GREEDY).said.text
    # vLLM 0.11 loses what comes together with the end of a stream.
    assert text
    assert text.startswith(sure) or sure.startswith(text)


@check("messages.stream.stop-reason", needs=NEEDS, ref="R11")
def test_stream_stop_reason(vllm: Client) -> None:
    """A stream that the bound cut MUST say `max_tokens`."""
    (delta,) = vllm.messages.stream(QUESTION, max_tokens=4, temperature=0).of("message_delta")
    if delta["usage"]["output_tokens"] < 4:
        not_applicable("the model ended by itself within 4 tokens")
    assert delta["delta"]["stop_reason"] == "max_tokens"


@check("messages.stream.usage", needs=NEEDS, ref="R11")
def test_stream_usage(vllm: Client) -> None:
    """The usage at the end of a stream MUST be that of the same message without a stream."""
    whole = vllm.messages.create(QUESTION, max_tokens=4, temperature=0).json["usage"]
    (delta,) = vllm.messages.stream(QUESTION, max_tokens=4, temperature=0).of("message_delta")
    assert delta["usage"]["output_tokens"] == whole["output_tokens"]
    if delta["usage"].get("input_tokens") is not None:
        seen = vllm.messages.input_tokens(delta["usage"])
        assert seen == vllm.messages.input_tokens(whole)


@check("messages.stream.start", level=SHOULD, layer=Layer.STRICT, needs=NEEDS, ref="R11")
def test_message_start(vllm: Client) -> None:
    """`message_start` SHOULD carry an empty message of the assistant with its usage."""
    (start,) = vllm.messages.stream(QUESTION, **GREEDY).of("message_start")
    message = start["message"]
    seen = {name: message.get(name) for name in ("type", "role", "content", "stop_reason")}
    assert seen == {"type": "message", "role": "assistant", "content": [], "stop_reason": None}
    assert message.get("usage")


# --- tools ---------------------------------------------------------------------------------------


@check("messages.tools.forced", needs=TOOL_NEEDS, ref="R10 T03")
def test_tools(vllm: Client) -> None:
    """With `tool_choice` any, a message MUST call a tool with an input that fits its schema."""
    for bound in _bounds(vllm):
        reply = vllm.messages.create(WEATHER, **FORCED, max_tokens=bound)
        if reply.json["stop_reason"] != "max_tokens":
            _require_call(vllm.messages.read(reply))
            assert reply.json["stop_reason"] == "tool_use"
            return
    not_applicable("the model came to no call within the bound")


@check("messages.tools.streamed", needs=TOOL_NEEDS, ref="R11 T06")
def test_streamed_tools(vllm: Client) -> None:
    """The parts of a streamed tool call MUST make an input that fits its schema."""
    for bound in _bounds(vllm):
        stream = vllm.messages.stream(WEATHER, **FORCED, max_tokens=bound)
        (delta,) = stream.of("message_delta")
        if delta["delta"]["stop_reason"] != "max_tokens":
            _require_call(stream.said)
            return
    not_applicable("the model came to no call within the bound")


# --- refusals ------------------------------------------------------------------------------------


@check("messages.errors.unknown-model", needs=NEEDS, ref="R12")
def test_unknown_model(vllm: Client) -> None:
    """A request for a model that is not served MUST be refused with 404."""
    body = {"model": "no-such-model", "messages": [TURN], "max_tokens": 1}
    vllm.messages.refuse(body, statuses=(404,))


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 1},
        {"messages": "Hello", "max_tokens": 1},
        {"messages": [{"role": "wizard", "content": "Hi"}], "max_tokens": 1},
        {"messages": [{"role": "user"}], "max_tokens": 1},
    ],
    ids=["missing", "text", "unknown-role", "no-content"],
)
@check("messages.errors.malformed", needs=NEEDS, ref="R12")
def test_malformed(vllm: Client, body: dict[str, Any]) -> None:
    """Messages that are missing or malformed MUST be refused."""
    vllm.messages.refuse(body, statuses=INVALID)


@pytest.mark.parametrize(
    "bound", [{}, {"max_tokens": -4}, {"max_tokens": "x"}], ids=["missing", "negative", "text"]
)
@check("messages.errors.bound", needs=NEEDS, ref="R12")
def test_bound(vllm: Client, bound: dict[str, Any]) -> None:
    """A request without a valid `max_tokens` MUST be refused: Anthropic's API requires one."""
    vllm.messages.refuse({"messages": [TURN], **bound}, statuses=INVALID)


@check("messages.errors.shape", level=INFO, layer=Layer.STRICT, needs=NEEDS, ref="R12")
def test_error_shape(vllm: Client) -> None:
    """In whose words errors come is recorded; Anthropic's begin with the type `error`."""
    bodies: dict[str, dict[str, Any]] = {
        "unknown-model": {"model": "no-such-model", "messages": [TURN], "max_tokens": 1},
        "no-messages": {"model": vllm.model, "max_tokens": 1},
    }
    for name, body in bodies.items():
        document = vllm.send("POST", PATH, body=body).json
        shape = "anthropic" if document.get("type") == "error" else "openai"
        vllm.observe(f"messages.error.{name}", f"{shape}, {document['error']['type']}")


# --- counting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONVERSATIONS)
@check("messages.count.as-usage", needs=NEEDS, ref="R13", catches=("count-tokens-off",))
def test_count(vllm: Client, kind: str) -> None:
    """`count_tokens` MUST be the number of prompt tokens that the same message is charged."""
    turns, params = CONVERSATIONS[kind]
    if "system" in params:
        _require_system_role(vllm)
    _require_template(vllm)
    count = vllm.messages.count(turns, **params)
    usage = vllm.messages.create(turns, **params, max_tokens=1).json["usage"]
    assert count == vllm.messages.input_tokens(usage)


@check("messages.count.tools", needs=TOOL_NEEDS, ref="R13")
def test_count_tools(vllm: Client) -> None:
    """`count_tokens` MUST count the tools as the prompt of the same message does."""
    _require_template(vllm)
    tools = {"tools": FORCED["tools"]}
    count = vllm.messages.count(WEATHER, **tools)
    usage = vllm.messages.create(WEATHER, **tools, max_tokens=1).json["usage"]
    assert count == vllm.messages.input_tokens(usage)


def _stopped(vllm: Client) -> dict[str, Any]:
    reply = vllm.messages.create(
        "Tell me about the sea.", max_tokens=48, temperature=0, stop_sequences=VOWELS
    )
    message: dict[str, Any] = reply.json
    return message


def _require_told(vllm: Client, said: Said) -> None:
    """Require a text or thinking, unless the model thinks and this vLLM does not pass it on."""
    if said.text or said.thought:
        return
    if vllm.read(vllm.chat(QUESTION, max_tokens=8, temperature=0)).reasoning:
        not_applicable("this vLLM's /v1/messages leaves out what a reasoning model thinks")
    pytest.fail("required a text, saw none", pytrace=False)


def _require_system_role(vllm: Client) -> None:
    body = {"model": vllm.model, "messages": [TURN], "max_tokens": 1, "system": "Be brief."}
    if vllm.send("POST", PATH, body=body).status == 400:
        not_applicable("the chat template has no system role")


def _require_template(vllm: Client) -> None:
    """Stand back for gpt-oss: its prompt is written in two ways, one of them not by template."""
    if "<|start|>system<|message|>" in vllm.detokenize(vllm.tokenize([TURN])):
        not_applicable("gpt-oss's prompts are not made by the chat template")


def _sure_text(vllm: Client) -> str:
    """Return the beginning of the answer as the chat endpoint gives it, up to a near tie."""
    reply = vllm.generate("chat", QUESTION, top=2, max_tokens=8, temperature=0)
    sure = sure_text(vllm.read(reply))
    if not sure:
        not_applicable("the model's first tokens nearly tie, or are reasoning")
    return sure


def _bounds(vllm: Client) -> tuple[int, int]:
    """Return a bound that is enough for a call, and one that leaves room to think before it."""
    return 96, min(1024, (vllm.max_model_len or 2048) // 2)


def _require_call(said: Said) -> None:
    assert said.calls
    for call in said.calls:
        assert call.name == "get_weather"
        assert json.loads(call.arguments) in ({"city": "Paris"}, {"city": "Rome"})
