"""What replies say in vLLM's two other dialects, OpenAI Responses and Anthropic Messages.

Pure functions. Both dialects answer with a list of typed parts, of which these are told apart: the
text, what was thought aloud before, and calls of tools.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.conventions import DONE, document_violations
from pytest_vllm.domain.generation import TIE_NATS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_vllm.domain.generation import Generation

_SHOWN = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool that the model wants to be called.

    Attributes:
        name: The tool.
        arguments: Its arguments as JSON text.
    """

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a reply says.

    Attributes:
        text: The answer.
        thought: What was thought aloud before.
        calls: Calls of tools.
    """

    text: str = ""
    thought: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEvent:
    """One event of a stream whose events have names.

    Attributes:
        name: What its `event:` line says, empty when it has none.
        data: The JSON object of its `data:` line.
    """

    name: str
    data: Mapping[str, Any]

    @property
    def type(self) -> str:
        """The `type` that its data says."""
        return str(self.data.get("type", ""))


def read_named_events(lines: Iterable[str]) -> tuple[list[NamedEvent], list[str]]:
    """Read the lines of a stream whose events have names.

    Returns:
        The events but `[DONE]`, with which older vLLM ends /v1/messages, and the violations: data
        that is no JSON object, or an error inside of the stream.
    """
    events, violations, name = [], [], ""
    for number, line in enumerate(lines, start=1):
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        if field != "data" or value.strip() == DONE:
            continue
        try:
            data = json.loads(value)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            violations.append(f"line {number}: required a JSON object, saw {_short(value)}")
        elif "error" in (name, data.get("type")) or (data.get("error") and "type" not in data):
            violations.append(f"line {number}: saw an error under status 200: {_short(value)}")
        else:
            events.append(NamedEvent(name=name, data=data))
        name = ""
    return events, violations


def response_violations(
    response: Mapping[str, Any], *, models: Sequence[str], headers: Mapping[str, str]
) -> list[str]:
    """Judge what a schema cannot say of a response: model, time and usage.

    Args:
        response: A whole response, or that of an event.
        models: IDs that it may name, the requested one first.
        headers: Headers of the reply, names in lower case.
    """
    plain = {"model": response["model"], "created": int(response["created_at"])}
    lines = document_violations(plain, models=models, headers=headers)
    lines = [line.replace("$.created:", "$.created_at:") for line in lines]
    usage = response.get("usage")
    if not usage:
        return lines
    told, total = usage["input_tokens"] + usage["output_tokens"], usage["total_tokens"]
    if total != told:
        parts = f"input_tokens {usage['input_tokens']} + output_tokens {usage['output_tokens']}"
        lines.append(f"$.usage.total_tokens: saw {total}, required {told} ({parts})")
    for whole, part in (("input_tokens", "cached_tokens"), ("output_tokens", "reasoning_tokens")):
        seen = usage[f"{whole}_details"][part]
        if seen > usage[whole]:
            place = f"$.usage.{whole}_details.{part}"
            lines.append(f"{place}: saw {seen}, required at most the {usage[whole]} {whole}")
    return lines


def read_response(response: Mapping[str, Any]) -> Said:
    """Read a whole response of /v1/responses."""
    items: list[Mapping[str, Any]] = response["output"]
    return Said(
        text=_texts(items, "message", "output_text"),
        thought=_texts(items, "reasoning", "reasoning_text"),
        calls=tuple(
            Call(name=item["name"], arguments=item["arguments"])
            for item in items
            if item["type"] == "function_call"
        ),
    )


def read_message(message: Mapping[str, Any]) -> Said:
    """Read a whole message of /v1/messages."""
    blocks: list[Mapping[str, Any]] = message["content"]
    return Said(
        text="".join(block["text"] for block in blocks if block["type"] == "text"),
        thought="".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        calls=tuple(
            Call(name=block["name"], arguments=json.dumps(block["input"]))
            for block in blocks
            if block["type"] == "tool_use"
        ),
    )


def read_message_stream(events: Iterable[NamedEvent]) -> Said:
    """Put the blocks of a streamed message together again."""
    starts: dict[int, Mapping[str, Any]] = {}
    parts: dict[str, list[str]] = {"text": [], "thinking": []}
    inputs: dict[int, list[str]] = {}
    for event in events:
        index = event.data.get("index", -1)
        if event.type == "content_block_start":
            starts[index] = event.data["content_block"]
        elif event.type == "content_block_delta":
            delta = event.data["delta"]
            inputs.setdefault(index, []).append(delta.get("partial_json", ""))
            for kind, texts in parts.items():
                texts.append(delta.get(kind, ""))
    return Said(
        text="".join(parts["text"]),
        thought="".join(parts["thinking"]),
        calls=tuple(
            Call(name=block["name"], arguments="".join(inputs.get(index, ())))
            for index, block in starts.items()
            if block["type"] == "tool_use"
        ),
    )


def sure_text(generation: Generation) -> str:
    """Return the beginning of a greedy text that every healthy run of the model writes.

    It ends before the first token that nearly ties with another: from there on runs may differ.
    Empty unless the generation carries alternatives and its tokens spell its text.
    """
    text = ""
    for token in generation.tokens:
        best = sorted(token.top.values(), reverse=True)[:2]
        if len(best) < 2 or best[0] - best[1] <= TIE_NATS:  # noqa: PLR2004 - a winner, another
            break
        text += token.text
    return text if generation.text.startswith(text) else ""


def _texts(items: Iterable[Mapping[str, Any]], item_type: str, part_type: str) -> str:
    return "".join(
        part["text"]
        for item in items
        if item["type"] == item_type
        for part in item.get("content") or ()
        if part["type"] == part_type
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")
