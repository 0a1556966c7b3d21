"""Read a reply the way a client with the openai SDK does, strictly: the one home of `openai`.

The SDK normally builds its types without validating, so a wrong type surfaces in the caller's code.
Here the same types validate in pydantic's strict mode: no string passes for a number.

`openai` costs 700 ms and is imported at the first call, not before. Nothing here speaks HTTP.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

MAX_VIOLATIONS = 20
"""At most so many lines come back: whoever reads more has stopped reading."""

KINDS = (
    "completion",
    "completion.chunk",
    "chat.completion",
    "chat.completion.chunk",
    "models",
    "response",
    "response.event",
)
"""What `strict_violations` can read. The SDK has one type for both kinds of completion, and one for
each `type` of a response's events; an event of a type that it does not know is passed over."""

_SEEN_CHARS = 120
_LOADING = Lock()
"""Checks run on threads, and two first imports of parts of `openai` at once can deadlock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One thing that a healthy server says and the SDK's strict types refuse.

    Attributes:
        why: what the server means by it, and where it was seen.
        kinds: the kinds of reply that may say it.
        place: the path of the field; `*` stands for any index.
        value: the one value that is let through there; for `absent` it does not count.
        absent: the field may be missing there, and nothing else.
    """

    why: str
    kinds: frozenset[str]
    place: tuple[str | int, ...]
    value: str | None = None
    absent: bool = False

    def covers(self, kind: str, error: ErrorDetails) -> bool:
        """Tell whether an error is this deviation; a value never stands for a missing field."""
        is_missing = error["type"] == "missing"
        return (
            kind in self.kinds
            and is_missing == self.absent
            and (is_missing or error["input"] == self.value)
            and len(error["loc"]) == len(self.place)
            and all(
                expected in ("*", step)
                for expected, step in zip(self.place, error["loc"], strict=True)
            )
        )


_COMPLETIONS = frozenset({"completion", "completion.chunk"})
_GENERATIONS = _COMPLETIONS | {"chat.completion", "chat.completion.chunk"}
_NO_CACHE_WRITES = (
    "openai 3.54 requires a count of tokens written to the cache, which the API tells since 2026; "
    "vLLM 0.30.0 does not tell it, 0.32.0 does. "
    "https://platform.openai.com/docs/api-reference/responses/object"
)

DEVIATIONS = (
    Deviation(
        why="With echo and logprobs the first prompt token has no past, so its entry is null; the "
        "OpenAI API does the same. Seen in vLLM 0.32.0 against openai 3.54. "
        "https://platform.openai.com/docs/api-reference/completions/create#completions-create-echo",
        kinds=_COMPLETIONS,
        place=("choices", "*", "logprobs", "token_logprobs", 0),
        value=None,
    ),
    Deviation(
        why="The same, for the alternatives of that token.",
        kinds=_COMPLETIONS,
        place=("choices", "*", "logprobs", "top_logprobs", 0),
        value=None,
    ),
    Deviation(
        why="vLLM ends a request that asked for `repetition_detection` with its own reason. Seen "
        "in vLLM 0.32.0; `FINISH_REASON_STRINGS` names it in 0.26 to 0.32. "
        "https://github.com/vllm-project/vllm/blob/main/vllm/v1/engine/__init__.py",
        kinds=_GENERATIONS,
        place=("choices", "*", "finish_reason"),
        value="repetition",
    ),
    Deviation(
        why="In a stream the reason is null until the last event of a choice, with vLLM 0.26 to "
        "0.32 and with the OpenAI API. The SDK reads events with the type of the whole "
        "reply, where the reason is required (openai 3.54).",
        kinds=frozenset({"completion.chunk"}),
        place=("choices", "*", "finish_reason"),
        value=None,
    ),
    Deviation(
        why=_NO_CACHE_WRITES,
        kinds=frozenset({"response"}),
        place=("usage", "input_tokens_details", "cache_write_tokens"),
        absent=True,
    ),
    Deviation(
        why=_NO_CACHE_WRITES,
        kinds=frozenset({"response.event"}),
        place=("response", "usage", "input_tokens_details", "cache_write_tokens"),
        absent=True,
    ),
)
"""All that is let through. An addition needs the version it was seen in and a source."""


def strict_violations(kind: str, body: str | bytes) -> list[str]:
    """Say where the openai SDK's type for a reply refuses the raw JSON of one.

    Args:
        kind: one of `KINDS`; it is the `object` of the reply where that tells replies apart.
        body: the JSON text as it came over the wire, of the reply or of one event of a stream.

    Returns:
        One line for each refusal: path, what was seen, what pydantic says about it. Empty when the
        body is fine but for `DEVIATIONS`; at most `MAX_VIOLATIONS` lines otherwise.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"no kind of reply is called {kind!r}; known are: {', '.join(KINDS)}")
    with _LOADING:
        from pydantic import ValidationError  # noqa: PLC0415 - comes with openai, costs as it does

        model = _event_type(body) if kind == "response.event" else _types()[kind]
    if model is None:
        return []
    try:
        model.model_validate_json(body, strict=True)
    except ValidationError as refusal:
        errors = refusal.errors(include_url=False, include_context=False)
    else:
        return []
    refused = (
        error
        for error in errors
        if not any(deviation.covers(kind, error) for deviation in DEVIATIONS)
    )
    return [_line(error) for error, _ in zip(refused, range(MAX_VIOLATIONS), strict=False)]


def accumulated(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the chunks of a chat stream together the way the SDK's stream helper does.

    Args:
        chunks: The JSON objects of a sound stream, in order.

    Returns:
        The chat completion that a caller of `client.chat.completions.stream()` ends with.

    Raises:
        AssertionError: The helper cannot read the stream.
    """
    with _LOADING:
        from openai.lib.streaming.chat import (  # noqa: PLC0415 - as above
            ChatCompletionStreamState,
        )
        from openai.types.chat import ChatCompletionChunk  # noqa: PLC0415

    # `get_final_completion` refuses what `max_tokens` cut, so the snapshot is read.
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    try:
        for chunk in chunks:
            state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
        return state.current_completion_snapshot.to_dict()
    except Exception as error:
        raise AssertionError(
            f"the openai SDK cannot read the stream: {type(error).__name__}: {error}"
        ) from error


@cache
def _types() -> Mapping[str, type[BaseModel]]:
    from openai.pagination import SyncPage  # noqa: PLC0415 - 700 ms that only a check pays
    from openai.types import Completion, Model  # noqa: PLC0415
    from openai.types.chat import ChatCompletion, ChatCompletionChunk  # noqa: PLC0415
    from openai.types.responses import Response  # noqa: PLC0415

    return {
        "completion": Completion,
        "completion.chunk": Completion,
        "chat.completion": ChatCompletion,
        "chat.completion.chunk": ChatCompletionChunk,
        "models": SyncPage[Model],
        "response": Response,
    }


@cache
def _event_types() -> Mapping[str, type[BaseModel]]:
    """Return the SDK's type for each `type` of an event, read from its union of all of them."""
    from openai.types.responses import ResponseStreamEvent  # noqa: PLC0415

    union = get_args(ResponseStreamEvent)[0]
    return {
        name: model
        for model in get_args(union)
        for name in get_args(model.model_fields["type"].annotation)
    }


def _event_type(body: str | bytes) -> type[BaseModel] | None:
    """Choose by the event's own `type`; what has none is held against any, and refused by it."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    name = document.get("type") if isinstance(document, dict) else None
    if not isinstance(name, str):
        return _event_types()["response.created"]
    return _event_types().get(name)


def _line(error: ErrorDetails) -> str:
    place = "$" + "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"]
    )
    message = " ".join(error["msg"].split())
    if error["type"] == "missing":
        return _shortened(f"{place}: {message}")
    return f"{_shortened(place)}: saw {_shortened(repr(error['input']))}: {_shortened(message)}"


def _shortened(text: str) -> str:
    return text if len(text) <= _SEEN_CHARS else f"{text[: _SEEN_CHARS - 1]}…"
