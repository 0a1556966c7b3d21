"""A golden: what a model that was accepted says, in numbers that another server must reproduce.

It belongs to one model in one precision. Texts are never compared: two near ties away from each
other, two healthy servers write different ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.generation import TIE_NATS
from pytest_vllm.domain.interval import Score
from pytest_vllm.domain.plain import is_schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_vllm.domain.content import Scored

SCHEMA = 1
UNKNOWN = "unknown"
TEXT, COPY, LONG = "text", "copy", "long"
"""Kinds of texts: prose and code; a row of words twice; the same near the end of the context."""

_DIGITS = 4
_PERCENT = 0.99
_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenText:
    """A prompt and how probable its tokens were.

    Attributes:
        name: What it is.
        kind: `text`, `copy` or `long`.
        parts: The token IDs, as runs with the number of times that each stands there.
        logprobs: Log probabilities of its last tokens, in nats.
        top: The most probable tokens at the same places with their log probabilities, best first;
            empty when they were not recorded.
    """

    name: str
    kind: str
    parts: tuple[tuple[int, tuple[int, ...]], ...]
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...] = ()

    @property
    def ids(self) -> list[int]:
        """The token IDs of the whole prompt."""
        return [id_ for times, part in self.parts for id_ in part * times]


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """All that is known about the numbers of one model in one precision.

    Attributes:
        model: Name of the model.
        dtype: Its arithmetic, such as `bfloat16`; `unknown` when nobody said.
        quantization: How its weights are stored, `none` for as they are; `unknown` likewise.
        provenance: Where, when and by what it was recorded.
        strings: Short texts and their token IDs, special tokens included.
        conversations: Messages and the token IDs that the chat template makes of them.
        texts: Prompts and their log probabilities.
        accuracy: What the questions of the suite `accuracy` came to, `None` when nobody asked.
    """

    model: str
    dtype: str
    quantization: str
    provenance: Mapping[str, str]
    strings: Mapping[str, tuple[int, ...]]
    conversations: tuple[tuple[tuple[Mapping[str, str], ...], tuple[int, ...]], ...]
    texts: tuple[GoldenText, ...]
    accuracy: Score | None = None

    @property
    def precision(self) -> str:
        """Arithmetic and storage in words."""
        return f"dtype {self.dtype}, quantization {self.quantization}"

    def is_named(self, names: Iterable[str]) -> bool:
        """Tell whether a server that goes by these names or paths claims to serve this model."""
        return short_name(self.model) in {short_name(name) for name in names if name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How far a server lies from a golden.

    Attributes:
        mean: Mean absolute difference of the log probabilities (MAD), in nats.
        p99: What 99 % of the differences are below, in nats.
        agreement: Share of the places with the same best token, 0 to 1; 1 when none was recorded.
        misses: Places with another best token that was no near tie in the golden.
        count: Places that were compared.
    """

    mean: float
    p99: float
    agreement: float = 1.0
    misses: tuple[str, ...] = field(default=())
    count: int = 0

    def __str__(self) -> str:
        """Show the figures in one line."""
        missed = f"; {len(self.misses)} other: {'; '.join(self.misses[:_SHOWN])}"
        return (
            f"MAD {self.mean:.4f}, p99 {self.p99:.3f} nats, best token agrees at "
            f"{self.agreement:.1%} of {self.count}{missed if self.misses else ''}"
        )


def measure(pairs: Iterable[tuple[GoldenText, Sequence[Scored]]]) -> Distance:
    """Compare prompts of a golden with what a server says of them, all places in one.

    Args:
        pairs: Prompts, each with all its tokens as the server scores them; with the best token of
            each place where the golden has it.
    """
    differences: list[float] = []
    agreed: list[bool] = []
    misses: list[str] = []
    for text, scored in pairs:
        last = scored[-len(text.logprobs) :]
        differences += [
            abs(golden - seen.logprob) for golden, seen in zip(text.logprobs, last, strict=True)
        ]
        for place, (top, seen) in enumerate(zip(text.top, last, strict=bool(text.top))):
            agreed.append(top[0][0] == seen.best)
            gap = top[0][1] - dict(top).get(seen.best, -math.inf)
            if gap > TIE_NATS:
                misses.append(f"{text.name} {place}: {top[0][0]} became {seen.best}")
    return Distance(
        mean=fmean(differences),
        p99=sorted(differences)[math.ceil(_PERCENT * len(differences)) - 1],
        agreement=fmean(agreed) if agreed else 1.0,
        misses=tuple(misses),
        count=len(differences),
    )


def short_name(model: str) -> str:
    """Return the last part of a model's name or path, in lower case."""
    return model.rstrip("/").rpartition("/")[2].lower()


# --- the file ------------------------------------------------------------------------------------


def to_document(golden: Golden) -> dict[str, Any]:
    """Return a golden as JSON, log probabilities to 0.0001 nats."""
    accuracy = golden.accuracy
    asked = {"right": accuracy.right, "total": accuracy.total} if accuracy is not None else None
    return {
        "schema": SCHEMA,
        "accuracy": asked,
        "model": golden.model,
        "dtype": golden.dtype,
        "quantization": golden.quantization,
        "provenance": dict(golden.provenance),
        "strings": [{"text": text, "ids": list(ids)} for text, ids in golden.strings.items()],
        "conversations": [
            {"messages": [dict(message) for message in messages], "ids": list(ids)}
            for messages, ids in golden.conversations
        ],
        "texts": [
            {
                "name": text.name,
                "kind": text.kind,
                "parts": [{"times": times, "ids": list(part)} for times, part in text.parts],
                "logprobs": [round(value, _DIGITS) for value in text.logprobs],
                "top": [[[id_, round(value, _DIGITS)] for id_, value in top] for top in text.top],
            }
            for text in golden.texts
        ],
    }


def from_document(document: Any, *, name: str) -> Golden:
    """Read a golden from JSON.

    Args:
        document: The parsed file.
        name: Its name, for messages.

    Raises:
        TargetError: It is no golden of this schema.
    """
    advice = "record it again: pytest-vllm golden record --url URL"
    schema = document.get("schema") if isinstance(document, dict) else None
    if not is_schema(schema, SCHEMA):
        raise TargetError(f"{name}: required schema {SCHEMA}, saw {schema!r}", advice=advice)
    try:
        return _golden(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise TargetError(f"{name} is no golden ({cause})", advice=advice) from None


def _golden(document: dict[str, Any]) -> Golden:
    texts = tuple(_text(entry) for entry in document["texts"])
    if not texts:
        raise ValueError("it has no texts")
    return Golden(
        model=str(document["model"]),
        dtype=str(document["dtype"]),
        quantization=str(document["quantization"]),
        provenance={str(key): str(value) for key, value in document["provenance"].items()},
        strings={str(entry["text"]): _ids(entry["ids"]) for entry in document["strings"]},
        conversations=tuple(
            (tuple(dict(message) for message in entry["messages"]), _ids(entry["ids"]))
            for entry in document["conversations"]
        ),
        texts=texts,
        accuracy=_score(document.get("accuracy")),
    )


def _score(entry: dict[str, Any] | None) -> Score | None:
    if entry is None:
        return None
    return Score(right=int(entry["right"]), total=int(entry["total"]))


def _text(entry: dict[str, Any]) -> GoldenText:
    text = GoldenText(
        name=str(entry["name"]),
        kind=str(entry["kind"]),
        parts=tuple((int(part["times"]), _ids(part["ids"])) for part in entry["parts"]),
        logprobs=tuple(float(value) for value in entry["logprobs"]),
        top=tuple(
            tuple((int(id_), float(value)) for id_, value in place) for place in entry["top"]
        ),
    )
    if not 0 < len(text.logprobs) < len(text.ids):
        raise ValueError(f"{text.name}: {len(text.logprobs)} values for {len(text.ids)} tokens")
    if text.top and (len(text.top) != len(text.logprobs) or not all(text.top)):
        raise ValueError(f"{text.name}: not as many alternatives as log probabilities")
    return text


def _ids(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
