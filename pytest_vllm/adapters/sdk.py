"""Read a reply the way a client with the openai SDK does, strictly: the one home of `openai`.

The SDK normally builds its types without validating, so a wrong type surfaces in the caller's code.
Here the same types validate in pydantic's strict mode: no string passes for a number.

`openai` costs 700 ms and is imported at the first call, not before. Nothing here speaks HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

MAX_VIOLATIONS = 20
"""At most so many lines come back: whoever reads more has stopped reading."""

KINDS = ("completion", "completion.chunk", "chat.completion", "chat.completion.chunk", "models")
"""What `strict_violations` can read. The SDK has one type for both kinds of completion."""

_SEEN_CHARS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One thing that a healthy server says and the SDK's strict types refuse.

    Attributes:
        why: what the server means by it, and where it was seen.
        kinds: the kinds of reply that may say it.
        place: the path of the field; `*` stands for any index.
        value: the one value that is let through there.
    """

    why: str
    kinds: frozenset[str]
    place: tuple[str | int, ...]
    value: str | None

    def covers(self, kind: str, error: ErrorDetails) -> bool:
        """Tell whether an error is this deviation; an absent field never is."""
        return (
            kind in self.kinds
            and error["type"] != "missing"
            and error["input"] == self.value
            and len(error["loc"]) == len(self.place)
            and all(
                expected in ("*", step)
                for expected, step in zip(self.place, error["loc"], strict=True)
            )
        )


_COMPLETIONS = frozenset({"completion", "completion.chunk"})

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
        kinds=frozenset(KINDS) - {"models"},
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
    from pydantic import ValidationError  # noqa: PLC0415 - comes with openai, and costs as it does

    try:
        _types()[kind].model_validate_json(body, strict=True)
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


@cache
def _types() -> Mapping[str, type[BaseModel]]:
    from openai.pagination import SyncPage  # noqa: PLC0415 - 700 ms that only a check pays
    from openai.types import Completion, Model  # noqa: PLC0415
    from openai.types.chat import ChatCompletion, ChatCompletionChunk  # noqa: PLC0415

    return {
        "completion": Completion,
        "completion.chunk": Completion,
        "chat.completion": ChatCompletion,
        "chat.completion.chunk": ChatCompletionChunk,
        "models": SyncPage[Model],
    }


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
