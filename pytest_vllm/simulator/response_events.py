"""Events of a streamed response."""

from __future__ import annotations

import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.errors import dump
from pytest_vllm.simulator.response_items import call_item, message_item, text_part
from pytest_vllm.simulator.serving import merge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from pytest_vllm.simulator.engine import Step
    from pytest_vllm.simulator.responses import ResponseCall
    from pytest_vllm.simulator.serving import Serving


async def response_events(serving: Serving, call: ResponseCall) -> AsyncIterator[str]:
    """Generate a response as server-sent events."""
    writer = _Writer()
    for name in ("created", "in_progress"):
        body = call.body(serving, "in_progress")
        yield writer.event(f"response.{name}", {"response": body})
    reader = call.chat.tools.reader()
    steps: list[Step] = []
    async with aclosing(merge(serving.engine, call.chat.jobs)) as generated:
        async for _, step in generated:
            steps.append(step)
            for delta in reader.deltas(step.text, step.finish_reason):
                for event in writer.take(delta):
                    yield event
    for event in writer.close():
        yield event
    if not writer.items:
        for event in (*writer.take({"content": " "}), *writer.close()):
            yield event
    status = "incomplete" if steps[-1].finish_reason == "length" else "completed"
    body = call.body(serving, status, writer.items, steps)
    yield writer.event("response.completed", {"response": body})


class _Writer:
    """Turns deltas of chat into events, and keeps the items that they make."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._number = 0
        self._text: str | None = None
        self._call: dict[str, Any] | None = None
        self._item_id = ""

    def event(self, name: str, data: Mapping[str, Any]) -> str:
        """Return one event with its number."""
        document = {**data, "sequence_number": self._number, "type": name}
        self._number += 1
        return f"event: {name}\ndata: {dump(document)}"

    def take(self, delta: Mapping[str, Any]) -> list[str]:
        """Return the events of one delta."""
        if delta.get("content"):
            return self._take_text(delta["content"])
        events: list[str] = []
        for part in delta.get("tool_calls") or ():
            events += self._take_call(part)
        return events

    def close(self) -> list[str]:
        """Return the events that end the open item."""
        index = len(self.items)
        if self._text is not None:
            text, self._text = self._text, None
            item = message_item(text, self._item_id)
            self.items.append(item)
            place = {"content_index": 0, "item_id": self._item_id}
            done = {**place, "logprobs": [], "output_index": index}
            part = {**place, "output_index": index, "part": text_part(text)}
            return [
                self.event("response.output_text.done", {**done, "text": text}),
                self.event("response.content_part.done", part),
                self.event("response.output_item.done", {"item": item, "output_index": index}),
            ]
        if self._call is not None:
            call, self._call = self._call, None
            item = call_item(call, self._item_id, done=True)
            self.items.append(item)
            done = {
                "arguments": item["arguments"],
                "item_id": self._item_id,
                "output_index": index,
                "name": item["name"],
            }
            return [
                self.event("response.function_call_arguments.done", done),
                self.event("response.output_item.done", {"item": item, "output_index": index}),
            ]
        return []

    def _take_text(self, text: str) -> list[str]:
        events: list[str] = []
        if self._text is None:
            events += self.close()
            index = len(self.items)
            self._item_id, self._text = f"msg_{secrets.token_hex(8)}", ""
            item = message_item(None, self._item_id)
            place = {"content_index": 0, "item_id": self._item_id, "output_index": index}
            part = {**place, "part": text_part("", [])}
            events += [
                self.event("response.output_item.added", {"item": item, "output_index": index}),
                self.event("response.content_part.added", part),
            ]
        self._text += text
        data = {
            "content_index": 0,
            "delta": text,
            "item_id": self._item_id,
            "logprobs": [],
            "output_index": len(self.items),
        }
        return [*events, self.event("response.output_text.delta", data)]

    def _take_call(self, part: Mapping[str, Any]) -> list[str]:
        if "id" in part:
            events = self.close()
            self._item_id = f"fc_{secrets.token_hex(8)}"
            name = part["function"]["name"]
            self._call = {"id": part["id"], "function": {"name": name, "arguments": ""}}
            item = call_item(self._call, self._item_id, done=False)
            data = {"item": item, "output_index": len(self.items)}
            return [*events, self.event("response.output_item.added", data)]
        piece = part["function"]["arguments"]
        if self._call is None:
            return []
        self._call["function"]["arguments"] += piece
        data = {"delta": piece, "item_id": self._item_id, "output_index": len(self.items)}
        return [self.event("response.function_call_arguments.delta", data)]
