"""All that a real vLLM said, against the schemas; the schemas against the openai SDK, both ways.

The documents come from vLLM 0.32.0. Each is also broken in every single place, by leaving the field
out and by values of every type, and then three readers must agree: our quick functions, jsonschema,
and the SDK's strict types, up to what is named here with a reason.
"""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters import schemas
from pytest_vllm.adapters.schemas import unknown_fields, violations
from pytest_vllm.adapters.sdk import strict_violations

if TYPE_CHECKING:
    from collections.abc import Iterator

EXCHANGES = Path(__file__).parent.parent / "data" / "exchanges"
SCHEMA_BY_PATH = {
    "/v1/completions": "completions/response",
    "/v1/chat/completions": "chat/response",
    "/v1/models": "models/list",
    "/version": "server/version",
    "/tokenize": "tokenize/response",
    "/detokenize": "detokenize/response",
}
KIND_BY_SCHEMA = {
    "completions/response": "completion",
    "completions/chunk": "completion.chunk",
    "chat/response": "chat.completion",
    "chat/chunk": "chat.completion.chunk",
    "models/list": "models",
}
# vLLM answers with the role of the last message when told to add no generation prompt (0.32.0).
DEVIANT = {"cc_add_gen_false"}
GONE = object()
# A value of each type, and the edges of what a field may be.
VALUES: tuple[Any, ...] = (
    GONE,
    None,
    True,
    0,
    -1,
    1,
    8.0,
    0.5,
    "",
    "stop",
    [],
    [None],
    {},
    {"a": 1},
)

STRICTER = {
    r"id": "an ID that is there may not be empty",
    r"model": "the same",
    r"data\.\d+\.id": "the same",
    r"created|choices\.\d+\.index|usage(\..*)?": "no negative count, no time 0; usage is told",
    r"choices(\.\d+)?": "a complete reply has a choice",
    r"object": "the SDK takes any text for the object of a list",
    r"choices\.\d+\.finish_reason": "the SDK does without it in the events of a chat stream",
    r"choices\.\d+\.message\.content": "optional to the SDK; clients read it unasked",
    r"choices\.\d+\.logprobs(\..*)?": "the SDK does without most lists of log probabilities",
    r"service_tier": "the SDK knows it for chat only",
    r"choices\.\d+\.(delta|message)\.(reasoning|reasoning_content)": "an extension of vLLM",
    r"choices\.\d+\.(stop_reason|token_ids|prompt_token_ids|routed_experts)(\..*)?": "the same",
    r"(choices\.\d+\.)?prompt_logprobs(\..*)?": "the same",
    r"prompt_(token_ids|text)(\..*)?": "the same",
    r"(kv|ec)_transfer_params|metrics": "the same",
    r"data\.\d+\.(root|parent|max_model_len|permission(\..*)?)": "the same",
    r"data\.\d+\.created": "a time is not negative",
}
"""Where the schemas ask for more than the SDK, and why."""


def exchanges() -> Iterator[dict[str, Any]]:
    """Yield every recorded exchange."""
    for file in sorted(EXCHANGES.glob("*.json")):
        yield json.loads(file.read_text("utf-8"))
    for file in sorted(EXCHANGES.glob("*.jsonl")):
        yield from map(json.loads, file.read_text("utf-8").splitlines())


def documents(exchange: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (schema, document) of all JSON that came in one exchange."""
    said = [exchange["body"]] if exchange.get("body") is not None else []
    events = [
        json.loads(line.removeprefix("data: "))
        for line in exchange.get("sse_lines", ())
        if line.startswith(("data: {", "{"))
    ]
    if exchange["status"] >= 400:
        for document in said or events:
            yield ("errors/error" if "error" in document else "errors/detail"), document
        return
    schema = SCHEMA_BY_PATH[exchange["request"]["path"]]
    yield from ((schema, document) for document in said)
    yield from ((schema.replace("response", "chunk"), document) for document in events)


EVERYTHING = [exchange for exchange in exchanges() if exchange["id"] not in DEVIANT]


@pytest.mark.parametrize("exchange", EVERYTHING, ids=lambda exchange: exchange["id"])
def test_what_a_real_server_said_is_fine_for_every_reader(exchange: dict[str, Any]) -> None:
    """No schema and no strict type is broken, and the schemas name every field."""
    for schema, document in documents(exchange):
        assert violations(schema, document) == []
        assert unknown_fields(schema, document) == []
        if schema in KIND_BY_SCHEMA:
            assert strict_violations(KIND_BY_SCHEMA[schema], json.dumps(document)) == []


def test_the_recordings_say_something_of_every_kind() -> None:
    """Hundreds of exchanges; replies, events and refusals of each endpoint are among them."""
    seen = [schema for exchange in EVERYTHING for schema, _ in documents(exchange)]
    assert len(EVERYTHING) > 250
    assert seen.count("errors/error") > 120
    assert {*SCHEMA_BY_PATH.values(), *KIND_BY_SCHEMA, "errors/detail"} <= set(seen)


# --- every document broken in every place --------------------------------------------------------


def places(value: Any, *above: str | int) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of everything inside a document; of long lists the first two items."""
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = list(enumerate(value))[:2]
    for key, child in children:
        yield (*above, key)
        yield from places(child, *above, key)


def shape_of(place: tuple[str | int, ...]) -> tuple[str, ...]:
    """Make places of the same meaning equal: tokens as keys differ, and so do indexes beyond 0."""
    is_map = {"top_logprobs", "prompt_logprobs"}
    return tuple(
        "*" if number and place[number - 1] in is_map and step else str(step)
        for number, step in enumerate(place)
    )


def changed(document: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """Copy a document with another value (or none, for GONE) at a place."""
    copy = deepcopy(document)
    target = copy
    for step in place[:-1]:
        target = target[step]
    if value is GONE:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    return copy


def broken(wanted: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, document) of each recorded document of a schema, broken in each place once."""
    done = set()
    for exchange in EVERYTHING:
        for schema, document in documents(exchange):
            if schema != wanted:
                continue
            for place in places(document):
                if shape_of(place) in done:
                    continue
                done.add(shape_of(place))
                for value in VALUES:
                    yield ".".join(map(str, place)), changed(document, place, value)


@pytest.mark.parametrize("schema", KIND_BY_SCHEMA)
def test_schema_and_sdk_refuse_the_same_up_to_named_places(schema: str) -> None:
    """What breaks a client with strict types is refused; what more is refused has its reason."""
    named = re.compile("|".join(f"(?:{pattern})" for pattern in STRICTER))
    missed, unnamed = set(), set()
    for place, document in broken(schema):
        refused = bool(violations(schema, document))
        unreadable = bool(strict_violations(KIND_BY_SCHEMA[schema], json.dumps(document)))
        if unreadable and not refused:
            missed.add(place)
        if refused and not unreadable and not named.fullmatch(place):
            unnamed.add(place)
    assert missed == set()
    assert unnamed == set()


@pytest.mark.parametrize("pattern", STRICTER)
def test_every_named_place_is_one_where_the_schema_asks_for_more(pattern: str) -> None:
    """A reason that no document needs any more can go."""
    assert any(
        re.fullmatch(pattern, place)
        and violations(schema, document)
        and not strict_violations(kind, json.dumps(document))
        for schema, kind in KIND_BY_SCHEMA.items()
        for place, document in broken(schema)
        if re.fullmatch(pattern, place)
    )


@pytest.mark.parametrize("schema", [*KIND_BY_SCHEMA, "errors/error", "errors/detail"])
def test_the_quick_answer_is_that_of_jsonschema(schema: str) -> None:
    """The functions made of a schema accept and refuse what jsonschema does."""
    fits = schemas._matcher(schema)
    assert fits is not None
    validator = schemas._validator(schema)
    wrong = [
        (place, document)
        for place, document in broken(schema)
        if fits(document) != validator.is_valid(document)
    ]
    assert wrong == []


@pytest.mark.parametrize("schema", schemas.schema_names())
def test_every_schema_has_a_quick_answer(schema: str) -> None:
    """No schema file uses a keyword that the quick functions do not know."""
    assert schemas._matcher(schema) is not None
