"""Schemas against replies of a real server, and against replies that no client should be given."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_vllm.adapters.schemas import (
    UnknownSchemaError,
    schema_names,
    unknown_fields,
    violations,
)

EXCHANGES = Path(__file__).parent.parent / "data" / "exchanges"
SCHEMAS = Path(__file__).parent.parent.parent / "schemas"
GONE = object()


def recorded(name: str) -> Any:
    return json.loads((EXCHANGES / f"{name}.json").read_text("utf-8"))


def body(name: str) -> Any:
    return recorded(name)["body"]


def events(name: str) -> list[Any]:
    lines = recorded(name)["sse_lines"]
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


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
