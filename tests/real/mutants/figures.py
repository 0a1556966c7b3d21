"""Key figures of a served model by which numerical faults show, measured by a plain client.

They are what the table of mutants prints beside the verdict of the suite, so they use none of the
code of the project.
"""

from __future__ import annotations

import json
import math
import random
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

LIMIT_S = 120
COPIED = 100

TEXTS = (
    """\
Water is made of hydrogen and oxygen. It covers most of the surface of the Earth, mainly in the
oceans, and it moves through the air, the soil and the rivers in a cycle that is driven by the heat
of the sun. Plants take it up with their roots and give it back to the air.
""",
    """\
The old lighthouse keeper climbed the stairs every evening to light the lamp. He had done so for
thirty years, and he knew each of the two hundred steps by the sound that it made under his boots.
That night the wind came from the north and the sea was rough.
""",
    """\
def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def factorial(n):
    if n == 0:
        return 1
    return n * factorial(n - 1)
""",
)

Logprobs = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Mean logprobs in nats for each token; None where a number was missing or not finite."""

    english: float | None
    shuffled: float | None
    copy_first: float | None
    copy_second: float | None
    texts: tuple[Logprobs, ...] | None
    copied: Logprobs | None

    def text_mad(self, golden: Figures) -> float | None:
        """Mean absolute difference of chosen-token logprobs on the texts."""
        if self.texts is None or golden.texts is None:
            return None
        pairs = zip(self.texts, golden.texts, strict=True)
        return max(mean_difference(mine, theirs) for mine, theirs in pairs)

    def copy_mad(self, golden: Figures) -> float | None:
        """Mean absolute difference on the second half of the copy."""
        if self.copied is None or golden.copied is None:
            return None
        return mean_difference(self.copied[COPIED:], golden.copied[COPIED:])


def largest_difference(mine: Figures, theirs: Figures) -> float:
    """Return the largest difference of two logprobs of the same token, in nats.

    Raises:
        ValueError: A logprob was missing or not finite.
    """
    rows = [(one.texts, one.copied) for one in (mine, theirs)]
    flat = [
        [value for row in (*texts, copied) for value in row]
        for texts, copied in rows
        if texts is not None and copied is not None
    ]
    first, second = flat
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def measure(url: str, model: str) -> Figures:
    """Ask a server for the logprobs of three texts, a shuffled one and a copy."""
    ids = [tokenize(url, model, text) for text in TEXTS]
    generator = random.Random("pytest-vllm mutants")  # noqa: S311 - no secret
    shuffled = generator.sample(ids[0], len(ids[0]))
    once = [generator.randrange(1000, 40000) for _ in range(COPIED)]
    texts = [prompt_logprobs(url, model, tokens) for tokens in ids]
    copied = prompt_logprobs(url, model, once + once)
    mixed = prompt_logprobs(url, model, shuffled)
    whole = [text for text in texts if text is not None]
    return Figures(
        english=mean(texts[0]),
        shuffled=mean(mixed),
        copy_first=mean(copied and copied[: COPIED - 1]),
        copy_second=mean(copied and copied[COPIED:]),
        texts=tuple(whole) if len(whole) == len(TEXTS) else None,
        copied=copied,
    )


def mean(values: Logprobs | None) -> float | None:
    """Return the mean, None for no values."""
    return sum(values) / len(values) if values else None


def mean_difference(mine: Logprobs, theirs: Logprobs) -> float:
    """Return the mean absolute difference of two rows of equal length."""
    return sum(abs(a - b) for a, b in zip(mine, theirs, strict=True)) / len(mine)


def tokenize(url: str, model: str, text: str) -> list[int]:
    """Ask the server for the token IDs of a text."""
    body = {"model": model, "prompt": text, "add_special_tokens": False}
    ids: list[int] = post(f"{url}/tokenize", body)["tokens"]
    return ids


def prompt_logprobs(url: str, model: str, ids: list[int]) -> Logprobs | None:
    """Return the logprob of each token but the first; None if one is missing or not finite."""
    body = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    try:
        rows = post(f"{url}/v1/completions", body)["choices"][0]["prompt_logprobs"]
    except urllib.error.HTTPError:
        return None  # vLLM answers 500 when a logprob is NaN
    values = []
    for row, token in zip(rows[1:], ids[1:], strict=True):
        value = row[str(token)]["logprob"]
        if value is None or not math.isfinite(value):
            return None
        values.append(float(value))
    return tuple(values)


def post(url: str, body: dict[str, Any]) -> Any:
    """Post JSON and return the JSON that comes back."""
    request = urllib.request.Request(  # noqa: S310 - a server of this test
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=LIMIT_S) as reply:  # noqa: S310
        return json.loads(reply.read() or b"null")
