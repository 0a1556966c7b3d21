"""Schemas against replies of a real server, and against replies that no client should be given."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytest_vllm.adapters import schemas
from pytest_vllm.adapters.schemas import (
    MAX_DEPTH,
    MAX_UNKNOWN_FIELDS,
    MAX_VIOLATIONS,
    UnknownSchemaError,
    schema_names,
    unknown_fields,
    violations,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

EXCHANGES = Path(__file__).parent.parent / "data" / "exchanges"
SCHEMAS = Path(__file__).parent.parent.parent / "schemas"
SCHEMA_BY_PATH = {
    "/v1/completions": "completions/response",
    "/v1/chat/completions": "chat/response",
    "/v1/models": "models/list",
    "/version": "server/version",
    "/tokenize": "tokenize/response",
    "/detokenize": "detokenize/response",
}
# vLLM answers with the role of the last message when told to add no generation prompt (0.32.0).
DEVIANT = {"cc_add_gen_false"}
GONE = object()
DEEP = 100_000


def recorded(name: str) -> Any:
    return json.loads((EXCHANGES / f"{name}.json").read_text("utf-8"))


def body(name: str) -> Any:
    return recorded(name)["body"]


def events(name: str) -> list[Any]:
    lines = recorded(name)["sse_lines"]
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def all_documents() -> Iterator[Any]:
    """Yield (name, schema, document) of every recorded JSON document of a known shape."""
    for file in sorted(EXCHANGES.glob("*.json")):
        name = file.stem
        if name in DEVIANT:
            continue
        exchange = recorded(name)
        schema = SCHEMA_BY_PATH.get(exchange["request"]["path"])
        if exchange["status"] >= 400:
            document = exchange.get("body") or json.loads(exchange["sse_lines"][0])
            kind = "errors/error" if "error" in document else "errors/detail"
            yield pytest.param(kind, document, id=name)
        elif "sse_lines" in exchange:
            assert schema is not None
            for number, event in enumerate(events(name)):
                yield pytest.param(
                    schema.replace("response", "chunk"), event, id=f"{name}-{number}"
                )
        else:
            assert schema is not None, f"{name} has a path without a schema"
            yield pytest.param(schema, exchange["body"], id=name)


def with_ids(cases: list[tuple[str, str, str, Any, str]]) -> list[Any]:
    """Name each wrong reply by its place and its number, since pytest wants unique names."""
    return [pytest.param(*case, id=f"{number}-{case[2]}") for number, case in enumerate(cases)]


def changed(document: Any, place: str, value: Any) -> Any:
    """Copy a document with another value (or none, for GONE) at a place like `choices.0.index`."""
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


def nested(levels: int) -> list[Any]:
    document: list[Any] = []
    for _ in range(levels):
        document = [document]
    return document


def tool_reply() -> Any:
    """Build a reply with a tool call, by the field names that vLLM 0.26 to 0.32 define."""
    call = {"id": "chatcmpl-tool-1", "type": "function"}
    call_function = {"name": "weather", "arguments": '{"city": "Paris"}'}
    message = body("cc_basic")["choices"][0]["message"]
    message |= {"content": None, "tool_calls": [{**call, "function": call_function}]}
    reply = changed(body("cc_basic"), "choices.0.message", message)
    return changed(reply, "choices.0.finish_reason", "tool_calls")


def tool_event() -> Any:
    part = {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": '{"c'}}
    return changed(events("s_cc_basic")[1], "choices.0.delta", {"tool_calls": [part]})


# --- the schema files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", sorted(SCHEMAS.glob("*/*.json")), ids=lambda file: f"{file.parent.name}-{file.stem}"
)
def test_schema_file_is_valid_named_and_described(file: Path) -> None:
    """A schema file is JSON Schema 2020-12, its `$id` is its path, and it explains itself."""
    schema = json.loads(file.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:pytest-vllm:schema:{file.parent.name}/{file.stem}"
    assert schema["title"]
    assert schema["description"]


def test_references_stay_in_the_folder() -> None:
    """Every `$ref` names a schema file of the folder, so no network is ever asked."""
    known = {
        file.relative_to(SCHEMAS).with_suffix("").as_posix() for file in SCHEMAS.rglob("*.json")
    }
    texts = [file.read_text("utf-8") for file in SCHEMAS.rglob("*.json")]
    references = [ref for text in texts for ref in re.findall(r'"\$ref": "([^"]*)"', text)]
    assert references
    for reference in references:
        name = reference.removeprefix("urn:pytest-vllm:schema:").partition("#")[0]
        assert name in known, reference


def test_names_are_the_replies_and_not_the_shared_definitions() -> None:
    """`schema_names` lists what a reply can be held against."""
    assert schema_names() == (
        "chat/chunk",
        "chat/response",
        "completions/chunk",
        "completions/response",
        "detokenize/response",
        "errors/detail",
        "errors/error",
        "messages/count",
        "messages/error",
        "messages/event",
        "messages/response",
        "models/list",
        "responses/event",
        "responses/response",
        "server/version",
        "tokenize/response",
    )


@pytest.mark.parametrize("function", [violations, unknown_fields])
@pytest.mark.parametrize("name", ["chat/replies", "common/usage", "../secret", ""])
def test_an_unknown_schema_names_the_known_ones(function: Any, name: str) -> None:
    """A wrong schema name is a KeyError whose message helps."""
    with pytest.raises(UnknownSchemaError, match="known are: chat/chunk, chat/response") as raised:
        function(name, {})
    assert isinstance(raised.value, KeyError)
    assert repr(name) in str(raised.value)


# --- healthy replies -----------------------------------------------------------------------------


@pytest.mark.parametrize(("schema", "document"), list(all_documents()))
def test_a_recorded_reply_is_fine_and_all_its_fields_have_a_name(
    schema: str, document: Any
) -> None:
    """What vLLM 0.32.0 really said breaks no schema, and the schemas name every field of it."""
    assert violations(schema, document) == []
    assert unknown_fields(schema, document) == []


def test_the_recordings_cover_every_schema() -> None:
    """No schema is without a real reply that it was tried on."""
    tried = {parameters.values[0] for parameters in all_documents()}
    dialects = {name for name in schema_names() if name.startswith(("messages/", "responses/"))}
    assert tried == set(schema_names()) - dialects  # those in test_dialect_schemas.py


def test_tool_calls_are_fine() -> None:
    """A message of tool calls alone, and a part of a call in a stream, are healthy."""
    assert violations("chat/response", tool_reply()) == []
    assert violations("chat/chunk", tool_event()) == []


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        keep = {"finish_reason", "content", "param"}
        return {k: without_nulls(v) for k, v in value.items() if v is not None or k in keep}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("completions/response", "c_basic"),
        ("chat/response", "cc_basic"),
        ("completions/chunk", "s_c_basic"),
        ("chat/chunk", "s_cc_basic"),
        ("models/list", "svc_models"),
    ],
)
def test_a_version_without_the_extensions_is_fine(schema: str, name: str) -> None:
    """Fields that are null may as well be absent: 0.26 has fewer of them than 0.32."""
    documents = events(name) if schema.endswith("chunk") else [body(name)]
    for document in documents:
        assert violations(schema, without_nulls(document)) == []


@pytest.mark.parametrize("code", [400, "invalid_request", None])
def test_an_error_code_may_be_integer_text_or_null(code: Any) -> None:
    """VLLM gives the status, OpenAI a word or null: clients of either must live with it."""
    assert violations("errors/error", changed(body("e_c_max_str"), "error.code", code)) == []


# --- wrong replies -------------------------------------------------------------------------------

WRONG = [
    ("completions/response", "c_basic", "id", 5, "saw 5 (integer), required string"),
    ("completions/response", "c_basic", "id", "", "required at least 1 character(s)"),
    ("completions/response", "c_basic", "created", "1795362738", "(string), required integer"),
    ("completions/response", "c_basic", "created", 1.5, "saw 1.5 (number), required integer"),
    ("completions/response", "c_basic", "created", 1795362738.0, "(number), required integer"),
    ("completions/response", "c_basic", "created", 0, "saw 0 (integer), required at least 1"),
    ("completions/response", "c_basic", "object", "chat.completion", '"text_completion"'),
    ("completions/response", "c_basic", "choices", {}, "saw {} (object), required array"),
    ("completions/response", "c_basic", "choices", [], "required at least 1 item(s)"),
    ("completions/response", "c_basic", "choices.0", None, "saw None (null), required object"),
    ("completions/response", "c_basic", "choices.0.text", None, "(null), required string"),
    ("completions/response", "c_basic", "choices.0.index", True, "(boolean), required integer"),
    ("completions/response", "c_basic", "choices.0.finish_reason", "banana", "one of"),
    ("completions/response", "c_basic", "choices.0.finish_reason", None, "one of"),
    ("completions/response", "c_basic", "choices.0.finish_reason", "abort", "one of"),
    ("completions/response", "c_basic", "choices.0.token_ids", "a", "required array or null"),
    ("completions/response", "c_basic", "usage", None, "saw None (null), required object"),
    ("completions/response", "c_basic", "usage", GONE, "saw no such field"),
    ("completions/response", "c_basic", "usage.prompt_tokens", GONE, "saw no such field"),
    ("completions/response", "c_basic", "usage.completion_tokens", -1, "saw -1 (integer)"),
    ("completions/response", "c_basic", "usage.total_tokens", "13", "required integer"),
    ("completions/response", "c_lp0", "choices.0.logprobs.tokens", GONE, "saw no such field"),
    (
        "completions/response",
        "c_lp0",
        "choices.0.logprobs",
        "none",
        "saw 'none' (string), required object or null",
    ),
    (
        "completions/response",
        "c_lp0",
        "choices.0.logprobs.token_logprobs.1",
        None,
        "saw None (null), required number",
    ),
    (
        "completions/response",
        "c_lp0",
        "choices.0.logprobs.token_logprobs.0",
        float("nan"),
        "saw nan, required a finite number",
    ),
    (
        "completions/response",
        "c_lp0",
        "choices.0.logprobs.top_logprobs.0",
        {"a": None},
        "saw None (null), required number",
    ),
    (
        "completions/response",
        "c_plp",
        "choices.0.prompt_logprobs.1",
        {"capital": {"logprob": -1.0}},
        "saw the field name 'capital' (string), required text that matches ^[0-9]+$",
    ),
    ("completions/response", "c_plp", "choices.0.prompt_logprobs.2", None, "required object"),
    ("completions/response", "c_basic", "system_fingerprint", "\ud800", "lone surrogates"),
    ("completions/response", "c_basic", "system_fingerprint", 7, "required string or null"),
    ("chat/response", "cc_basic", "object", "chat.completion.chunk", '"chat.completion"'),
    ("chat/response", "cc_basic", "choices.0.message", GONE, "saw no such field"),
    ("chat/response", "cc_basic", "choices.0.message.role", "user", '"assistant"'),
    ("chat/response", "cc_basic", "choices.0.message.content", ["a"], "string or null"),
    ("chat/response", "cc_basic", "choices.0.message.content", GONE, "saw no such field"),
    ("chat/response", "cc_basic", "choices.0.message.tool_calls", {}, "array or null"),
    ("chat/response", "cc_basic", "choices.0.message.tool_calls", [5], "required object"),
    ("chat/response", "cc_basic", "usage.completion_tokens", None, "required integer"),
    ("chat/response", "cc_lp_top3", "choices.0.logprobs.content.0.logprob", None, "number"),
    ("chat/response", "cc_lp_top3", "choices.0.logprobs.content.0.bytes", [256], "at most 255"),
    ("errors/error", "e_c_max_str", "error", "it broke", "required object"),
    ("errors/error", "e_c_max_str", "error.message", " ", "required text that matches"),
    ("errors/error", "e_c_max_str", "error.message", None, "required string"),
    ("errors/error", "e_c_max_str", "error.type", GONE, "saw no such field"),
    ("errors/error", "e_c_max_str", "error.param", 5, "required string or null"),
    ("errors/error", "e_c_max_str", "error.code", 400.0, "integer or string or null"),
    ("errors/detail", "svc_unknown", "detail", None, "required string or array"),
    ("models/list", "svc_models", "object", "models", '"list"'),
    ("models/list", "svc_models", "data", None, "required array"),
    ("models/list", "svc_models", "data.0.id", GONE, "saw no such field"),
    ("models/list", "svc_models", "data.0.created", "now", "required integer"),
    ("models/list", "svc_models", "data.0.max_model_len", "2048", "required integer or null"),
    ("server/version", "svc_version", "version", "", "required at least 1 character(s)"),
    ("tokenize/response", "t_prompt", "tokens.0", -1, "required at least 0"),
    ("tokenize/response", "t_prompt", "count", "2", "required integer"),
    ("detokenize/response", "dt_rt", "prompt", None, "required string"),
]


@pytest.mark.parametrize(("schema", "name", "place", "value", "said"), with_ids(WRONG))
def test_a_wrong_reply_is_one_line_with_place_and_cause(
    schema: str, name: str, place: str, value: Any, said: str
) -> None:
    """One wrong value gives one line, which starts with its place and says seen and required."""
    lines = violations(schema, changed(body(name), place, value))
    assert len(lines) == 1, lines
    path = "$" + re.sub(r"\.(\d+)", r"[\1]", "." + place)
    assert lines[0].startswith(path)
    assert said in lines[0]


WRONG_EVENTS = [
    ("completions/chunk", "s_c_basic", "choices.0.finish_reason", GONE, "saw no such field"),
    ("completions/chunk", "s_c_basic", "choices.0.finish_reason", "eos", '"repetition" or null'),
    ("completions/chunk", "s_c_basic", "choices.0.text", GONE, "saw no such field"),
    ("completions/chunk", "s_c_basic", "choices", None, "required array"),
    ("completions/chunk", "s_c_basic", "object", "completion", '"text_completion"'),
    ("completions/chunk", "s_c_usage_cont", "usage.total_tokens", -3, "at least 0"),
    ("chat/chunk", "s_cc_basic", "choices.0.finish_reason", GONE, "saw no such field"),
    ("chat/chunk", "s_cc_basic", "choices.0.delta", None, "required object"),
    ("chat/chunk", "s_cc_basic", "choices.0.delta.role", "robot", "one of"),
    ("chat/chunk", "s_cc_basic", "choices.0.delta.content", 5, "required string or null"),
    ("chat/chunk", "s_cc_basic", "created", "now", "required integer"),
    ("chat/chunk", "s_cc_usage_cont", "usage", [], "required object or null"),
]


@pytest.mark.parametrize(("schema", "name", "place", "value", "said"), with_ids(WRONG_EVENTS))
def test_a_wrong_event_of_a_stream_is_one_line(
    schema: str, name: str, place: str, value: Any, said: str
) -> None:
    """Events are held to their own schema: above all, `finish_reason` may be null, not absent."""
    lines = violations(schema, changed(events(name)[0], place, value))
    assert len(lines) == 1, lines
    assert said in lines[0]


def test_an_error_inside_a_stream_is_no_event() -> None:
    """VLLM puts `{"error": ...}` into a stream under status 200; no chunk schema lets it pass."""
    event = {"error": {"message": "boom", "type": "Internal", "param": None, "code": 500}}
    for schema in ("completions/chunk", "chat/chunk"):
        assert "$.choices: saw no such field, required it to be there" in violations(schema, event)


def test_a_chunk_is_no_reply_and_a_reply_no_chunk() -> None:
    """The two shapes of chat cannot be taken for each other."""
    assert violations("chat/response", events("s_cc_basic")[0])
    assert violations("chat/chunk", body("cc_basic"))


@pytest.mark.parametrize("place", ["id", "function.name", "function.arguments", "type"])
def test_an_incomplete_tool_call_is_refused(place: str) -> None:
    """A client cannot run a call without an ID, a type, a name and arguments."""
    reply = changed(tool_reply(), f"choices.0.message.tool_calls.0.{place}", GONE)
    assert violations("chat/response", reply) == [
        f"$.choices[0].message.tool_calls[0].{place}: saw no such field, required it to be there"
    ]


def test_a_part_of_a_tool_call_needs_its_index() -> None:
    """Without the index a client cannot put the parts of two calls together."""
    event = changed(tool_event(), "choices.0.delta.tool_calls.0.index", GONE)
    assert len(violations("chat/chunk", event)) == 1


@pytest.mark.parametrize("document", [None, [], "", 5, True, float("nan")])
@pytest.mark.parametrize("schema", schema_names())
def test_no_reply_is_anything_but_an_object(schema: str, document: Any) -> None:
    """JSON that is no object at all is refused by every schema, without an exception."""
    assert violations(schema, document)[0].endswith("required object")
    assert unknown_fields(schema, document) == []


def required_places(schema: str, document: Any) -> list[str]:
    """Find the places of a document that the schema does not do without."""
    places = []

    def visit(value: Any, place: str) -> None:
        children = (
            value.items() if isinstance(value, dict) else enumerate(value)
            if isinstance(value, list) else ()
        )  # fmt: skip
        for key, child in children:
            here = f"{place}.{key}" if place else str(key)
            if isinstance(value, dict) and violations(schema, changed(document, here, GONE)):
                places.append(here)
            visit(child, here)

    visit(document, "")
    return places


HEALTHY = {
    "completions/response": body("c_basic"),
    "chat/response": body("cc_basic"),
    "completions/chunk": events("s_c_usage")[0],
    "chat/chunk": events("s_cc_usage")[0],
    "models/list": body("svc_models"),
    "errors/error": body("e_c_max_str"),
    "tokenize/response": body("t_prompt"),
}
REQUIRED = [
    (schema, place) for schema in HEALTHY for place in required_places(schema, HEALTHY[schema])
]
NULLABLE = {"choices.0.message.content", "error.param", "error.code"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def test_the_fields_that_a_client_reads_are_required() -> None:
    """The list of fields that no healthy reply may lack, spelled out for the chat endpoint."""
    assert [place for schema, place in REQUIRED if schema == "chat/response"] == [
        "id",
        "object",
        "created",
        "model",
        "choices",
        "choices.0.index",
        "choices.0.message",
        "choices.0.message.role",
        "choices.0.message.content",
        "choices.0.finish_reason",
        "usage",
        "usage.prompt_tokens",
        "usage.total_tokens",
        "usage.completion_tokens",
    ]


@settings(deadline=None, max_examples=300)
@given(at=st.sampled_from(REQUIRED), value=JSON)
def test_any_wrong_type_at_a_required_place_is_refused(at: tuple[str, str], value: Any) -> None:
    """Whatever JSON of another type stands where a client needs a value, the schema says so."""
    schema, place = at
    document = HEALTHY[schema]
    healthy = document
    for step in place.split("."):
        healthy = healthy[int(step) if step.isdigit() else step]
    accepted: tuple[type, ...] = (type(healthy),)
    if place in NULLABLE or (place == "choices.0.finish_reason" and schema.endswith("chunk")):
        accepted += (str, type(None))
    assume(type(value) not in accepted)
    assert violations(schema, changed(document, place, value)), (place, value)


# --- observations --------------------------------------------------------------------------------


def test_a_field_without_a_name_is_allowed_and_reported() -> None:
    """A new vLLM may add fields anywhere: no violation, one dotted path for all indexes."""
    reply = body("c_batch_n2")
    reply["new"] = {"inside": 1}
    for choice in reply["choices"]:
        choice["colour"] = "red"
    reply["usage"]["joules"] = 5
    assert violations("completions/response", reply) == []
    assert unknown_fields("completions/response", reply) == [
        "choices[].colour",
        "usage.joules",
        "new",
    ]


def test_unknown_fields_inside_maps_lists_and_null_or_object() -> None:
    """Names are looked for below maps, list items and objects that may be null."""
    reply = body("c_plp")
    for position in reply["choices"][0]["prompt_logprobs"][1:]:
        for entry in position.values():
            entry["odd"] = 1
    reply["metrics"] = {"watts": 1, "queue_time_ms": 2.5}
    assert violations("completions/response", reply) == []
    assert unknown_fields("completions/response", reply) == [
        "choices[].prompt_logprobs[].*.odd",
        "metrics.watts",
    ]


def test_free_form_fields_are_not_observed() -> None:
    """What vLLM documents as free form holds anything."""
    reply = changed(body("c_basic"), "kv_transfer_params", {"remote": {"host": "a", "ports": [1]}})
    assert unknown_fields("completions/response", reply) == []
    assert violations("completions/response", reply) == []


def test_an_odd_field_name_is_quoted_and_shortened() -> None:
    """A server chooses field names: control characters and length do not reach the report."""
    reply = {**body("svc_version"), "\x1b[31m" + "x" * 500: 1}
    (line,) = unknown_fields("server/version", reply)
    assert line.isprintable()
    assert len(line) < 80


def test_unknown_fields_are_bounded() -> None:
    """A reply with very many unknown names gives a bounded list."""
    reply = {f"field{number}": number for number in range(10_000)}
    assert len(unknown_fields("server/version", reply)) == MAX_UNKNOWN_FIELDS


# --- hostile documents ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["choices", "id", "kv_transfer_params", "unheard_of"])
def test_deep_nesting_is_a_violation_and_no_crash(place: str) -> None:
    """A document of a hundred thousand levels is refused without recursion."""
    reply = {**body("c_basic"), place: nested(DEEP)}
    (line,) = violations("completions/response", reply)
    assert f"required at most {MAX_DEPTH} levels" in line
    assert len(line) < 300
    unknown_fields("completions/response", reply)


def test_nesting_within_the_limit_is_read() -> None:
    """The limit is where it says: one level less is an unknown field, no violation."""
    at_limit = {**body("c_basic"), "unheard_of": nested(MAX_DEPTH - 2)}
    assert violations("completions/response", at_limit) == []
    beyond = {**body("c_basic"), "unheard_of": nested(MAX_DEPTH - 1)}
    assert len(violations("completions/response", beyond)) == 1


def test_violations_are_bounded_in_number_and_length() -> None:
    """A reply with very many and very long mistakes gives a screen, not a log file."""
    reply = changed(body("c_basic"), "choices", ["x" * 10_000] * 10_000)
    lines = violations("completions/response", reply)
    assert len(lines) == MAX_VIOLATIONS
    assert all(len(line) < 250 for line in lines)


@pytest.mark.parametrize("value", ["\x1b[2J\n\u202e", ["\x1b[2J\n"], {"\x1b[2J\n": 1}])
def test_what_a_server_said_is_shown_escaped(value: Any) -> None:
    """Control characters of a reply do not reach the terminal, and a violation stays one line."""
    (line,) = violations("completions/response", changed(body("c_basic"), "created", value))
    assert line.isprintable()


@pytest.mark.parametrize(
    "value",
    [{1, 2}, b"bytes", {5: "key"}, 10**5000, object()],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_no_json_has_is_a_violation(value: Any) -> None:
    """A mistaken caller gets a line, not a traceback from inside jsonschema."""
    assert len(violations("completions/response", {**body("c_basic"), "extra": value})) == 1


def test_a_document_that_contains_itself_is_a_violation() -> None:
    """No JSON can, but a loop would otherwise hang the run."""
    reply = body("c_basic")
    reply["self"] = [reply, reply]
    (line,) = violations("completions/response", reply)
    assert "levels" in line


def test_a_lone_surrogate_is_refused_in_a_text_and_in_a_name() -> None:
    """Half a character cannot be encoded again: neither as a text nor as a token that is a key."""
    as_text = {**body("c_basic"), "extra": ["\udc80"]}
    assert violations("completions/response", as_text) == [
        "$.extra[0]: saw '\\udc80' (string), required text without lone surrogates"
    ]
    place = "choices.0.logprobs.top_logprobs.0"
    as_name = changed(body("c_lp0"), place, {"\udc80": -0.5})
    (line,) = violations("completions/response", as_name)
    assert line.startswith("$.choices[0].logprobs.top_logprobs[0]: saw a field name with a lone")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_no_number_is_infinite_not_even_in_an_unknown_field(number: float) -> None:
    """Python writes and reads NaN and Infinity, JSON has neither and other clients crash."""
    (line,) = violations("completions/response", {**body("c_basic"), "score": {"a": [number]}})
    assert line == f"$.score.a[0]: saw {number!r}, required a finite number"


# --- cost ----------------------------------------------------------------------------------------

COST = """
import sys
import pytest_vllm.adapters.schemas as schemas
assert not {"jsonschema", "referencing"} & set(sys.modules), "imported before use"
import jsonschema.validators, referencing, time
started = time.perf_counter()
schemas.violations("chat/response", {})
schemas.unknown_fields("chat/response", {})
print(time.perf_counter() - started)
"""


def test_the_module_is_cheap_until_used_and_quick_at_first_use() -> None:
    """Importing loads no jsonschema; reading the schemas at first use takes under 150 ms."""
    ran = subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) < 0.150


def test_validators_are_built_once() -> None:
    """A second reply of the same kind costs no second compilation."""
    assert schemas._validator("chat/response") is schemas._validator("chat/response")
