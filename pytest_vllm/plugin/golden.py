"""Record a golden from whatever can score a prompt, and find the one that a run compares with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from pytest_vllm.adapters.content import conversations, strings, texts
from pytest_vllm.adapters.golden import read_golden
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.golden import COPY, LONG, TEXT, UNKNOWN, Golden, GoldenText
from pytest_vllm.plugin.content import beginning_of, score, word_row_of
from pytest_vllm.plugin.skips import not_applicable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.content import Scored
    from pytest_vllm.domain.target import Target
    from pytest_vllm.plugin.client import Client

TOP = 5
ROW = 100
LONG_SHARE = 0.8
LONGEST = 26_000
"""Tokens of the longest prompt; every one of them is a line of the server's reply."""


class Reader(Protocol):
    """What a golden is recorded from."""

    @property
    def max_model_len(self) -> int | None:
        """Context length in tokens."""

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Return the token IDs of a text, with or without special tokens."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int] | None:
        """Return what the chat template makes of messages, `None` when there is none."""

    def score(self, ids: list[int], *, last: int, top: int) -> Sequence[Scored]:
        """Return the last tokens of a prompt, each with the best `top` of its place."""


class ServerReader:
    """Reads from a running server."""

    def __init__(self, vllm: Client) -> None:
        self._vllm = vllm

    @property
    def max_model_len(self) -> int | None:
        """Context length that the server tells."""
        return self._vllm.max_model_len

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Ask `/tokenize`."""
        return self._vllm.tokenize(text, add_special_tokens=special)

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int] | None:
        """Ask `/tokenize` for messages."""
        if "chat" not in self._vllm.server.capabilities:
            return None
        return self._vllm.tokenize([dict(message) for message in messages])

    def score(self, ids: list[int], *, last: int, top: int) -> Sequence[Scored]:
        """Ask for `prompt_logprobs`."""
        return score_golden(self._vllm, ids, top=top)[-last:]


def score_golden(vllm: Client, ids: list[int], *, top: int) -> tuple[Scored, ...]:
    """Score one prompt, however long the reply gets."""
    return score(vllm, [ids], top=top)[0]


def record(
    reader: Reader,
    *,
    model: str,
    dtype: str,
    quantization: str,
    provenance: Mapping[str, str],
) -> Golden:
    """Read everything that a golden holds.

    Args:
        reader: The model.
        model: Its name.
        dtype: Its arithmetic.
        quantization: How its weights are stored.
        provenance: Where the figures come from.
    """
    start = beginning_of(reader.tokenize)
    prompts = [
        _text(reader, name, TEXT, [(1, [*start, *reader.tokenize(text, special=False)])])
        for name, text in texts().items()
    ]
    row = word_row_of(reader.tokenize, ROW, 0)
    prompts.append(_text(reader, "row twice", COPY, [(1, list(start)), (2, row)], last=ROW - 1))
    prompts.append(_long(reader, start, row))
    rendered = [(messages, reader.render(messages)) for messages in conversations()]
    return Golden(
        model=model,
        dtype=dtype,
        quantization=quantization,
        provenance=provenance,
        strings={text: tuple(reader.tokenize(text, special=True)) for text in strings()},
        conversations=tuple((m, tuple(ids)) for m, ids in rendered if ids is not None),
        texts=tuple(prompts),
    )


def load_golden(target: Target, vllm: Client) -> Golden:
    """Return the golden of this run, or end the check where there is none.

    Raises:
        HostError: The file cannot be used; that says nothing about the server.
    """
    named = target.settings["golden"].value
    if not isinstance(named, str):
        not_applicable(
            "no golden is named; record one from an accepted server with `pytest-vllm golden "
            "record --url URL`, then name it with --vllm-golden=FILE"
        )
    try:
        golden = read_golden(Path(named))
    except TargetError as error:
        raise HostError(f"--vllm-golden: {error.message}", advice=error.advice) from None
    longest = max(len(text.ids) for text in golden.texts)
    if vllm.max_model_len is not None and longest >= vllm.max_model_len:
        raise HostError(
            f"--vllm-golden: it has a prompt of {longest} tokens, the server's context "
            f"{vllm.max_model_len}",
            advice="record a golden with the --max-model-len that is served",
        )
    return golden


def differ(golden: Golden, vllm: Client, message: str) -> NoReturn:
    """Fail with a message, as the server's fault only if it claims to serve the golden's model.

    Raises:
        AssertionError: The server is wrong.
        HostError: Server and golden may well be of two models.
    """
    roots = [str(entry.get("root") or "") for entry in vllm.models()]
    names = [*vllm.server.served_names, vllm.server.launch_model, *roots]
    if golden.is_named(names):
        raise AssertionError(f"{message}\nthe golden is of {golden.model}, {golden.precision}")
    raise HostError(
        f"--vllm-golden: it is of {golden.model}, the server says {vllm.model}: {message}",
        advice="name the golden of the model that is served",
    )


def same_precision(golden: Golden, target: Target) -> bool:
    """Tell whether server and golden have the same precision, as far as anybody told."""
    served = target.serve_args.value("--quantization")
    dtype = target.serve_args.value("--dtype")
    return all(
        told is None or UNKNOWN in (told, of_golden) or told == of_golden
        for told, of_golden in ((served, golden.quantization), (dtype, golden.dtype))
        if told != "auto"
    )


def _text(
    reader: Reader,
    name: str,
    kind: str,
    parts: list[tuple[int, list[int]]],
    *,
    last: int | None = None,
) -> GoldenText:
    ids = [id_ for times, part in parts for id_ in part * times]
    count = len(ids) - 1 if last is None else last
    top = TOP if kind == TEXT else 1
    scored = reader.score(ids, last=count, top=top)
    best = tuple(tuple(sorted(one.top.items(), key=lambda pair: -pair[1])[:top]) for one in scored)
    return GoldenText(
        name=name,
        kind=kind,
        parts=tuple((times, tuple(part)) for times, part in parts if part),
        logprobs=tuple(one.logprob for one in scored),
        top=best if kind == TEXT else (),
    )


def _long(reader: Reader, start: Sequence[int], row: list[int]) -> GoldenText:
    """Put a paragraph again and again between two equal rows, to 80 % of the context."""
    paragraph = reader.tokenize(texts()["letter"], special=False)
    length = min(int(LONG_SHARE * (reader.max_model_len or 0)), LONGEST)
    times = max(1, (length - len(start) - 2 * len(row)) // len(paragraph))
    parts = [(1, [*start, *row]), (times, paragraph), (1, row)]
    return _text(reader, "row again far away", LONG, parts, last=len(row) - 1)
