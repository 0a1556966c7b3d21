"""`/v1/responses`, the newer of OpenAI's two ways to ask: shape, accounting, streams, refusals.

A reasoning model may spend a short bound on thinking, so a check that reads an answer asks again
with a larger one before it stands back.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm import INFO, SHOULD, Client, Layer, check, not_applicable, suite
from pytest_vllm.domain.dialects import sure_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.target import Target
    from pytest_vllm.plugin.responses import ResponseStream

pytestmark = suite("responses", concurrent=True)

PATH = "/v1/responses"
NEEDS = ("chat", "responses")
QUESTION = "Count from 1 to 100."
GREEDY: dict[str, Any] = {"temperature": 0, "max_output_tokens": 8}
# Longer than the system message that some templates put in by themselves.
INSTRUCTIONS = "You are a careful assistant. " * 12
INVALID = (400, 422)
UNKNOWN_ID = "resp_0123456789abcdef0123456789abcdef"
UNKNOWN = (400, 404)
STATUS_SINCE = (0, 30)
"""First vLLM seen to tell `incomplete`; older sources call `completed` their catch-all."""
LONGEST_PROMPT = 131_072
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
DELTAS = {
    "response.output_text.delta": "response.output_text.done",
    "response.reasoning_text.delta": "response.reasoning_text.done",
}
TERMINAL = ("response.completed", "response.incomplete")


@check("responses.id.prefix", needs=NEEDS, ref="R01", catches=("responses-id-wrong",))
def test_id(vllm: Client) -> None:
    """The ID of a response MUST begin with `resp_`."""
    response = vllm.responses.create(QUESTION, **GREEDY).json
    assert response["id"].startswith("resp_")


@check("responses.id.unique", needs=NEEDS, ref="R01")
def test_ids_differ(vllm: Client) -> None:
    """Two responses MUST have two IDs."""
    ids = [vllm.responses.create("Hi", max_output_tokens=1).json["id"] for _ in range(2)]
    assert ids[0] != ids[1]


@check("responses.output.text", needs=NEEDS, ref="R01")
def test_output(vllm: Client) -> None:
    """A response MUST carry an assistant's text, or reasoning before one."""
    said = vllm.responses.read(vllm.responses.create(QUESTION, **GREEDY))
    assert said.text or said.thought


@check("responses.output.as-chat", needs=NEEDS, ref="R01")
def test_as_chat(vllm: Client) -> None:
    """A greedy response MUST begin as a chat completion of the same turn does."""
    sure = _sure_text(vllm)
    text = vllm.responses.read(vllm.responses.create(QUESTION, **GREEDY)).text
    assert text.startswith(sure)


@check("responses.status.incomplete", needs=NEEDS, ref="R01", catches=("responses-status-wrong",))
def test_incomplete(vllm: Client) -> None:
    """A response that `max_output_tokens` cut MUST be `incomplete` and say why."""
    response = vllm.responses.create(QUESTION, max_output_tokens=4, temperature=0).json
    if response["usage"]["output_tokens"] < 4:
        not_applicable("the model ended by itself within 4 tokens")
    if not _tells_status(vllm):
        vllm.observe("responses.status.cut", response["status"])
        not_applicable(f"vLLM {vllm.server.version} calls every response completed")
    assert response["status"] == "incomplete"
    assert response["incomplete_details"]["reason"] == "max_output_tokens"


@check("responses.status.completed", needs=NEEDS, ref="R01")
def test_completed(vllm: Client) -> None:
    """A response that ended before its bound MUST be `completed`, without details of a cut."""
    response = vllm.responses.create("Say OK.", max_output_tokens=64, temperature=0).json
    if response["usage"]["output_tokens"] == 64:
        not_applicable("the model did not end within 64 tokens")
    assert response["status"] == "completed"
    assert response.get("incomplete_details") is None


@check("responses.bound.kept", needs=NEEDS, ref="R01")
def test_bound(vllm: Client) -> None:
    """A response MUST NOT have more tokens than `max_output_tokens`."""
    for bound in (1, 5):
        reply = vllm.responses.create(QUESTION, max_output_tokens=bound, temperature=0)
        assert 1 <= reply.json["usage"]["output_tokens"] <= bound


@check("responses.usage.input-tokens", needs=NEEDS, ref="R01")
def test_input_tokens(vllm: Client) -> None:
    """`input_tokens` MUST be the `prompt_tokens` of a chat completion of the same turn."""
    _require_template(vllm)
    usage = vllm.responses.create(QUESTION, max_output_tokens=1).json["usage"]
    chat = vllm.chat(QUESTION, max_tokens=1).json["usage"]
    assert usage["input_tokens"] == chat["prompt_tokens"]


@check("responses.usage.adds-up", needs=NEEDS, ref="R01", catches=("responses-usage-wrong",))
def test_usage_adds_up(vllm: Client) -> None:
    """`total_tokens` MUST equal `input_tokens` plus `output_tokens`."""
    usage = vllm.responses.create(QUESTION, **GREEDY).json["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@check(
    "responses.instructions.count",
    needs=NEEDS,
    ref="R01",
    catches=("responses-instructions-ignored",),
)
def test_instructions(vllm: Client) -> None:
    """Instructions MUST reach the model, or be refused by a template without a system role."""
    body = {"model": vllm.model, "input": "Hi", "max_output_tokens": 1}
    reply = vllm.send("POST", PATH, body={**body, "instructions": INSTRUCTIONS})
    if reply.status == 400:
        not_applicable("the chat template has no system role")
    long = vllm.responses.create("Hi", max_output_tokens=1, instructions=INSTRUCTIONS).json
    short = vllm.responses.create("Hi", max_output_tokens=1).json
    assert long["usage"]["input_tokens"] > short["usage"]["input_tokens"]
    assert long["instructions"] == INSTRUCTIONS


@check("responses.input.turns-count", needs=NEEDS, ref="R01")
def test_turns(vllm: Client) -> None:
    """Earlier turns of a list of items MUST reach the model."""
    turns = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "1, 2, 3."},
        {"role": "user", "content": "Go on."},
    ]
    many = vllm.responses.create(turns, max_output_tokens=1).json["usage"]
    one = vllm.responses.create(turns[:1], max_output_tokens=1).json["usage"]
    assert many["input_tokens"] > one["input_tokens"]


@check("responses.input.list-as-text", needs=NEEDS, ref="R01")
def test_list_as_text(vllm: Client) -> None:
    """A list with one user turn MUST make the prompt that its text alone makes."""
    turn = [{"role": "user", "content": QUESTION}]
    listed = vllm.responses.create(turn, max_output_tokens=1).json["usage"]
    plain = vllm.responses.create(QUESTION, max_output_tokens=1).json["usage"]
    assert listed["input_tokens"] == plain["input_tokens"]


@check("responses.echo.of-the-request", needs=NEEDS, ref="R01")
def test_echo(vllm: Client) -> None:
    """A response MUST repeat the sampling and the bound that it was made with."""
    response = vllm.responses.create(QUESTION, temperature=0.5, top_p=0.75, max_output_tokens=3)
    seen = {name: response.json[name] for name in ("temperature", "top_p", "max_output_tokens")}
    assert seen == {"temperature": 0.5, "top_p": 0.75, "max_output_tokens": 3}


# --- streams -------------------------------------------------------------------------------------


@check(
    "responses.stream.event-names", needs=NEEDS, ref="R02", catches=("responses-event-mislabelled",)
)
def test_event_names(vllm: Client) -> None:
    """The `event:` line of every event MUST say the `type` of its data."""
    stream = vllm.responses.stream(QUESTION, **GREEDY)
    assert [event.name for event in stream.events] == stream.types


@check("responses.stream.numbers", needs=NEEDS, ref="R02", catches=("responses-sequence-stuck",))
def test_sequence(vllm: Client) -> None:
    """`sequence_number` MUST rise by one from event to event."""
    stream = vllm.responses.stream(QUESTION, **GREEDY)
    numbers = [event.data["sequence_number"] for event in stream.events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@check("responses.stream.numbers-from-zero", level=SHOULD, needs=NEEDS, ref="R02")
def test_sequence_start(vllm: Client) -> None:
    """The first `sequence_number` SHOULD be 0."""
    stream = vllm.responses.stream(QUESTION, **GREEDY)
    assert stream.events[0].data["sequence_number"] == 0


@check("responses.stream.frame", needs=NEEDS, ref="R02")
def test_frame(vllm: Client) -> None:
    """A stream MUST begin with `response.created` and end with one event that ends a response."""
    types = vllm.responses.stream(QUESTION, **GREEDY).types
    assert types[0] == "response.created"
    assert [name for name in types if name in TERMINAL] == [types[-1]]


@check("responses.stream.order", needs=NEEDS, ref="R02")
def test_order(vllm: Client) -> None:
    """An item MUST be added before what belongs to it comes, and done after it."""
    stream = vllm.responses.stream(QUESTION, **GREEDY)
    opened: set[int] = set()
    for event in stream.events:
        index = event.data.get("output_index")
        if event.type == "response.output_item.added":
            assert index not in opened, f"item {index} was added twice"
            opened.add(event.data["output_index"])
        elif event.type == "response.output_item.done":
            assert index in opened, f"item {index} was done but not open"
            opened.remove(event.data["output_index"])
        elif index is not None:
            assert index in opened, f"{event.type} of item {index}, which was not open"
    assert opened == set(), "items were left open"


@check("responses.stream.deltas", needs=NEEDS, ref="R02", catches=("responses-delta-lost",))
def test_deltas(vllm: Client) -> None:
    """The deltas of a part MUST make the text that the part is done with."""
    stream = vllm.responses.stream(QUESTION, **{**GREEDY, "max_output_tokens": 24})
    spelled = {done: _texts(stream.of(delta), "delta") for delta, done in DELTAS.items()}
    assert spelled == {done: _texts(stream.of(done), "text") for done in DELTAS.values()}
    assert any(spelled.values()), "no item had a text"


@check("responses.stream.final-text", needs=NEEDS, ref="R02", catches=("responses-delta-lost",))
def test_final_text(vllm: Client) -> None:
    """The text deltas MUST make the text of the response at the end."""
    stream = vllm.responses.stream(QUESTION, **{**GREEDY, "max_output_tokens": 24})
    said = vllm.responses.read(stream)
    assert _text(stream, "response.output_text.delta", "delta") == said.text
    assert said.text or said.thought


@check("responses.stream.one-response", needs=NEEDS, ref="R02")
def test_one_response(vllm: Client) -> None:
    """ID and time of the response MUST NOT change during a stream."""
    stream = vllm.responses.stream(QUESTION, **GREEDY)
    responses = [event.data["response"] for event in stream.events if "response" in event.data]
    assert len({(response["id"], response["created_at"]) for response in responses}) == 1


@check("responses.stream.as-chat", needs=NEEDS, ref="R02")
def test_stream_as_chat(vllm: Client) -> None:
    """A greedy stream MUST begin as a chat completion of the same turn does."""
    sure = _sure_text(vllm)
    stream = vllm.responses.stream(QUESTION, **GREEDY)
    assert _text(stream, "response.output_text.delta", "delta").startswith(sure)


@check("responses.stream.usage", needs=NEEDS, ref="R02")
def test_stream_usage(vllm: Client) -> None:
    """The usage at the end of a stream MUST be that of the same response without a stream."""
    final = vllm.responses.stream(QUESTION, **{**GREEDY, "max_output_tokens": 4}).final
    whole = vllm.responses.create(QUESTION, **{**GREEDY, "max_output_tokens": 4}).json
    names = ("input_tokens", "output_tokens", "total_tokens")
    seen = [final["usage"][name] for name in names]
    assert seen == [whole["usage"][name] for name in names]


@check("responses.stream.incomplete-event", level=INFO, layer=Layer.STRICT, needs=NEEDS, ref="R03")
def test_incomplete_event(vllm: Client) -> None:
    """The last event of a stream that was cut is recorded; OpenAI says `response.incomplete`."""
    stream = vllm.responses.stream(QUESTION, **{**GREEDY, "max_output_tokens": 2})
    vllm.observe("responses.stream.cut", f"{stream.types[-1]}, status {stream.final['status']}")


# --- structured text, refusals -------------------------------------------------------------------


@check("responses.format.json-schema", needs=NEEDS, ref="R07")
def test_json_schema(vllm: Client, vllm_target: Target) -> None:
    """`text.format` with a JSON Schema MUST give a text that fits the schema."""
    shape = {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}
    bound = 64
    for _ in range(2):
        reply = vllm.responses.create(
            "Say hello.", text={"format": shape}, temperature=0, max_output_tokens=bound
        )
        said, tokens = vllm.responses.read(reply), reply.json["usage"]["output_tokens"]
        if tokens < bound:
            assert json.loads(said.text) in ({"city": "Paris"}, {"city": "Rome"})
            return
        # As many as end in half of the time, by the speed that was seen.
        each_s = reply.elapsed_ms / 1000 / tokens
        possible = int(vllm_target.seconds("request-timeout") / 2 / each_s)
        bound = min(1024, (vllm.max_model_len or 2048) // 2, max(128, possible))
    if said.thought and not said.text:
        not_applicable(f"the model thought for all of {tokens} tokens")
    pytest.fail(f"not done within {tokens} tokens: {said.text[:80]!r}", pytrace=False)


@check("responses.errors.unknown-model", needs=NEEDS, ref="R08")
def test_unknown_model(vllm: Client) -> None:
    """A request for a model that is not served MUST be refused with 404."""
    vllm.refuse(PATH, body=_asked(model="no-such-model"), statuses=(404,))


@check("responses.errors.malformed", needs=NEEDS, ref="R08")
def test_malformed(vllm: Client) -> None:
    """A request without an input, or with an input of a wrong type, MUST be refused."""
    bodies = {
        "missing": {"max_output_tokens": 1},
        "number": _asked(input=5),
        "object": _asked(input={}),
        "null": _asked(input=None),
    }
    vllm.refuse_each(PATH, bodies, statuses=INVALID)


@check("responses.errors.out-of-range", needs=NEEDS, ref="R08")
def test_out_of_range(vllm: Client) -> None:
    """A value that no request may have MUST be refused."""
    bodies = {
        "temperature": _asked(temperature=-1),
        "top_p": _asked(top_p=2),
        "max_output_tokens": _asked(max_output_tokens=-1),
        "stream": _asked(temperature=-1, stream=True),
    }
    vllm.refuse_each(PATH, bodies, statuses=INVALID)


@check("responses.errors.too-long", needs=NEEDS, ref="R08")
def test_too_long(vllm: Client) -> None:
    """An input that is longer than the context MUST be refused."""
    length = vllm.max_model_len
    if length is None or length > LONGEST_PROMPT:
        not_applicable(f"the context has {length} tokens: too many to send for a refusal")
    vllm.refuse(PATH, body=_asked(input=" word" * (length + 8)), statuses=INVALID)


@check("responses.lookup.get", needs=NEEDS, ref="R05", catches=("responses-unknown-500",))
def test_get_unknown(vllm: Client) -> None:
    """GET of a response that does not exist MUST be 404."""
    vllm.refuse(f"{PATH}/{UNKNOWN_ID}", method="GET", statuses=(404,))


@check("responses.lookup.cancel", needs=NEEDS, ref="R05")
def test_cancel_unknown(vllm: Client) -> None:
    """Cancelling a response that does not exist MUST be refused."""
    vllm.refuse(f"{PATH}/{UNKNOWN_ID}/cancel", statuses=UNKNOWN)


@check("responses.lookup.previous", needs=NEEDS, ref="R05")
def test_previous_unknown(vllm: Client) -> None:
    """A request that goes on from a response that does not exist MUST be refused."""
    vllm.refuse(PATH, body=_asked(previous_response_id=UNKNOWN_ID), statuses=UNKNOWN)


# --- seen, not judged ----------------------------------------------------------------------------


@check("responses.seen.tool-choice", level=INFO, needs=NEEDS, ref="R04")
def test_tool_choice(vllm: Client) -> None:
    """The `tool_choice` of a response without tools is recorded; OpenAI says `auto`."""
    response = vllm.responses.create("Hi", max_output_tokens=1).json
    vllm.observe("responses.tool-choice.default", response["tool_choice"])


@check("responses.seen.store", level=INFO, needs=NEEDS, ref="R06")
def test_store(vllm: Client) -> None:
    """Whether a response with `store` can be fetched, and `background` is taken, is recorded."""
    stored = vllm.responses.create("Hi", max_output_tokens=1, store=True).json
    vllm.observe("responses.store.get-status", vllm.get(f"{PATH}/{stored['id']}").status)
    body = {**_asked(background=True), "model": vllm.model}
    vllm.observe("responses.background.status", vllm.send("POST", PATH, body=body).status)


@check("responses.seen.empty-input", level=INFO, needs=NEEDS, ref="R09")
def test_empty_input(vllm: Client) -> None:
    """What an empty input gives is recorded."""
    body = {**_asked(input=""), "model": vllm.model}
    vllm.observe("responses.empty-input.status", vllm.send("POST", PATH, body=body).status)


def _asked(**fields: Any) -> dict[str, Any]:
    return {"input": "Hello", "max_output_tokens": 1, **fields}


def _texts(events: list[Mapping[str, Any]], field: str) -> dict[int, str]:
    """Join a field of events by the item that they belong to."""
    texts: dict[int, str] = {}
    for event in events:
        texts[event["output_index"]] = texts.get(event["output_index"], "") + event[field]
    return texts


def _text(stream: ResponseStream, event_type: str, field: str) -> str:
    return "".join(_texts(stream.of(event_type), field).values())


def _sure_text(vllm: Client) -> str:
    """Return the beginning of the answer as the chat endpoint gives it, up to a near tie."""
    _require_template(vllm)
    reply = vllm.generate("chat", QUESTION, top=2, max_tokens=8, temperature=0)
    sure = sure_text(vllm.read(reply))
    if not sure:
        not_applicable("the model's first tokens nearly tie, or are reasoning")
    return sure


def _require_template(vllm: Client) -> None:
    """Stand back for gpt-oss: its two endpoints write the system message each in its own way."""
    turn = [{"role": "user", "content": "Hi"}]
    if "<|start|>system<|message|>" in vllm.detokenize(vllm.tokenize(turn)):
        not_applicable("gpt-oss gets another system message here than from the chat endpoint")


def _tells_status(vllm: Client) -> bool:
    number = re.match(r"(\d+)\.(\d+)", vllm.server.version)
    return number is None or (int(number[1]), int(number[2])) >= STATUS_SINCE
