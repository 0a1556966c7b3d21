"""Every field that the schemas name, one by one: its types, its bounds, whether it may be absent.

The documents are made by hand and have every field filled. What a field may be is written down a
second time, so that a schema cannot lose a line unnoticed.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from pytest_vllm.adapters.schemas import unknown_fields, violations
from tests.adapters.full_documents import AUDIO, DELTA, FULL, MESSAGE, METRICS, USAGE

# Places without their indexes, and what they may be beside what they are above.
NULLABLE = {
    "service_tier",
    "system_fingerprint",
    "metrics",
    *(f"metrics.{name}" for name in METRICS),
    "kv_transfer_params",
    "ec_transfer_params",
    "usage.prompt_tokens_details",
    *(f"usage.prompt_tokens_details.{name}" for name in USAGE["prompt_tokens_details"]),
    "usage.completion_tokens_details",
    *(f"usage.completion_tokens_details.{name}" for name in USAGE["completion_tokens_details"]),
    "metadata",
    "obfuscation",
    "prompt_logprobs",
    "prompt_logprobs.5.rank",
    "prompt_logprobs.5.decoded_token",
    "prompt_logprobs.6.rank",
    "prompt_logprobs.6.decoded_token",
    "prompt_token_ids",
    "prompt_text",
    "choices.logprobs",
    "choices.logprobs.top_logprobs",
    "choices.logprobs.content",
    "choices.logprobs.content.bytes",
    "choices.logprobs.content.top_logprobs.bytes",
    "choices.logprobs.refusal",
    "choices.logprobs.refusal.bytes",
    "choices.logprobs.refusal.top_logprobs.bytes",
    "choices.prompt_logprobs",
    "choices.prompt_logprobs.5.rank",
    "choices.prompt_logprobs.5.decoded_token",
    "choices.prompt_logprobs.6.rank",
    "choices.prompt_logprobs.6.decoded_token",
    "choices.stop_reason",
    "choices.token_ids",
    "choices.prompt_token_ids",
    "choices.routed_experts",
    *(f"choices.message.{name}" for name in MESSAGE if name != "role"),
    *(f"choices.delta.{name}" for name in DELTA),
    *(f"choices.delta.audio.{name}" for name in AUDIO),
    "choices.delta.function_call.name",
    "choices.delta.function_call.arguments",
    "choices.delta.tool_calls.id",
    "choices.delta.tool_calls.type",
    "choices.delta.tool_calls.function",
    "choices.delta.tool_calls.function.name",
    "choices.delta.tool_calls.function.arguments",
    "data.shutdown_date",
    "data.root",
    "data.parent",
    "data.max_model_len",
    "data.permission",
    "data.permission.organization",
    "data.permission.group",
    "error.param",
    "error.code",
    "detail.ctx",
    "token_strs",
}
# At these exact places null has a meaning that it has not at the places beside them.
NULLABLE_AT = {
    ("completions/chunk", "usage"),
    ("completions/chunk", "choices.0.finish_reason"),
    ("completions/chunk", "choices.0.logprobs.token_logprobs.0"),
    ("completions/chunk", "choices.0.logprobs.top_logprobs.0"),
    ("completions/response", "choices.0.logprobs.token_logprobs.0"),
    ("completions/response", "choices.0.logprobs.top_logprobs.0"),
    ("completions/response", "choices.0.prompt_logprobs.0"),
    ("chat/chunk", "usage"),
    ("chat/chunk", "choices.0.finish_reason"),
    ("chat/response", "prompt_logprobs.0"),
}
ALTERNATIVES: dict[str, tuple[type, ...]] = {
    "choices.stop_reason": (str,),
    "choices.routed_experts": (list,),
    "error.code": (str,),
    "detail": (str,),
    "detail.loc": (int,),
}
FREE_FORM = {"kv_transfer_params.any", "ec_transfer_params.any", "detail.input", "detail.ctx.any"}
FREE_FORM |= {"metrics.speculative_decoding.anything"}
NOT_EMPTY = {
    "id",
    "model",
    "choices.message.tool_calls.id",
    "choices.message.tool_calls.function.name",
    "choices.message.tool_calls.custom.name",
    "choices.message.function_call.name",
    "data.id",
    "error.message",
    "error.type",
    "detail",
    "version",
}
AT_LEAST_ONE = {
    "created",
    "max_model_len",
    "data.max_model_len",
    *(f"{base}prompt_logprobs.{token}.rank" for base in ("", "choices.") for token in (5, 6)),
}
ANY_INTEGER = {"choices.stop_reason", "error.code"}
LOG_PROBABILITIES = {"logprob", "token_logprobs", "a", "b"}  # negative by nature

REQUIRED = {
    "completions/response": "id created model object choices choices.0.index choices.0.text "
    "choices.0.finish_reason choices.0.logprobs.tokens choices.0.logprobs.token_logprobs "
    "choices.0.logprobs.top_logprobs choices.0.logprobs.text_offset "
    "choices.0.prompt_logprobs.0.5.logprob choices.0.prompt_logprobs.1.6.logprob "
    "choices.0.prompt_logprobs.0.5 choices.0.prompt_logprobs.1.6 "
    "usage usage.prompt_tokens usage.completion_tokens usage.total_tokens",
    "completions/chunk": "id created model object choices choices.0.index choices.0.text "
    "choices.0.finish_reason choices.0.logprobs.tokens choices.0.logprobs.token_logprobs "
    "choices.0.logprobs.top_logprobs choices.0.logprobs.text_offset "
    "usage.prompt_tokens usage.completion_tokens usage.total_tokens",
    "chat/response": "id created model object choices choices.0.index choices.0.message "
    "choices.0.finish_reason choices.0.message.role choices.0.message.content "
    "choices.0.message.annotations.0.type "
    "choices.0.message.audio.id choices.0.message.audio.data choices.0.message.audio.expires_at "
    "choices.0.message.audio.transcript "
    "choices.0.message.function_call.name choices.0.message.function_call.arguments "
    "choices.0.message.tool_calls.0.id choices.0.message.tool_calls.0.type "
    "choices.0.message.tool_calls.0.function choices.0.message.tool_calls.0.function.name "
    "choices.0.message.tool_calls.0.function.arguments "
    "choices.0.message.tool_calls.1.id choices.0.message.tool_calls.1.type "
    "choices.0.message.tool_calls.1.custom choices.0.message.tool_calls.1.custom.name "
    "choices.0.message.tool_calls.1.custom.input "
    "choices.0.logprobs.content choices.0.logprobs.content.0.token "
    "choices.0.logprobs.content.0.logprob choices.0.logprobs.content.0.top_logprobs "
    "choices.0.logprobs.content.0.top_logprobs.0.token "
    "choices.0.logprobs.content.0.top_logprobs.0.logprob "
    "choices.0.logprobs.refusal.0.token choices.0.logprobs.refusal.0.logprob "
    "choices.0.logprobs.refusal.0.top_logprobs choices.0.logprobs.refusal.0.top_logprobs.0.token "
    "choices.0.logprobs.refusal.0.top_logprobs.0.logprob "
    "prompt_logprobs.0.5 prompt_logprobs.1.6 "
    "prompt_logprobs.0.5.logprob prompt_logprobs.1.6.logprob "
    "usage usage.prompt_tokens usage.completion_tokens usage.total_tokens",
    "chat/chunk": "id created model object choices choices.0.index choices.0.delta "
    "choices.0.finish_reason choices.0.delta.tool_calls.0.index "
    "choices.0.logprobs.content choices.0.logprobs.content.0.token "
    "choices.0.logprobs.content.0.logprob choices.0.logprobs.content.0.top_logprobs "
    "choices.0.logprobs.content.0.top_logprobs.0.token "
    "choices.0.logprobs.content.0.top_logprobs.0.logprob "
    "choices.0.logprobs.refusal.0.token choices.0.logprobs.refusal.0.logprob "
    "choices.0.logprobs.refusal.0.top_logprobs choices.0.logprobs.refusal.0.top_logprobs.0.token "
    "choices.0.logprobs.refusal.0.top_logprobs.0.logprob "
    "usage.prompt_tokens usage.completion_tokens usage.total_tokens",
    "models/list": "object data data.0.id data.0.object data.0.created data.0.owned_by",
    "errors/error": "error error.message error.type error.param error.code",
    "errors/detail": "detail detail.0.loc detail.0.msg detail.0.type",
    "server/version": "version",
    "tokenize/response": "count max_model_len tokens",
    "detokenize/response": "prompt",
}
OF_EACH_TYPE: tuple[Any, ...] = (None, True, 1, 0.5, "stop", [], {})
GONE = object()


def changed(document: Any, place: str, value: Any) -> Any:
    copy = deepcopy(document)
    *parents, last = place.split(".")
    target = copy
    for step in parents:
        target = target[int(step)] if isinstance(target, list) else target[step]
    key: Any = int(last) if isinstance(target, list) else last
    if value is GONE:
        del target[key]
    else:
        target[key] = value
    return copy


def places(value: Any, prefix: str = "", name: str = "") -> list[tuple[str, str, Any, bool]]:
    """List (place, place without indexes, value, is a field) of everything in a document."""
    found = []
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        place = f"{prefix}.{key}".lstrip(".")
        plain = name if isinstance(value, list) else f"{name}.{key}".lstrip(".")
        found.append((place, plain, child, isinstance(value, dict)))
        found += places(child, place, plain)
    return found


def is_item(place: str) -> bool:
    return place.rpartition(".")[2].isdigit()


def may_be(schema: str, place: str, plain: str, healthy: Any) -> set[type]:
    accepted = {type(healthy)}
    if not is_item(place) or plain.rpartition(".")[2].isdigit():
        if plain in NULLABLE:
            accepted.add(type(None))
        accepted.update(() if plain == "detail.loc" else ALTERNATIVES.get(plain, ()))
    elif plain == "detail.loc":
        accepted.update(ALTERNATIVES[plain])
    if (schema, place) in NULLABLE_AT:
        accepted.add(type(None))
    if isinstance(healthy, float):
        accepted.add(int)
    return accepted


@pytest.mark.parametrize("schema", sorted(FULL))
def test_a_reply_with_every_field_is_fine(schema: str) -> None:
    """The hand-made documents are healthy and hold no field that the schema does not name."""
    assert violations(schema, FULL[schema]) == []
    assert unknown_fields(schema, FULL[schema]) == []


@pytest.mark.parametrize("schema", sorted(FULL))
def test_every_field_has_its_types_and_no_other(schema: str) -> None:
    """At every place, each JSON type is accepted or refused as the tables above say."""
    holes = []
    for place, plain, healthy, _ in places(FULL[schema]):
        accepted = may_be(schema, place, plain, healthy)
        for value in OF_EACH_TYPE:
            refused = bool(violations(schema, changed(FULL[schema], place, value)))
            if type(value) in accepted and isinstance(value, str | list | dict):
                continue  # which texts, lists and objects is the matter of other tests
            if refused != (plain not in FREE_FORM and type(value) not in accepted):
                holes.append(f"{place} = {value!r}: {'refused' if refused else 'accepted'}")
    assert holes == []


@pytest.mark.parametrize("schema", sorted(FULL))
def test_the_fields_that_a_client_reads_are_required_and_no_other(schema: str) -> None:
    """Exactly the listed fields must be there; without any other the reply is still fine."""
    required = {
        place
        for place, _, _, is_field in places(FULL[schema])
        if is_field and violations(schema, changed(FULL[schema], place, GONE))
    }
    assert required == set(REQUIRED[schema].split())


@pytest.mark.parametrize("schema", sorted(FULL))
def test_counts_have_their_lower_bound(schema: str) -> None:
    """No count or index is below zero; times, contexts and ranks start at one."""
    holes = []
    for place, plain, healthy, _ in places(FULL[schema]):
        is_number = isinstance(healthy, int | float) and not isinstance(healthy, bool)
        if not is_number or plain in FREE_FORM | ANY_INTEGER:
            continue
        if plain.rpartition(".")[2] in LOG_PROBABILITIES:
            continue
        zero = bool(violations(schema, changed(FULL[schema], place, 0)))
        below = bool(violations(schema, changed(FULL[schema], place, -1)))
        if (zero, below) != (plain in AT_LEAST_ONE, True):
            holes.append(f"{place}: 0 refused {zero}, -1 refused {below}")
    assert holes == []


@pytest.mark.parametrize("schema", sorted(FULL))
def test_texts_that_identify_are_not_empty(schema: str) -> None:
    """An ID, a name or a message that is there but empty is refused, other texts may be empty."""
    holes = []
    for place, plain, healthy, is_field in places(FULL[schema]):
        closed = plain.endswith(("object", "finish_reason", "type", "role", "service_tier"))
        if not isinstance(healthy, str) or (closed and plain not in NOT_EMPTY):
            continue
        refused = bool(violations(schema, changed(FULL[schema], place, "")))
        if refused != (is_field and plain in NOT_EMPTY):
            holes.append(f"{place}: empty is {'refused' if refused else 'accepted'}")
    assert holes == []


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ("completions/response", "choices"),
        ("chat/response", "choices"),
        ("errors/detail", "detail"),
    ],
)
def test_lists_that_must_hold_something(schema: str, place: str) -> None:
    """A reply without a choice and an error without a detail say nothing."""
    assert violations(schema, changed(FULL[schema], place, []))


def test_an_empty_text_is_no_detail() -> None:
    """The other form of a detail may not be empty either."""
    assert violations("errors/detail", {"detail": "Not Found"}) == []
    assert violations("errors/detail", {"detail": ""})


@pytest.mark.parametrize(
    ("schema", "place", "accepted"),
    [
        ("completions/response", "object", ["text_completion"]),
        ("completions/chunk", "object", ["text_completion"]),
        ("chat/response", "object", ["chat.completion"]),
        ("chat/chunk", "object", ["chat.completion.chunk"]),
        ("models/list", "object", ["list"]),
        ("models/list", "data.0.object", ["model"]),
        ("models/list", "data.0.permission.0.object", ["model_permission"]),
        ("chat/response", "choices.0.message.role", ["assistant"]),
        ("chat/response", "choices.0.message.tool_calls.0.type", ["function"]),
        ("chat/response", "choices.0.message.tool_calls.1.type", ["custom"]),
        ("chat/chunk", "choices.0.delta.tool_calls.0.type", ["function"]),
        (
            "chat/chunk",
            "choices.0.delta.role",
            ["assistant", "developer", "system", "tool", "user"],
        ),
        (
            "completions/response",
            "choices.0.finish_reason",
            ["content_filter", "length", "repetition", "stop"],
        ),
        (
            "completions/chunk",
            "choices.0.finish_reason",
            ["content_filter", "length", "repetition", "stop"],
        ),
        (
            "chat/response",
            "choices.0.finish_reason",
            ["content_filter", "function_call", "length", "repetition", "stop", "tool_calls"],
        ),
        (
            "chat/chunk",
            "choices.0.finish_reason",
            ["content_filter", "function_call", "length", "repetition", "stop", "tool_calls"],
        ),
        (
            "chat/response",
            "service_tier",
            ["auto", "default", "fast", "flex", "priority", "scale"],
        ),
    ],
)
def test_a_closed_list_of_words(schema: str, place: str, accepted: list[str]) -> None:
    """Of all the words that any field may be, only the listed ones are accepted here."""
    words = {
        *("text_completion", "chat.completion", "chat.completion.chunk", "list", "model"),
        *("model_permission", "assistant", "developer", "system", "tool", "user", "function"),
        *("custom", "content_filter", "length", "repetition", "stop", "tool_calls", "abort"),
        *("function_call", "error", "eos", "auto", "default", "fast", "flex", "priority"),
        *("scale", "", "STOP"),
    }
    document = FULL[schema]
    fine = [word for word in words if not violations(schema, changed(document, place, word))]
    assert sorted(fine) == accepted


def test_a_byte_is_at_most_255() -> None:
    """The bytes of a token are bytes."""
    place = "choices.0.logprobs.content.0.bytes.0"
    assert violations("chat/response", changed(FULL["chat/response"], place, 255)) == []
    assert violations("chat/response", changed(FULL["chat/response"], place, 256))


def test_a_prompt_position_names_token_ids() -> None:
    """The keys of `prompt_logprobs` are token IDs, and there is at least the token itself."""
    entry = {"logprob": -0.5}
    for key in ("a", "-1", "5a", ""):
        reply = changed(FULL["chat/response"], "prompt_logprobs.1", {key: entry})
        assert len(violations("chat/response", reply)) == 1
    empty = changed(FULL["chat/response"], "prompt_logprobs.1", {})
    assert violations("chat/response", empty) == [
        "$.prompt_logprobs[1]: saw {} (object), required at least 1 field(s)"
    ]
