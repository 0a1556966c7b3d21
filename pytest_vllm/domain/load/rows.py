"""A row of a file of prompts, or of a recorded trace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Mapping

TRACE_BLOCK = 512
"""Prompt tokens that one of a trace's `hash_ids` stands for (Mooncake's FAST'25 traces)."""
_MS_NS = 1_000_000
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant"}
_ROLES |= {"assistant": "assistant", "bing": "assistant", "bard": "assistant", "system": "system"}
_LAYOUTS = (
    '{"prompt": TEXT or [TOKEN, ...], "output_tokens": N}, {"messages": [...]}, '
    '{"conversations": [{"from": "human", "value": TEXT}, ...]} (ShareGPT) or '
    '{"timestamp": MS, "input_length": N, "output_length": N, "hash_ids": [...]} (a trace)'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One prompt of a file; exactly one of `text`, `ids`, `messages` and `input_tokens` is there.

    Attributes:
        where: File and line, for messages.
        text: Prompt as text.
        ids: Prompt as token IDs.
        messages: Prompt as messages of a chat.
        input_tokens: Length of the prompt, whose words nobody recorded.
        hash_ids: Blocks of the prompt; rows that share one had the same tokens there.
        output_tokens: Tokens that were or shall be written, `None` where untold.
        answer: The recorded answer, whose length counts where `output_tokens` is untold.
        due_ns: When it was sent, from any origin; `None` where untold.
    """

    where: str
    text: str | None = None
    ids: tuple[int, ...] | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    input_tokens: int | None = None
    hash_ids: tuple[int, ...] = ()
    output_tokens: int | None = None
    answer: str | None = None
    due_ns: int | None = None

    @property
    def is_trace(self) -> bool:
        """Whether only lengths were recorded."""
        return self.input_tokens is not None


def read_row(document: Any, *, where: str) -> Row:
    """Read what a line holds.

    Args:
        document: The JSON value.
        where: File and line.

    Raises:
        TargetError: It has none of the known layouts, or a value of the wrong type.
    """
    if not isinstance(document, dict):
        raise TargetError(f"{where}: no JSON object", advice=f"write {_LAYOUTS}")
    output = _output(document, where)
    due_ns = _due(document, where)
    for key in ("conversations", "conversation"):
        if key in document:
            messages, answer = _exchange(document[key], f"{where}: {key}")
            return Row(
                where=where, messages=messages, answer=answer, output_tokens=output, due_ns=due_ns
            )
    if "input_length" in document:
        hashes = document.get("hash_ids", [])
        if not isinstance(hashes, list) or not all(type(one) is int for one in hashes):
            raise TargetError(f"{where}: hash_ids is no list of whole numbers")
        return Row(
            where=where,
            input_tokens=_whole(document["input_length"], "input_length", where),
            hash_ids=tuple(hashes),
            output_tokens=output,
            due_ns=due_ns,
        )
    if "messages" in document:
        messages = _messages(document["messages"], f"{where}: messages")
        return Row(where=where, messages=messages, output_tokens=output, due_ns=due_ns)
    prompt = document.get("prompt")
    if isinstance(prompt, str) and prompt:
        return Row(where=where, text=prompt, output_tokens=output, due_ns=due_ns)
    if isinstance(prompt, list) and prompt and all(type(one) is int and one >= 0 for one in prompt):
        return Row(where=where, ids=tuple(prompt), output_tokens=output, due_ns=due_ns)
    if "prompt" in document:
        raise TargetError(f"{where}: prompt is neither a text nor a list of token IDs, or is empty")
    raise TargetError(f"{where}: no prompt in it", advice=f"write {_LAYOUTS}")


def _output(document: Mapping[str, Any], where: str) -> int | None:
    for key in ("output_tokens", "output_length"):
        if key in document:
            return _whole(document[key], key, where)
    return None


def _whole(value: Any, key: str, where: str) -> int:
    if type(value) is not int or value < 1:
        raise TargetError(f"{where}: {key} = {value!r} is no whole number from 1")
    return int(value)


def _due(document: Mapping[str, Any], where: str) -> int | None:
    value: Any = document.get("timestamp")
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise TargetError(f"{where}: timestamp = {value!r} is no number of milliseconds")
    due_ms: float = value
    return round(due_ms * _MS_NS)


def _messages(value: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    sound = (
        isinstance(value, list)
        and value
        and all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in value)
    )
    if not sound:
        raise TargetError(f"{where} is no list of messages with a role each")
    return tuple(value)


def _exchange(value: Any, where: str) -> tuple[tuple[Mapping[str, Any], ...], str | None]:
    """Return what was said up to the first question, and the answer to it.

    As in vLLM's own client, only the first exchange of a recorded conversation is sent.
    """
    if not isinstance(value, list):
        raise TargetError(f"{where} is no list of turns")
    messages: list[Mapping[str, Any]] = []
    for number, turn in enumerate(value):
        said = turn if isinstance(turn, dict) else {}
        role = _ROLES.get(str(said.get("from", said.get("role"))))
        text = said.get("value", said.get("content"))
        if role is None or not isinstance(text, str):
            raise TargetError(
                f'{where}[{number}] is no {{"from": "human" or "gpt", "value": TEXT}}'
            )
        if role == "assistant":
            if any(one["role"] == "user" for one in messages):
                return tuple(messages), text
            continue  # an answer to what was cut away
        if role == "user" and any(one["role"] == "user" for one in messages):
            break
        messages.append({"role": role, "content": text})
    if not any(one["role"] == "user" for one in messages):
        raise TargetError(f"{where}: nobody asks anything")
    return tuple(messages), None
