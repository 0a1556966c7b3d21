"""The far end of a companion: a process that answers one line of JSON for each word it is given.

It ends when its input does, even in the middle of a call that hangs, so it never outlives the
process that started it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "pytest-vllm-gpu"
"""Name of the process, by which a look at who uses the GPUs leaves it out; 15 bytes at most."""


def answer_all(answer: Callable[[str], Any]) -> None:
    """Answer until the input ends.

    Whatever a library prints to standard output goes to standard error, so that nothing but
    answers travels on the channel.

    Args:
        answer: Makes the JSON-able answer to a word; what it raises is told to the other side.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with suppress(OSError):
        Path("/proc/self/comm").write_text(NAME, encoding="ascii")
    words: SimpleQueue[str] = SimpleQueue()
    Thread(target=_listen, args=(words,), daemon=True).start()
    while True:
        word = words.get()
        before = time.process_time()
        try:
            reply: dict[str, Any] = {"answer": answer(word)}
        except BaseException as error:  # noqa: BLE001 - whatever it is, the other side words it
            reply = {"error": describe(error)}
        sys.stdout.flush()
        sys.stderr.flush()
        reply["cpu_s"] = time.process_time() - before
        channel.write(f"{json.dumps(reply)}\n")
        channel.flush()


def _listen(words: SimpleQueue[str]) -> None:
    """Take in what is asked; end the process when nobody can ask any more."""
    for line in sys.stdin:
        words.put(line.strip())
    os._exit(0)


def describe(error: BaseException) -> dict[str, Any]:
    """Return kind, text and the library's own number of an error as plain data."""
    code = getattr(error, "err_code", getattr(error, "value", None))
    return {
        "kind": type(error).__name__,
        "text": str(error) or repr(error),
        "code": code if isinstance(code, int) else None,
    }


def plain_number(value: object) -> int | float | None:
    """Return a number, `None` for `N/A` and for what a library means by it (all bits set)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if value in (0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF) else value
