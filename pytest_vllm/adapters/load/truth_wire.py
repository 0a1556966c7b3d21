"""What the truth server reads and writes: HTTP/1.1 requests, events in the shape of vLLM 0.32."""

from __future__ import annotations

import json
import re
from typing import Any

from pytest_vllm.adapters.load.truth_schedule import WORDS

HEAD_BYTES = 64 * 2**10
BODY_BYTES = 64 * 2**20
MODEL = "truth"
MAX_MODEL_LEN = 131_072
CREATED = 1_795_362_747
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 15:52:26 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
DONE = b"e\r\ndata: [DONE]\n\n\r\n"
END = b"0\r\n\r\n"

_MASK = len(WORDS) - 1
_WORD = re.compile(r"\S+")


class BadRequestError(Exception):
    """A request that cannot be read; the connection is closed after the answer."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


def take_request(data: bytearray) -> tuple[str, bytes, bool] | None:
    """Take one request off the front of what came in.

    Returns:
        Path, body and whether the connection stays open; `None` while it is not complete.

    Raises:
        BadRequestError: It is no HTTP/1.1, or too large.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > HEAD_BYTES:
            raise BadRequestError("431 Request Header Fields Too Large")
        return None
    lines = bytes(data[:end]).split(b"\r\n")
    parts = lines[0].split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):  # noqa: PLR2004 - method, path, version
        raise BadRequestError("400 Bad Request")
    headers = _headers(lines)
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        taken = _dechunk(data, end + 4)
        if taken is None:
            return None
        body, used = taken
    else:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY_BYTES:
            raise BadRequestError("413 Content Too Large")
        used = end + 4 + int(length)
        if len(data) < used:
            return None
        body = bytes(data[end + 4 : used])
    del data[:used]
    keep = headers.get(b"connection", b"").lower() != b"close" and parts[2] == b"HTTP/1.1"
    return parts[1].decode("latin-1"), body, keep


def waits_for_leave(data: bytearray) -> bool:
    """Tell whether a client has sent its head and waits for `100 Continue`."""
    end = data.find(b"\r\n\r\n")
    return end >= 0 and len(data) == end + 4 and b"\r\nexpect: 100" in bytes(data[:end]).lower()


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    named = (line.partition(b":") for line in lines[1:])
    return {name.lower(): value.strip() for name, _colon, value in named}


def _dechunk(data: bytearray, start: int) -> tuple[bytes, int] | None:
    body = bytearray()
    while True:
        end = data.find(b"\r\n", start)
        if end < 0:
            return None
        try:
            size = int(bytes(data[start:end]).partition(b";")[0], 16)
        except ValueError as error:
            raise BadRequestError("400 Bad Request") from error
        start = end + 2
        if size == 0:
            end = data.find(b"\r\n", start)
            return (bytes(body), end + 2) if end == start else None
        if len(body) + size > BODY_BYTES:
            raise BadRequestError("413 Content Too Large")
        if len(data) < start + size + 2:
            return None
        body += data[start : start + size]
        start += size + 2


def answer(status: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    """Give a whole answer of HTTP."""
    head = (
        f"HTTP/1.1 {status}\r\ndate: Sun, 22 Nov 2026 15:52:26 GMT\r\nserver: uvicorn\r\n"
        f"content-length: {len(body)}\r\ncontent-type: {kind}\r\n\r\n"
    )
    return head.encode() + body


def fault(status: str, message: str) -> bytes:
    """Give an answer that refuses, in vLLM's shape."""
    code = int(status.split(" ", 1)[0])
    error = {"message": message, "type": "BadRequestError", "param": None, "code": code}
    return answer(status, json.dumps({"error": error}).encode())


def count_tokens(asked: dict[str, Any]) -> int:
    """Count the tokens of a prompt: its token IDs, or its words."""
    prompt = asked.get("prompt")
    if prompt is None:
        messages = asked.get("messages") or ()
        prompt = [message.get("content") for message in messages if isinstance(message, dict)]
    if isinstance(prompt, str):
        return len(_WORD.findall(prompt))
    if not isinstance(prompt, list):
        return 0
    return sum(len(_WORD.findall(part)) if isinstance(part, str) else 1 for part in prompt)


class Writing:
    """The events of one reply, most of them ready as bytes before they are due.

    Args:
        number: Number of the request, as it is in its ID.
        chat: Whether it is asked as a chat.
        asked: Body of the request.
        tokens: Tokens to write.
        per_event: Tokens that one event carries.
    """

    def __init__(
        self, *, number: int, chat: bool, asked: dict[str, Any], tokens: int, per_event: int
    ) -> None:
        options = asked.get("stream_options") or {}
        self.prompt_tokens = count_tokens(asked)
        self.tokens = tokens
        self.events = -(-tokens // per_event)
        self._per_event = per_event
        self._chat = chat
        self._ids = bool(asked.get("return_token_ids"))
        self._usage = bool(options.get("include_usage"))
        self._running = bool(options.get("continuous_usage_stats"))
        kind = "chat.completion.chunk" if chat else "text_completion"
        prefix = "chatcmpl" if chat else "cmpl"
        self._start = (
            f'data: {{"id":"{prefix}-{number:08x}","object":"{kind}","created":{CREATED},'
            f'"model":"{MODEL}","choices":['
        )
        self._ready: list[bytes] = [b""] * len(WORDS)

    def role(self) -> bytes:
        """Give the chunk that comes before a chat's first token, nothing for a completion."""
        if not self._chat:
            return b""
        return _chunk(
            f'{self._start}{{"index":0,"delta":{{"role":"assistant","content":""}},'
            '"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}\n\n'
        )

    def event(self, index: int) -> bytes:
        """Give one token event as a chunk of the body."""
        if self._running or index == self.events - 1:
            return self._event(index)
        ready = self._ready[index & _MASK]  # the words come round, and so do the bytes
        if not ready:
            ready = self._ready[index & _MASK] = self._event(index)
        return ready

    def usage(self) -> bytes:
        """Give the usage chunk if it was asked for."""
        if not self._usage:
            return b""
        return _chunk(
            f'{self._start}],"system_fingerprint":"vllm-0.32.0-truth",'
            f'"usage":{self._used(self.tokens)}}}\n\n'
        )

    def whole(self) -> bytes:
        """Give the reply that is not streamed."""
        text = "".join(WORDS[index & _MASK] for index in range(self.tokens))
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": "length"}
        start = self._start.removeprefix("data: ").replace(".chunk", "")
        return answer(
            "200 OK",
            f'{start}{json.dumps(choice)}],"usage":{self._used(self.tokens)}}}'.encode(),
        )

    def _event(self, index: int) -> bytes:
        first = index * self._per_event
        words = range(first, min(first + self._per_event, self.tokens))
        text = "".join(WORDS[word & _MASK] for word in words)
        ids = json.dumps([word & _MASK for word in words]) if self._ids else "null"
        last = index == self.events - 1
        finish = '"length"' if last else "null"
        usage = f',"usage":{self._used(words.stop)}' if self._running else ""
        if self._chat:
            said, stop = f'"delta":{{"content":"{text}"}}', '"stop_reason":null,' if last else ""
        else:
            said, stop = f'"text":"{text}"', '"stop_reason":null,"prompt_token_ids":null,'
        return _chunk(
            f'{self._start}{{"index":0,{said},"logprobs":null,"finish_reason":{finish},'
            f'{stop}"token_ids":{ids}}}]{usage}}}\n\n'
        )

    def _used(self, written: int) -> str:
        return (
            f'{{"prompt_tokens":{self.prompt_tokens},'
            f'"total_tokens":{self.prompt_tokens + written},"completion_tokens":{written}}}'
        )


def _chunk(text: str) -> bytes:
    data = text.encode()
    return b"%x\r\n%b\r\n" % (len(data), data)
