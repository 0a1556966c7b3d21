"""How the clients of this folder get their work and leave their times."""

from __future__ import annotations

import json
import sys
from array import array
from pathlib import Path


def job() -> dict:
    """Return the work from the command line: url, streams, requests, tokens, out."""
    return json.loads(sys.argv[1])


def body(number: int, tokens: int) -> dict:
    """Return the JSON of one request; the number finds it in the truth."""
    return {
        "model": "truth",
        "prompt": "one two three four five six seven eight nine ten eleven twelve",
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "stub_tag": number,
    }


def save(path: str, times: list[tuple[int, int, list[int]]]) -> None:
    """Write number, send time, count and event times of each request, one after the other."""
    column = array("q")
    for number, sent, events in times:
        column.extend((number, sent, len(events)))
        column.extend(events)
    with Path(path).open("wb") as file:
        column.tofile(file)
