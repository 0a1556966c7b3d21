"""The chat template: how messages become one text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def render(
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    generation_prompt: bool = False,
    continue_final: bool = False,
) -> str:
    """Return the text of a conversation.

    Args:
        messages: Turns with role and content.
        tools: Functions that the model may call, told in the system turn.
        generation_prompt: Whether to open a turn of the assistant at the end.
        continue_final: Whether to leave the last turn open.
    """
    parts: list[str] = []
    if tools:
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        parts.append(f"<|im_start|>system\nTools:\n{listed}<|im_end|>\n")
    parts += [
        f"<|im_start|>{message['role']}\n{_content(message)}<|im_end|>\n" for message in messages
    ]
    if continue_final and parts:
        parts[-1] = parts[-1].removesuffix("<|im_end|>\n")
    if generation_prompt:
        parts.append("<|im_start|>assistant\n")
    return "".join(parts)


def text_of(content: Any) -> str:
    """Return the text of a message's content: a text, or parts of which the text parts count."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = [part if isinstance(part, str) else part.get("text") or "" for part in content]
    return "\n".join(texts)


def _content(message: Mapping[str, Any]) -> str:
    text = text_of(message.get("content"))
    calls = message.get("tool_calls") or ()
    for call in calls:
        function = call.get("function") or {}
        said = {"name": function.get("name"), "arguments": function.get("arguments")}
        text += f"<tool_call>\n{json.dumps(said, ensure_ascii=False)}\n</tool_call>"
    return text
