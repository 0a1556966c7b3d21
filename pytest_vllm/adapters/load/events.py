"""Token events of one streamed reply, out of the bytes of its body as they came.

Server-Sent Events are read as WHATWG has it (LF, CRLF or CR; comments; several data lines), each
event as JSON, and what counts as a token event is `load.md` section 5: text, reasoning, arguments
of tools or token IDs. That is exact and slow. `template` is what makes most events cheap.
"""

from __future__ import annotations

import json
import re
from array import array
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.load.columns import UNTOLD, Ending

if TYPE_CHECKING:
    from pytest_vllm.adapters.load.template import Templates

EVENT_BYTES = 16 * 2**20
"""Largest single event (or JSON document) that is read."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_SHOWN = 300
_FINISH = 32
_NAME = 64
_FIELDS = 32
_LARGEST = 2**31


def _count(value: object) -> int:
    """Return a count as a server told it, `UNTOLD` for what is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST:
        return value
    return UNTOLD


def shown(text: object) -> str:
    """Return what a server sent on one bounded line."""
    words = " ".join(str(text).split())
    return words if len(words) <= _SHOWN else words[:_SHOWN] + "..."


class TokenEvents:
    """What one reply says, event by event.

    Attributes:
        times: Arrival of each token event.
        tokens: Tokens of each, 0 where the server does not tell.
        prompt_tokens: As the server counts, `UNTOLD` where it does not.
        completion_tokens: Likewise, of the whole reply as far as it told.
        cached_tokens: Likewise, of the prompt.
        content_event: See `Columns.content_event`.
        finish: Finish reason, empty without.
        server_ms: What the server timed itself (`--enable-per-request-metrics`).
        done: Whether `[DONE]` came.
        failure: What is wrong with the reply, `None` as long as nothing is.
        fatal: Whether nothing after that failure can be read.
    """

    __slots__ = (
        "_counted",
        "_data",
        "_data_bytes",
        "_line",
        "_skip_lf",
        "_started",
        "_templates",
        "after",
        "cached_tokens",
        "completion_tokens",
        "content_event",
        "done",
        "failure",
        "fatal",
        "finish",
        "heads",
        "idle",
        "known",
        "prompt_tokens",
        "reasoned",
        "server_ms",
        "settled",
        "start",
        "texts",
        "times",
        "tokens",
    )

    def __init__(self, templates: Templates) -> None:
        self._templates = templates
        self.times, self.tokens = array("q"), array("i")
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = UNTOLD
        self.content_event = UNTOLD
        self.finish = ""
        self.server_ms: dict[str, float] = {}
        self.done = self.fatal = False
        self.failure: tuple[Ending, str] | None = None
        self.settled = self.reasoned = False
        self._counted = 0  # completion tokens by continuous usage, up to the last token event
        self._line, self._data, self._data_bytes = bytearray(), list[bytes](), 0
        self._skip_lf = self._started = False
        # For `framing`: whether the stream is between two events, and what the next one looks like.
        self.idle = False
        self.start, self.after, self.texts = b"", b"", False
        self.known: dict[bytes, int] = {}
        self.heads: dict[int, bytes] = {}

    def feed(self, data: bytes, at_ns: int) -> None:
        """Take in bytes of the body; events that they complete arrived at that time."""
        self.idle = False
        if self._over():
            return
        if self._skip_lf:
            self._skip_lf = False
            if data[:1] == b"\n":
                data = data[1:]
        for one in self._lines(data):
            if one:
                self._field(one)
            elif self._data:
                self._event(at_ns)
            if self._over():
                return
        self.idle = not self._line and not self._data and not self._skip_lf

    def _over(self) -> bool:
        return self.done or self.fatal

    def _lines(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete now, and keep what is not."""
        line = self._line
        if b"\n" not in data and b"\r" not in data:
            line += data
            if len(line) > EVENT_BYTES:
                self._fail(Ending.TOO_LARGE, f"a line of more than {EVENT_BYTES} bytes")
            return []
        if line:
            data = bytes(line) + data
            line.clear()
        lines = _LINE_END.split(data) if b"\r" in data else data.split(b"\n")
        line += lines.pop()
        self._skip_lf = data.endswith(b"\r")
        if not self._started:
            self._started = True
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        return lines

    def document(self, body: bytes, at_ns: int) -> None:
        """Take in the whole body of a reply that is no stream: all its tokens are one event."""
        found = self._parsed(body)
        if found is not None:
            before = len(self.times)
            self._read(found, at_ns)
            if len(self.times) > before and self.completion_tokens > 0:
                self.tokens[-1] = self.completion_tokens
        self.done = self.failure is None

    def close(self) -> None:
        """Settle what only the end of the reply tells."""
        if not self.settled and not self.reasoned and self.times:
            self.content_event = 0

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        value = value.removeprefix(b" ")
        self._data.append(value)
        self._data_bytes += len(value) + 1
        if self._data_bytes > EVENT_BYTES:
            self._fail(Ending.TOO_LARGE, f"an event of more than {EVENT_BYTES} bytes")

    def _event(self, at_ns: int) -> None:
        payload = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data, self._data_bytes = [], 0
        if payload.strip() == b"[DONE]":
            self.done = True
            return
        found = self._parsed(payload)
        if found is None:
            return
        before = len(self.times)
        plain = self._read(found, at_ns)
        if plain and len(self.times) > before and b"\n" not in payload:
            self._templates.adopt(self, payload, self.tokens[-1])

    def _parsed(self, payload: bytes) -> dict[str, Any] | None:
        try:
            found = json.loads(payload.decode())
        except (ValueError, RecursionError) as error:
            what = type(error).__name__ if isinstance(error, UnicodeDecodeError) else str(error)
            start = payload[:80].decode("utf-8", "replace")
            self._fail(Ending.MALFORMED, f"no JSON ({what}): {start}")
            return None
        if not isinstance(found, dict):
            self._fail(Ending.MALFORMED, f"no JSON object but a {type(found).__name__}")
            return None
        return found

    def _read(self, found: dict[str, Any], at_ns: int) -> bool:
        """Read an event; tell whether it says nothing but what was written."""
        error = found.get("error")
        if error is None and found.get("object") == "error":
            error = found
        if error is not None:
            text = error.get("message", error) if isinstance(error, dict) else error
            self.failure = self.failure or (Ending.ERROR_EVENT, f"error event: {shown(text)}")
            return False
        usage, metrics, choices = found.get("usage"), found.get("metrics"), found.get("choices")
        told = self._usage(usage) if isinstance(usage, dict) else UNTOLD
        if isinstance(metrics, dict):
            self._timings(metrics)
        if not isinstance(choices, list):
            return False
        choices = [choice for choice in choices if isinstance(choice, dict)]
        finish = [one for one in (choice.get("finish_reason") for choice in choices) if one]
        if finish:
            self.finish = str(finish[-1])[:_FINISH]
        if not self._token_event(choices, told, at_ns):
            return False
        return usage is None and metrics is None and not finish

    def _token_event(self, choices: list[dict[str, Any]], told: int, at_ns: int) -> bool:
        """Note a token event, if it is one; tell whether another of its bytes means the same.

        Tokens that make no text (yet) are told by their IDs, or by usage that grew.
        """
        written = [_written(choice) for choice in choices]
        content = any(one[0] for one in written)
        reasoning = any(one[1] for one in written)
        ids = [choice.get("token_ids") for choice in choices]
        tokens = sum(len(one) for one in ids if isinstance(one, list))
        if not tokens and choices and told > self._counted:
            tokens = told - self._counted
        if not (content or reasoning or tokens):
            return False
        self._counted = max(self._counted, told)
        if content and not self.settled:
            self.content_event = len(self.times) if self.reasoned else 0
            self.settled = True
        elif reasoning and not content:
            self.reasoned = True
        self.times.append(at_ns)
        self.tokens.append(tokens)
        if content:
            return True
        return self.reasoned and not self.settled if reasoning else self.reasoned or self.settled

    def _timings(self, metrics: dict[str, Any]) -> None:
        for name, value in metrics.items():
            if isinstance(value, float) or _count(value) != UNTOLD:
                self.server_ms[name[:_NAME]] = float(value)
            if len(self.server_ms) >= _FIELDS:
                return

    def _usage(self, usage: dict[str, Any]) -> int:
        told = _count(usage.get("completion_tokens"))
        if told != UNTOLD:
            self.completion_tokens = told
        prompt = _count(usage.get("prompt_tokens"))
        if prompt != UNTOLD:
            self.prompt_tokens = prompt
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict):
            cached = _count(details.get("cached_tokens"))
            if cached != UNTOLD:
                self.cached_tokens = cached
        return told

    def _fail(self, ending: Ending, text: str) -> None:
        self.failure = self.failure or (ending, shown(text))
        self.fatal = True
        self._line.clear()
        self._data = []


def _written(choice: dict[str, Any]) -> tuple[bool, bool]:
    """Tell whether a choice carries content (or arguments of a tool), and whether reasoning."""
    content = _text(choice.get("text"))
    reasoning = False
    for name in ("delta", "message"):
        part = choice.get(name)
        if not isinstance(part, dict):
            continue
        content = content or _text(part.get("content")) or _arguments(part.get("tool_calls"))
        reasoning = reasoning or _text(part.get("reasoning"))
        reasoning = reasoning or _text(part.get("reasoning_content"))
    return content, reasoning


def _text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _arguments(calls: object) -> bool:
    if not isinstance(calls, list):
        return False
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    return any(isinstance(one, dict) and _text(one.get("arguments")) for one in functions)
