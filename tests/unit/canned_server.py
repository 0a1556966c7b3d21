"""A handler with canned replies in vLLM's shapes, which remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.events import DONE, close, event_of
from pytest_vllm.simulator.wire import Answer, EventStream, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pytest_vllm.simulator.wire import Reply

JSON = {"content-type": "application/json"}
WORDS = [" one", " two", " été", " 日本", " five", " six", " seven", " eight", " nine", " ten "]
METRICS = """\
vllm:num_requests_running{engine="0"} 0.0
vllm:num_requests_waiting{engine="0"} 0.0
vllm:prompt_tokens_total{engine="0"} 7.0
vllm:generation_tokens_total{engine="0"} 9.0
vllm:prefix_cache_hits_total{engine="0"} 16.0
vllm:request_success_total{finished_reason="stop"} 1.0
vllm:request_success_total{finished_reason="length"} 3.0
vllm:e2e_request_latency_seconds_count{engine="0"} 4.0
vllm:num_preemptions_total{engine="0"} 0.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="64",kv_cache_size_tokens="1024"} 1.0
"""


def post(path: str, **body: Any) -> Request:
    """Return a request with a JSON body."""
    return Request(method="POST", path=path, headers=JSON, body=json.dumps(body).encode())


def get(path: str) -> Request:
    """Return a request without a body."""
    return Request(method="GET", path=path, headers={})


def answer(document: Any, status: int = 200) -> Answer:
    """Return an answer with a JSON body."""
    return Answer(status=status, headers=JSON).with_document(document)


async def said(reply: Reply) -> list[str]:
    """Return a reply as text: status, headers, body or events."""
    lines = [str(reply.status), json.dumps(dict(reply.headers))]
    if isinstance(reply, Answer):
        return [*lines, repr(reply.body)]
    lines += [event async for event in reply.events]
    await close(reply.events)
    return lines


class CannedServer:
    """Answers by the path and the fields of a request.

    Attributes:
        asked: Each request that came through.
        gate: Generation waits while it is clear.
        tap: A stream waits after its first event while it is clear.
        cancelled: Requests that were cancelled or closed before their end.
    """

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.tap = asyncio.Event()
        self.tap.set()
        self.cancelled = 0

    async def __call__(self, request: Request) -> Reply:
        """Answer a request."""
        self.asked.append(request)
        if request.method != "POST":
            return self._get(request.path)
        body = request.document() or {}
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self._post(request.path, body)

    def _get(self, path: str) -> Reply:  # noqa: PLR0911 - a table of replies
        match path:
            case "/health" | "/ping":
                return Answer(headers={})
            case "/version":
                return answer({"version": "0.32.0"})
            case "/load":
                return answer({"server_load": 0})
            case "/openapi.json":
                return answer({"paths": {"/v1/completions": {}}})
            case "/metrics":
                return Answer(headers={"content-type": "text/plain"}, body=METRICS.encode())
            case "/v1/models":
                entry = {"id": "m", "root": "r", "max_model_len": 64}
                return answer({"object": "list", "data": [entry]})
            case "/v1/completions":
                return answer({"detail": "Method Not Allowed"}, 405)
            case "/v1/responses/resp_unknown":
                return answer({"error": {"message": "not found", "code": 404}}, 404)
        return answer({"detail": "Not Found"}, 404)

    def _post(self, path: str, body: dict[str, Any]) -> Reply:  # noqa: PLR0911 - a table
        if body.get("model", "m") != "m":
            return answer({"error": {"message": "no such model", "code": 404}}, 404)
        if body.get("bad") or "suffix" in body or body.get("structured_outputs") == {"regex": "["}:
            return answer({"error": {"message": "bad", "type": "B", "code": 400}}, 400)
        match path:
            case "/tokenize":
                return answer({"count": 2, "tokens": [5, 6], "token_strs": ["a", "b"]})
            case "/detokenize":
                return answer({"prompt": " a b "})
            case "/v1/messages/count_tokens":
                return answer({"input_tokens": 31})
            case "/v1/responses" | "/v1/messages":
                return self._other(path, streamed=bool(body.get("stream")))
        chat = path == "/v1/chat/completions"
        if body.get("stream"):
            return EventStream(
                headers={"content-type": "text/event-stream"}, events=self._chunks(chat, body)
            )
        return answer(_completion(body, chat=chat))

    async def _chunks(self, chat: bool, body: dict[str, Any]) -> AsyncIterator[str]:  # noqa: FBT001
        complete = False
        head = {"id": "cmpl-1", "created": 100, "model": "m", "object": "chunk"}
        try:
            for place, word in enumerate(WORDS):
                if place:
                    await self.tap.wait()
                last = place == len(WORDS) - 1
                choice: dict[str, Any] = {"index": 1, "logprobs": _logprobs([word], chat=chat)}
                stopped = "xy" in body.get("stop", [])
                choice["finish_reason"] = ("stop" if stopped else "length") if last else None
                choice["stop_reason"] = "xy" if last and stopped else None
                if chat:
                    role = {} if place else {"role": "assistant"}
                    call = [{"index": 0, "id": "c", "function": {"arguments": "{}"}}]
                    choice["delta"] = {**role, "content": word, "tool_calls": call}
                else:
                    choice["text"] = word
                usage = {"prompt_tokens": 4, "completion_tokens": place, "total_tokens": 4 + place}
                yield event_of({**head, "choices": [choice], "usage": usage})
            usage = {"prompt_tokens": 4, "completion_tokens": 10, "total_tokens": 14}
            yield event_of({**head, "choices": [], "usage": usage})
            yield DONE
            complete = True
        finally:
            self.cancelled += not complete

    def _other(self, path: str, *, streamed: bool) -> Reply:
        kind = "response." if path == "/v1/responses" else ""
        if not streamed:
            usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
            status = {"status": "incomplete", "stop_reason": "max_tokens"}
            return answer({"id": "resp_1", **status, "usage": usage})
        names = ["output_text.delta", "output_text.delta", "content_block_stop", "message_delta"]
        names.append("message_stop")

        async def events() -> AsyncIterator[str]:
            for number, name in enumerate(names):
                document = {"type": kind + name, "sequence_number": number, "delta": "x"}
                if name == "message_delta":
                    document["delta"] = {"stop_reason": "max_tokens"}
                yield f"event: {kind}{name}\n{event_of(document)}"

        return EventStream(headers={"content-type": "text/event-stream"}, events=events())


def _completion(body: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    choices = []
    for index in (0, 1):
        choice: dict[str, Any] = {
            "index": index,
            "finish_reason": "stop" if body.get("stop") or chat else "length",
            "stop_reason": "xy" if body.get("stop") else None,
            "logprobs": _logprobs(WORDS, chat=chat),
            "token_ids": list(range(10, 20)),
            "prompt_logprobs": [None, {"5": {"logprob": -1.0}}, {"6": {"logprob": -2.0}}],
        }
        text = "".join(WORDS) + str(index)
        if chat:
            function = {"name": "f", "arguments": '{"a":1}'}
            call = {"id": "call", "type": "function", "function": function}
            calls = {"tool_calls": [call]} if body.get("tools") else {}
            choice["message"] = {"role": "assistant", "content": text, **calls}
            if calls:
                choice["finish_reason"] = "tool_calls"
        else:
            choice["text"] = text
        choices.append(choice)
    usage = {"prompt_tokens": 4, "completion_tokens": 60, "total_tokens": 64}
    ids = {"prompt_token_ids": [1, 2], "prompt_text": "<|s|>a"}
    head = {"id": "cmpl-1", "created": 100000, "model": body.get("model", "m")}
    return {**head, **ids, "choices": choices, "usage": usage}


def _logprobs(words: list[str], *, chat: bool) -> dict[str, Any]:
    if not chat:
        return {
            "tokens": list(words),
            "token_logprobs": [-1.0 - place for place in range(len(words))],
            "top_logprobs": [{word: -1.0, f"{word}!": -2.0} for word in words],
            "text_offset": [5 + place for place in range(len(words))],
        }
    content = [
        {
            "token": word,
            "logprob": -1.0,
            "bytes": list(word.encode()),
            "top_logprobs": [
                {"token": word, "logprob": -1.0},
                {"token": f"{word}!", "logprob": -2.0},
            ],
        }
        for word in words
    ]
    return {"content": content}
