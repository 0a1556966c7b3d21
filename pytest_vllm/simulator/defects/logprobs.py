"""Defects of log probabilities, of generated tokens and of prompts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.defects.defect import Defect
from pytest_vllm.simulator.defects.hooks import (
    CHAT,
    Document,
    in_all_choices,
    in_asked_documents,
    in_choices,
    in_documents,
    without_fields,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def _each_number(change: Callable[[float], float | None]) -> Callable[[Document], None]:
    """Change every log probability of a choice, of the tokens and of their alternatives."""

    def number(value: float | None) -> float | None:
        return None if value is None else change(value)

    def changed(choice: Document) -> None:
        logprobs = choice.get("logprobs") or {}
        if logprobs.get("token_logprobs"):
            logprobs["token_logprobs"] = [number(value) for value in logprobs["token_logprobs"]]
            logprobs["top_logprobs"] = [
                top and {token: number(value) for token, value in top.items()}
                for top in logprobs.get("top_logprobs") or []
            ]
        for entry in logprobs.get("content") or []:
            for place in [entry, *entry.get("top_logprobs", [])]:
                place["logprob"] = number(place["logprob"])

    return changed


def _every_number(change: Callable[[float], float]) -> Callable[[Document], None]:
    """Change the log probabilities of what was written and of the prompt."""

    def changed(choice: Document) -> None:
        _each_number(change)(choice)
        for place in choice.get("prompt_logprobs") or []:
            for entry in (place or {}).values():
                entry["logprob"] = change(entry["logprob"])

    return changed


def _last_number(value: float | None) -> Callable[[Document], None]:
    """Change the log probability of the last token of a choice."""

    def changed(choice: Document) -> None:
        logprobs = choice.get("logprobs") or {}
        if logprobs.get("token_logprobs"):
            logprobs["token_logprobs"][-1] = value
        if logprobs.get("content"):
            logprobs["content"][-1]["logprob"] = value

    return changed


def _shift_alternatives(choice: Document) -> None:
    logprobs = choice.get("logprobs") or {}
    if logprobs.get("top_logprobs"):
        logprobs["top_logprobs"].append(logprobs["top_logprobs"].pop(0))
    entries = logprobs.get("content") or []
    tops = [entry["top_logprobs"] for entry in entries]
    for entry, top in zip(entries, tops[1:] + tops[:1], strict=True):
        entry["top_logprobs"] = top


def _shorten_alternatives(choice: Document) -> None:
    logprobs = choice.get("logprobs") or {}
    for top in logprobs.get("top_logprobs") or []:
        if top and len(top) > 1:
            del top[min(top, key=lambda token: top[token])]
    for entry in logprobs.get("content") or []:
        if len(entry["top_logprobs"]) > 1:
            entry["top_logprobs"].pop()


def _reverse_alternatives(choice: Document) -> None:
    for entry in (choice.get("logprobs") or {}).get("content") or []:
        entry["top_logprobs"].reverse()


def _zero_offsets(choice: Document) -> None:
    logprobs = choice.get("logprobs") or {}
    if logprobs.get("text_offset"):
        logprobs["text_offset"] = [0] * len(logprobs["text_offset"])


def _spoil_bytes(choice: Document) -> None:
    for entry in (choice.get("logprobs") or {}).get("content") or []:
        entry["bytes"] = [*(entry.get("bytes") or []), 33]


def _of_prompt(document: Document) -> list[Document]:
    return [document, *document.get("choices", [])]


def _shift_prompt(document: Document) -> None:
    for place in _of_prompt(document):
        entries: list[Any] | None = place.get("prompt_logprobs")
        if entries and len(entries) > 2:  # noqa: PLR2004 - the first is null, one has no other
            place["prompt_logprobs"] = [entries[0], *entries[2:], entries[1]]


def _lower_generated(document: Document, asked: Document) -> None:
    if not asked.get("echo"):  # there the prompt's stand beside the generated ones
        for choice in document["choices"]:
            _each_number(lambda value: value - 1.0)(choice)


DEFECTS = (
    Defect(
        name="logprobs-ignored",
        summary="Log probabilities are null although they were asked for.",
        breaks=in_all_choices(lambda choice: choice.update(logprobs=None)),
    ),
    Defect(
        name="logprobs-shifted",
        summary="The alternatives belong to the token before.",
        issue="vllm PR29216",
        breaks=in_choices(_shift_alternatives),
    ),
    Defect(
        name="logprobs-scaled",
        summary="Log probabilities are nine tenths of what they are.",
        breaks=in_all_choices(_every_number(lambda value: value * 0.9)),
    ),
    Defect(
        name="logprobs-log2",
        summary="Log probabilities are to the base 2.",
        breaks=in_all_choices(_every_number(lambda value: value / math.log(2))),
    ),
    Defect(
        name="logprobs-positive",
        summary="Probabilities stand where log probabilities belong.",
        breaks=in_all_choices(_each_number(math.exp)),
    ),
    Defect(
        name="logprob-nan",
        summary="The last log probability of a reply is not a number.",
        issue="rocm-libraries#9055",
        breaks=in_choices(_last_number(math.nan)),
    ),
    Defect(
        name="logprob-null",
        summary="The last log probability of a reply is null, as NaN is shown in a stream.",
        issue="rocm-libraries#9055",
        breaks=in_all_choices(_last_number(None)),
    ),
    Defect(
        name="alternatives-short",
        summary="There is one alternative too few at each position.",
        breaks=in_choices(_shorten_alternatives),
    ),
    Defect(
        name="alternatives-unsorted",
        summary="The alternatives of chat come with the unlikeliest first.",
        breaks=in_choices(_reverse_alternatives, paths=CHAT),
    ),
    Defect(
        name="text-offsets-zero",
        summary="`text_offset` is 0 for every token.",
        breaks=in_all_choices(_zero_offsets),
    ),
    Defect(
        name="token-bytes-wrong",
        summary="`bytes` of a token have one byte more than the token.",
        breaks=in_choices(_spoil_bytes, paths=CHAT),
    ),
    Defect(
        name="prompt-logprobs-shifted",
        summary="The log probabilities of a prompt belong to the next token.",
        issue="vllm PR29216",
        breaks=in_documents(_shift_prompt),
    ),
    Defect(
        name="prompt-logprobs-ignored",
        summary="`prompt_logprobs` is ignored.",
        issue="vllm#14239",
        breaks=without_fields("prompt_logprobs"),
    ),
    Defect(
        name="decode-logprobs-off",
        summary="Generated tokens are a nat less likely than the same tokens in a prompt.",
        issue="vllm#45562",
        breaks=in_asked_documents(_lower_generated),
    ),
)
