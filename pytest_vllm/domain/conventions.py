"""What holds for every reply, whatever was asked (checks.md, section b): pure functions.

Each returns one line for each violation: the place, what was seen, what was required. The shape of
a reply is told by its JSON Schema; here is what a schema cannot say.
"""

from __future__ import annotations

import json
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_vllm.domain.reply import Reply

CLOCK_SKEW_S = 300
"""`created` may be this far from the Date header."""

ERROR_BODY_BYTES = 20_000
"""An error reply that is longer repeats the request or shows the server's inside."""

DONE = "[DONE]"
"""What the last event of a stream says."""

_SHOWN = 120
_LEAKS = (
    (
        "a Python traceback",
        re.compile(r"Traceback \(most recent call last\)|\bFile \"[^\"]+\", line"),
    ),
    ("the address of an object", re.compile(r"\b0x[0-9a-fA-F]{6,}")),
    (
        "a path of the server's file system",
        re.compile(
            r"(?<![\w:/.-])/(?:app|data|etc|home|lib|mnt|models|opt|root|srv|tmp|usr|var|workspace)"
            r"/[\w.-]+|site-packages|dist-packages|\b[\w/]+\.py:\d+"
        ),
    ),
)


def status_violations(reply: Reply, statuses: Sequence[int]) -> list[str]:
    """Hold the status against the accepted ones; show the body when it is another."""
    if reply.status in statuses:
        return []
    accepted = " or ".join(str(status) for status in statuses)
    return [f"required status {accepted}, saw {reply.status}: {_short(reply.text)}"]


def media_type_violations(reply: Reply, required: str) -> list[str]:
    """Hold the content type, without its parameters, against the required one."""
    if reply.content_type == required:
        return []
    seen = reply.headers.get("content-type", "none")
    return [f"required content-type {required}, saw {seen}: {_short(reply.text)}"]


def document_violations(
    document: Mapping[str, Any], *, models: Sequence[str], headers: Mapping[str, str]
) -> list[str]:
    """Judge a completion, a chat completion or one chunk of a stream.

    Args:
        document: The JSON object.
        models: IDs that the reply may name, the requested one first.
        headers: Headers of the reply, names in lower case.
    """
    lines = []
    model = document.get("model")
    if model not in models:
        lines.append(f"$.model: saw {model!r}, required {models[0]!r} as requested")
    lines += _created_violations(document.get("created"), headers.get("date"))
    usage = document.get("usage")
    if isinstance(usage, dict):
        lines += usage_violations(usage)
    return lines


def usage_violations(usage: Mapping[str, Any]) -> list[str]:
    """Require the total to be the sum of its parts."""
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    total = usage.get("total_tokens")
    if isinstance(prompt, int) and isinstance(completion, int) and total != prompt + completion:
        parts = f"prompt_tokens {prompt} + completion_tokens {completion}"
        return [f"$.usage.total_tokens: saw {total!r}, required {prompt + completion} ({parts})"]
    return []


def leak_violations(reply: Reply, *, known: Iterable[str] = ()) -> list[str]:
    """Require an error reply to be short and to show nothing of the server's inside.

    Args:
        reply: The error reply.
        known: Texts that may stand there because clients know them, such as the model's name.
    """
    lines = []
    if len(reply.body) > ERROR_BODY_BYTES:
        lines.append(
            f"required an error body of at most {ERROR_BODY_BYTES} bytes, saw {len(reply.body)}"
        )
    text = reply.text[:ERROR_BODY_BYTES].replace('\\"', '"')
    for name in sorted(filter(None, known), key=len, reverse=True):
        text = text.replace(name, "MODEL")
    for what, pattern in _LEAKS:
        match = pattern.search(text)
        if match is not None:
            lines.append(f"required an error without {what}, saw {match[0]!r}")
    return lines


def parse_events(lines: Iterable[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the lines of an event stream.

    Returns:
        The JSON objects of all `data:` lines but `[DONE]`, and the violations: data that is no JSON
        object, or an error inside the stream.
    """
    chunks, violations = [], []
    for number, line in enumerate(lines, start=1):
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == DONE:
            continue
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict):
            violations.append(f"line {number}: required a JSON object, saw {_short(data)}")
        elif "error" in chunk:
            violations.append(f"line {number}: saw an error under status 200: {_short(data)}")
        else:
            chunks.append(chunk)
    return chunks, violations


def _created_violations(created: object, date: str | None) -> list[str]:
    if date is None or not isinstance(created, int):
        return []
    try:
        now = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return [f"required a Date header that is a date, saw {_short(date)}"]
    if abs(created - now) <= CLOCK_SKEW_S:
        return []
    required = f"a time within {CLOCK_SKEW_S} s of the Date header ({round(now)})"
    return [f"$.created: saw {created}, required {required}"]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")
