"""`POST /v1/responses`, on top of chat; nothing is stored, as vLLM does by default."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator import fields
from pytest_vllm.simulator.chat import read_chat
from pytest_vllm.simulator.completion_events import EVENT_HEADERS
from pytest_vllm.simulator.errors import ApiError, InvalidFieldsError, invalid, json_answer
from pytest_vllm.simulator.response_events import response_events
from pytest_vllm.simulator.response_items import message_item, messages_of, output_items, tools_of
from pytest_vllm.simulator.serving import collect
from pytest_vllm.simulator.wire import EventStream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.simulator.chat_events import ChatCall
    from pytest_vllm.simulator.engine import Step
    from pytest_vllm.simulator.serving import Serving
    from pytest_vllm.simulator.wire import Reply, Request

_FIELDS = {
    "model": fields.string,
    "instructions": fields.string,
    "max_output_tokens": fields.integer,
    "temperature": fields.number,
    "top_p": fields.number,
    "top_k": fields.integer,
    "seed": fields.long,
    "stream": fields.boolean,
    "store": fields.boolean,
    "background": fields.boolean,
    "previous_response_id": fields.string,
    "parallel_tool_calls": fields.boolean,
    "tools": fields.array,
    "text": fields.mapping,
    "request_id": fields.string,
    "cache_salt": fields.string,
    "presence_penalty": fields.number,
    "frequency_penalty": fields.number,
    "user": fields.string,
}
_PASSED_ON = ("temperature", "top_p", "top_k", "seed", "stream", "request_id", "cache_salt")
_PENALTIES = ("presence_penalty", "frequency_penalty")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCall:
    """A request for a response that was found good.

    Attributes:
        chat: The same as a chat request.
        values: Fields of the request.
        document: The request.
        response_id: ID of the response.
        created: When it was created, in seconds since 1970.
    """

    chat: ChatCall
    values: Mapping[str, Any]
    document: Mapping[str, Any]
    response_id: str
    created: int

    def body(
        self,
        serving: Serving,
        status: str,
        output: Sequence[Mapping[str, Any]] = (),
        steps: Sequence[Step] = (),
    ) -> dict[str, Any]:
        """Return the response as it is now.

        Args:
            serving: The server.
            status: Its status.
            output: Its items.
            steps: What was generated, none while it is in progress.
        """
        values, params = self.values, self.chat.jobs[0].params
        cut = status == "incomplete"
        return {
            "id": self.response_id,
            "created_at": self.created,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": values.get("instructions"),
            "metadata": self.document.get("metadata"),
            "model": serving.name,
            "object": "response",
            "output": list(output),
            "parallel_tool_calls": values.get("parallel_tool_calls", True),
            "temperature": params.temperature,
            "tool_choice": self._tool_choice(),
            "tools": [_told_tool(tool) for tool in values.get("tools") or ()],
            "top_p": params.top_p,
            "background": False,
            "max_output_tokens": params.max_tokens,
            "max_tool_calls": None,
            "previous_response_id": None,
            "prompt": None,
            "reasoning": None,
            "service_tier": "auto",
            "status": status,
            "text": _told_text(values.get("text")),
            "top_logprobs": None,
            "truncation": "disabled",
            "usage": self._usage(steps) if steps else None,
            "user": values.get("user"),
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": None,
            "output_messages": None,
        }

    def _tool_choice(self) -> Any:
        if not self.values.get("tools"):
            return "none"
        return self.document.get("tool_choice") or "auto"

    def _usage(self, steps: Sequence[Step]) -> dict[str, Any]:
        prompt = len(self.chat.prompt)
        return {
            "input_tokens": prompt,
            "input_tokens_details": {
                "cached_tokens": steps[0].cached,
                "cache_write_tokens": 0,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": len(steps),
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": prompt + len(steps),
        }


async def responses(serving: Serving, request: Request) -> Reply:
    """Answer an input.

    Raises:
        ApiError: The request is refused.
    """
    call = await _read(serving, request)
    if call.values.get("stream"):
        return EventStream(headers=EVENT_HEADERS, events=response_events(serving, call))
    steps = (await collect(serving.engine, call.chat.jobs))[0]
    text = "".join(step.text for step in steps)
    status = status_of(steps)
    items = output_items(call.chat.tools, text) or [message_item("")]
    return json_answer(call.body(serving, status, items, steps))


def status_of(steps: Sequence[Step]) -> str:
    """Return the status of a response that was generated."""
    return "incomplete" if steps[-1].finish_reason == "length" else "completed"


async def get_response(serving: Serving, request: Request) -> Reply:
    """Fetch a response; none is stored."""
    del serving
    raise _not_found(request.path.split("/")[3])


async def cancel_response(serving: Serving, request: Request) -> Reply:
    """Cancel a response; none is stored."""
    del serving
    raise _not_found(request.path.split("/")[3])


def _not_found(response_id: str) -> ApiError:
    return ApiError(
        f"Response with id '{response_id}' not found.",
        status=404,
        kind="invalid_request_error",
        param="response_id",
    )


async def _read(serving: Serving, request: Request) -> ResponseCall:
    document = serving.document(request)
    fields.required(document, "input")
    values = fields.read(document, _FIELDS)
    given = document["input"]
    if not isinstance(given, str | list):
        raise InvalidFieldsError(
            [
                invalid("string_type", "body.input.str", "Input should be a valid string", given),
                invalid("list_type", "body.input.list", "Input should be a valid list", given),
            ]
        )
    serving.check_model(values)
    if values.get("background"):
        raise ApiError(
            "This vLLM engine does not support `store=True` and therefore does not support the "
            "background mode. To enable these features, set the environment variable "
            "`VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server.",
            kind="invalid_request_error",
            param="background",
        )
    if values.get("previous_response_id"):
        raise _not_found(values["previous_response_id"])
    asked = values.get("max_output_tokens")
    if asked is not None and asked > serving.settings.max_model_len:
        serving.bound(asked, 0, name="max_output_tokens")
    chat = await read_chat(serving, request, _as_chat(serving, document, values))
    suffix = str(chat.identity["id"]).removeprefix("chatcmpl-")
    return ResponseCall(
        chat=chat,
        values=values,
        document=document,
        response_id=f"resp_{suffix or secrets.token_hex(8)}",
        created=int(time.time()),
    )


def _as_chat(
    serving: Serving, document: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the same request for the chat endpoint."""
    chat: dict[str, Any] = {
        name: values[name] for name in (*_PASSED_ON, *_PENALTIES) if name in values
    }
    chat["messages"] = messages_of(document["input"], values.get("instructions"))
    if "max_output_tokens" in values:
        chat["max_tokens"] = values["max_output_tokens"]
    if values.get("tools") and serving.settings.tool_call_parser:
        chat["tools"] = tools_of(values["tools"])
        choice = document.get("tool_choice") or "auto"
        if isinstance(choice, dict):
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        chat["tool_choice"] = choice
    shape = (values.get("text") or {}).get("format") or {}
    if shape.get("type") == "json_schema":
        chat["response_format"] = {"type": "json_schema", "json_schema": shape}
    elif shape.get("type") == "json_object":
        chat["response_format"] = {"type": "json_object"}
    return chat


def _told_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": tool.get("name"),
        "parameters": tool.get("parameters"),
        "strict": tool.get("strict"),
        "type": tool.get("type", "function"),
        "allowed_callers": None,
        "async": None,
        "defer_loading": None,
        "description": tool.get("description"),
        "output_schema": None,
    }


def _told_text(text: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if text is None:
        return None
    shape = text.get("format")
    if isinstance(shape, dict) and shape.get("type") == "json_schema":
        told = {name: shape.get(name) for name in ("name", "schema", "type")}
        shape = {**told, "description": shape.get("description"), "strict": shape.get("strict")}
    return {"format": shape, "verbosity": text.get("verbosity")}
