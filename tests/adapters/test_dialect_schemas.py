"""Schemas of the Responses and Messages APIs against a real server, the openai SDK, and nonsense.

`test_schemas.py` does the same for completions and chat.
"""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_vllm.adapters.schemas import schema_names, unknown_fields, violations
from pytest_vllm.adapters.sdk import DEVIATIONS, strict_violations
from pytest_vllm.domain.dialects import read_named_events

if TYPE_CHECKING:
    from collections.abc import Iterator

EXCHANGES = Path(__file__).parent.parent / "data" / "exchanges-dialects"
GONE = object()
SCHEMA_BY_PATH = {
    "/v1/responses": "responses/response",
    "/v1/messages": "messages/response",
    "/v1/messages/count_tokens": "messages/count",
}


def recorded(name: str) -> Any:
    return json.loads((EXCHANGES / f"{name}.json").read_text("utf-8"))


def body(name: str) -> Any:
    return recorded(name)["body"]


def events(name: str) -> list[Any]:
    found, violated = read_named_events(recorded(name)["sse_lines"])
    assert violated == []
    return [event.data for event in found]


def event(name: str, kind: str) -> Any:
    return next(found for found in events(name) if found["type"] == kind)


def all_documents() -> Iterator[Any]:
    """Yield (schema, document) of every recorded JSON document."""
    for file in sorted(EXCHANGES.glob("*.json")):
        exchange = recorded(file.stem)
        path = exchange["request"]["path"]
        if "sse_lines" in exchange:
            schema = SCHEMA_BY_PATH[path].replace("/response", "/event")
            for number, document in enumerate(events(file.stem)):
                yield pytest.param(schema, document, id=f"{file.stem}-{number}")
            continue
        document = exchange["body"]
        if exchange["status"] == 200:
            schema = SCHEMA_BY_PATH[path]
        else:
            schema = "messages/error" if "type" in document else "errors/error"
        yield pytest.param(schema, document, id=file.stem)


def changed(document: Any, place: str, value: Any) -> Any:
    """Copy a document with another value (or none, for GONE) at a place like `output.0.id`."""
    copy = deepcopy(document)
    *parents, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    target = copy
    for step in parents:
        target = target[step]
    if value is GONE:
        del target[last]
    else:
        target[last] = value
    return copy


def with_ids(cases: list[Any]) -> list[Any]:
    """Name each case by its number and words; the address of GONE would differ by process."""
    words = [[part for part in case[:2] if part is not GONE] for case in cases]
    return [
        pytest.param(*case, id="-".join(map(str, (number, *named))))
        for number, (case, named) in enumerate(zip(cases, words, strict=True))
    ]


# --- healthy replies -----------------------------------------------------------------------------


@pytest.mark.parametrize(("schema", "document"), list(all_documents()))
def test_a_recorded_reply_is_fine_and_all_its_fields_have_a_name(
    schema: str, document: Any
) -> None:
    """What vLLM 0.32.0 really said breaks no schema, and the schemas name every field of it."""
    assert violations(schema, document) == []
    assert unknown_fields(schema, document) == []


def test_the_recordings_cover_every_schema() -> None:
    """No schema of the two dialects is without a real reply that it was tried on."""
    tried = {parameters.values[0] for parameters in all_documents()}
    dialects = {name for name in schema_names() if name.startswith(("messages/", "responses/"))}
    assert tried == dialects | {"errors/error"}


@pytest.mark.parametrize("name", ["r_stream", "s_r_call", "s_r_logprobs", "m_stream", "s_m_call"])
def test_the_events_of_a_recorded_stream_bear_the_names_of_their_types(name: str) -> None:
    """The `event:` line says the type of the data, in both dialects."""
    found, _ = read_named_events(recorded(name)["sse_lines"])
    assert [event.name for event in found] == [event.type for event in found]
    assert len(found) > 5


@pytest.mark.parametrize(
    ("schema", "document"), [case for case in all_documents() if "responses/" in case.values[0]]
)
def test_a_recorded_response_passes_the_strict_types(schema: str, document: Any) -> None:
    """The openai SDK's types take what vLLM 0.32.0 said, as one body or event by event."""
    kind = "response" if schema.endswith("response") else "response.event"
    assert strict_violations(kind, json.dumps(document)) == []


# --- one document of each event ------------------------------------------------------------------

AT: dict[str, Any] = {"item_id": "msg_1", "output_index": 0}
PART = {**AT, "content_index": 0}
TEXT_PART = {"type": "output_text", "text": "a", "annotations": []}
RESPONSE = body("r_basic")
LEAST: dict[str, dict[str, Any]] = {
    "response.created": {"response": RESPONSE},
    "response.queued": {"response": RESPONSE},
    "response.in_progress": {"response": RESPONSE},
    "response.completed": {"response": RESPONSE},
    "response.incomplete": {"response": RESPONSE},
    "response.failed": {"response": RESPONSE},
    "response.output_item.added": {"output_index": 0, "item": RESPONSE["output"][0]},
    "response.output_item.done": {"output_index": 0, "item": RESPONSE["output"][0]},
    "response.content_part.added": {**PART, "part": TEXT_PART},
    "response.content_part.done": {**PART, "part": TEXT_PART},
    "response.reasoning_part.added": {**PART, "part": {"type": "reasoning_text", "text": "a"}},
    "response.reasoning_part.done": {**PART, "part": {"type": "reasoning_text", "text": "a"}},
    "response.output_text.delta": {**PART, "delta": "a"},
    "response.output_text.done": {**PART, "text": "a"},
    "response.output_text.annotation.added": {**PART, "annotation_index": 0, "annotation": {}},
    "response.refusal.delta": {**PART, "delta": "a"},
    "response.refusal.done": {**PART, "refusal": "a"},
    "response.reasoning_text.delta": {**PART, "delta": "a"},
    "response.reasoning_text.done": {**PART, "text": "a"},
    "response.reasoning_summary_part.added": {
        **AT,
        "summary_index": 0,
        "part": {"type": "summary_text", "text": "a"},
    },
    "response.reasoning_summary_text.delta": {**AT, "summary_index": 0, "delta": "a"},
    "response.reasoning_summary_text.done": {**AT, "summary_index": 0, "text": "a"},
    "response.function_call_arguments.delta": {**AT, "delta": "{"},
    "response.function_call_arguments.done": {**AT, "arguments": "{}"},
    "response.custom_tool_call_input.delta": {**AT, "delta": "a"},
    "response.custom_tool_call_input.done": {**AT, "input": "a"},
    "response.mcp_call_arguments.delta": {**AT, "delta": "{"},
    "response.mcp_call_arguments.done": {**AT, "arguments": "{}"},
    "response.mcp_call.in_progress": AT,
    "response.mcp_call.completed": AT,
    "response.web_search_call.searching": AT,
    "response.code_interpreter_call.interpreting": AT,
    "response.code_interpreter_call_code.delta": {**AT, "delta": "a"},
    "response.code_interpreter_call_code.done": {**AT, "code": "a"},
    "error": {"message": "boom"},
}
"""Events of a response with nothing but the fields that a client needs."""

CITATION = {"type": "file_citation", "file_id": "f", "filename": "f", "index": 0}
SDK_WANTS_MORE: dict[str, dict[str, Any]] = {
    "response.output_text.delta": {"logprobs": []},
    "response.output_text.done": {"logprobs": []},
    "response.output_text.annotation.added": {"annotation": CITATION},
}
"""What the SDK's types require beyond the schema, which looks at what most clients read."""

MESSAGE = {"id": "msg_1", "content": [], "model": "smollm2"}
MESSAGE_LEAST: dict[str, dict[str, Any]] = {
    "message_start": {"message": MESSAGE},
    "content_block_start": {"index": 0, "content_block": {"type": "text", "text": ""}},
    "content_block_delta": {"index": 0, "delta": {"type": "text_delta", "text": "a"}},
    "content_block_stop": {"index": 0},
    "message_delta": {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    "message_stop": {},
    "ping": {},
    "error": {"error": {"type": "overloaded_error", "message": "boom"}},
}
BLOCKS = {
    "text": {"text": "a"},
    "thinking": {"thinking": "a"},
    "redacted_thinking": {"data": "a"},
    "tool_use": {"id": "t", "name": "f", "input": {}},
}
STEPS = {
    "text_delta": {"text": "a"},
    "input_json_delta": {"partial_json": "{"},
    "thinking_delta": {"thinking": "a"},
    "signature_delta": {"signature": "a"},
}
OF_OTHER_TYPES = {str: 5, int: "x", dict: 5, list: {}}


def assert_each_field_is_needed(schema: str, document: dict[str, Any], prefix: str = "") -> None:
    """Require that no field of an object can be absent or of another type."""
    assert violations(schema, document) == []
    target = document
    for step in filter(None, prefix.split(".")):
        target = target[step]
    for name, value in target.items():
        place = f"{prefix}.{name}" if prefix else name
        wrong = OF_OTHER_TYPES[type(value)]
        for bad in (GONE, wrong):
            assert violations(schema, changed(document, place, bad)), (place, bad)


@pytest.mark.parametrize("kind", LEAST)
def test_an_event_of_a_response_needs_its_fields(kind: str) -> None:
    """Each type of event has the fields of the reference, by their types; the SDK agrees."""
    document = {"type": kind, "sequence_number": 3, **LEAST[kind]}
    assert_each_field_is_needed("responses/event", document)
    extra = SDK_WANTS_MORE.get(kind, {})
    assert strict_violations("response.event", json.dumps({**document, **extra})) == []


@pytest.mark.parametrize("kind", MESSAGE_LEAST)
def test_an_event_of_a_message_needs_its_fields(kind: str) -> None:
    """Each type of event has the fields of Anthropic's reference, by their types."""
    assert_each_field_is_needed("messages/event", {"type": kind, **MESSAGE_LEAST[kind]})


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_of_a_message_needs_its_fields(kind: str) -> None:
    """Each type of content block has the fields of Anthropic's reference, whole and streamed."""
    block = {"type": kind, **BLOCKS[kind]}
    event = {"type": "content_block_start", "index": 0, "content_block": block}
    assert_each_field_is_needed("messages/event", event, "content_block")
    message = changed(body("m_basic"), "content", [block])
    assert violations("messages/response", message) == []
    for name in BLOCKS[kind]:
        assert violations("messages/response", changed(message, f"content.0.{name}", GONE))


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_of_a_block_needs_its_fields(kind: str) -> None:
    """Each type of delta has the field of Anthropic's reference."""
    step = {"type": kind, **STEPS[kind]}
    event = {"type": "content_block_delta", "index": 0, "delta": step}
    assert_each_field_is_needed("messages/event", event, "delta")


@pytest.mark.parametrize("schema", ["responses/event", "messages/event"])
def test_an_event_of_a_new_type_is_let_through(schema: str) -> None:
    """Clients pass over events that they do not know, so a new one breaks nobody."""
    document = {"type": "response.dream.delta", "sequence_number": 0, "dream": "sheep"}
    assert violations(schema, document) == []
    assert strict_violations("response.event", json.dumps(document)) == []
    assert "dream" in unknown_fields(schema, document)


@pytest.mark.parametrize("kind", ["response.reasoning_part.added", "response.reasoning_part.done"])
def test_words_of_older_vllm_are_no_words_of_the_sdk(kind: str) -> None:
    """The SDK passes over them, so only the schema holds them to a shape."""
    assert strict_violations("response.event", json.dumps({"type": kind})) == []


# --- wrong replies -------------------------------------------------------------------------------

WRONG = [
    ("responses/response", "r_basic", "id", "", "at least 1 character(s)"),
    ("responses/response", "r_basic", "object", "chat.completion", '"response"'),
    ("responses/response", "r_basic", "created_at", 0, "at least 1"),
    ("responses/response", "r_basic", "created_at", "now", "required number"),
    ("responses/response", "r_basic", "model", None, "required string"),
    ("responses/response", "r_basic", "status", "done", "one of"),
    ("responses/response", "r_basic", "status", GONE, "saw no such field"),
    ("responses/response", "r_basic", "output", {}, "required array"),
    ("responses/response", "r_basic", "output.0.type", GONE, "saw no such field"),
    ("responses/response", "r_basic", "output.0.role", "user", '"assistant"'),
    ("responses/response", "r_basic", "output.0.status", "done", "one of"),
    ("responses/response", "r_basic", "output.0.content", "text", "required array"),
    ("responses/response", "r_basic", "output.0.content.0.text", None, "required string"),
    ("responses/response", "r_basic", "output.0.content.0.annotations", None, "required array"),
    ("responses/response", "r_basic", "usage", None, "required object"),
    ("responses/response", "r_basic", "usage", GONE, "saw no such field"),
    ("responses/response", "r_basic", "usage.input_tokens", -1, "at least 0"),
    ("responses/response", "r_basic", "usage.total_tokens", "45", "required integer"),
    ("responses/response", "r_basic", "incomplete_details.reason", "length", "one of"),
    ("responses/response", "r_basic", "tool_choice", "banana", "one of"),
    ("responses/response", "r_basic", "tools", None, "required array"),
    ("responses/response", "r_basic", "temperature", "0", "number or null"),
    ("responses/response", "r_basic", "temperature", float("nan"), "a finite number"),
    ("responses/response", "r_logprobs", "output.0.content.0.logprobs.0.logprob", None, "number"),
    ("responses/response", "r_call", "output.0.arguments", {}, "required string"),
    ("responses/response", "r_call", "output.0.call_id", GONE, "saw no such field"),
    ("responses/response", "r_call", "output.0.name", "", "at least 1 character(s)"),
    ("messages/response", "m_basic", "id", "", "at least 1 character(s)"),
    ("messages/response", "m_basic", "type", "error", '"message"'),
    ("messages/response", "m_basic", "role", "user", '"assistant"'),
    ("messages/response", "m_basic", "content", "text", "required array"),
    ("messages/response", "m_basic", "content.0", "text", "required object"),
    ("messages/response", "m_basic", "content.0.text", None, "required string"),
    ("messages/response", "m_basic", "model", GONE, "saw no such field"),
    ("messages/response", "m_basic", "stop_reason", "length", "one of"),
    ("messages/response", "m_basic", "stop_reason", None, "one of"),
    ("messages/response", "m_stop", "stop_sequence", 5, "string or null"),
    ("messages/response", "m_basic", "usage.input_tokens", None, "required integer"),
    ("messages/response", "m_basic", "usage.output_tokens", -1, "at least 0"),
    ("messages/response", "m_call", "content.0.input", "{}", "required object"),
    ("messages/error", "m_bad_model", "type", "oops", '"error"'),
    ("messages/error", "m_bad_model", "error.message", " ", "text that matches"),
    ("messages/error", "m_bad_model", "error.type", GONE, "saw no such field"),
    ("messages/count", "m_count", "input_tokens", "31", "required integer"),
    ("messages/count", "m_count", "context_management", [], "object or null"),
]


@pytest.mark.parametrize(("schema", "name", "place", "value", "said"), with_ids(WRONG))
def test_a_wrong_reply_is_one_line_with_its_cause(
    schema: str, name: str, place: str, value: Any, said: str
) -> None:
    """One wrong value gives one line, which says seen and required."""
    lines = violations(schema, changed(body(name), place, value))
    assert len(lines) == 1, lines
    assert said in lines[0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data: {'a': 1}", "line 2: required a JSON object"),
        ("data: []", "line 2: required a JSON object"),
        ('data: {"error": {"message": "boom"}}', "line 2: saw an error under status 200"),
        ('data: {"type": "error", "message": "boom"}', "line 2: saw an error under status 200"),
    ],
)
def test_an_error_or_nonsense_inside_of_a_stream_is_a_violation(line: str, said: str) -> None:
    """VLLM reports a dead engine inside of a stream under status 200, in several words."""
    found, violated = read_named_events(["event: response.created", line, ""])
    assert found == []
    assert len(violated) == 1
    assert violated[0].startswith(said)


# --- the SDK and the schemas, both ways ----------------------------------------------------------

HEALTHY = {
    "response": [body(name) for name in ("r_basic", "r_call", "r_logprobs", "r_fmt", "r_tools")],
    "response.event": [*events("s_r_call"), *events("s_r_logprobs")],
}
SCHEMA_BY_KIND = {"response": "responses/response", "response.event": "responses/event"}


@pytest.mark.parametrize("deviation", [found for found in DEVIATIONS if found.absent])
def test_an_allowance_for_a_missing_field_is_needed_and_covers_no_more(deviation: Any) -> None:
    """The SDK really refuses the absence; a wrong value at the place stays refused."""
    (kind,) = deviation.kinds
    documents = HEALTHY[kind]
    document = documents[0] if kind == "response" else event("r_stream", "response.completed")
    place = ".".join(deviation.place)
    assert strict_violations(kind, json.dumps(changed(document, place, GONE))) == []
    for value in (None, "0", 1.5):
        assert strict_violations(kind, json.dumps(changed(document, place, value)))
    beside = place.replace("cache_write_tokens", "cached_tokens")
    assert strict_violations(kind, json.dumps(changed(document, beside, GONE)))


ONLY_THE_SCHEMA_REFUSES = [
    ("id", "", "the SDK takes an empty ID"),
    ("created_at", 0, "the SDK takes any number for a time"),
    ("status", GONE, "optional to the SDK; clients branch on it"),
    ("usage", None, "optional to the SDK"),
    ("usage.input_tokens", -1, "the SDK takes negative counts"),
    ("input_messages", "a", "an extension of vLLM"),
]


@pytest.mark.parametrize(("place", "value", "why"), with_ids(ONLY_THE_SCHEMA_REFUSES))
def test_what_only_the_schema_refuses_is_known(place: str, value: Any, why: str) -> None:
    """Where the schema asks for more than the SDK, it is on this list with the reason."""
    assert why
    document = changed(body("r_basic"), place, value)
    assert strict_violations("response", json.dumps(document)) == []
    assert violations("responses/response", document)


def places(value: Any, prefix: str = "") -> Iterator[str]:
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        yield f"{prefix}{key}"
        yield from places(child, f"{prefix}{key}.")


PLACES = [
    (kind, number, place)
    for kind, documents in HEALTHY.items()
    for number, document in enumerate(documents)
    for place in places(document)
]
JSON = st.recursive(
    st.sampled_from([None, True, 0, -1, 1.0, 0.5, "", "auto", "completed", "message"])
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["id", "type", "text", "name"]), inner, max_size=2)
    ),
    max_leaves=4,
)


LEFT_OPEN = {
    r"(output|tools|content|annotations)(\.\d+)?$": "entries of a new type are let through",
    r"(item|part|(output|content|tools|annotations)\.\d+)(\.type)?$": "the same",
    r"(instructions|prompt|tool_choice|caller|allowed_callers)(\.\d+)?$": "the client's own words",
    r"^logprobs$": "in an event: see SDK_WANTS_MORE",
}
"""Where the schema is wider than the SDK on purpose, and why."""


@settings(max_examples=400)
@given(at=st.sampled_from(PLACES), value=st.just(GONE) | JSON)
def test_what_the_sdk_refuses_the_schema_refuses(at: tuple[str, int, str], value: Any) -> None:
    """Any mutation of a healthy response that breaks the SDK is caught by the schema as well."""
    kind, number, place = at
    document = changed(HEALTHY[kind][number], place, value)
    refusals = strict_violations(kind, json.dumps(document))
    if refusals and not any(re.search(pattern, place) for pattern in LEFT_OPEN):
        assert violations(SCHEMA_BY_KIND[kind], document), refusals
