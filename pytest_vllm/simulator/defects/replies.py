"""Defects of complete replies: accounting, choices, finish reasons and text."""

from __future__ import annotations

from typing import Any

from pytest_vllm.simulator.defects.defect import Defect
from pytest_vllm.simulator.defects.hooks import (
    COMPLETIONS,
    Document,
    in_all_choices,
    in_asked_documents,
    in_choices,
    in_documents,
    set_text,
    text_of,
)

_SUBSTITUTED = 7
_SUBSTITUTED_EVERY = 20


def _count_prompt(document: Document, more: int) -> None:
    usage = document.get("usage") or {}
    if "prompt_tokens" in usage:
        usage["prompt_tokens"] += more
        usage["total_tokens"] += more


def _count_less_completion(document: Document) -> None:
    usage = document["usage"]
    if usage["completion_tokens"] > 1:  # else the server would not even count as ready
        usage["completion_tokens"] -= 1
        usage["total_tokens"] -= 1


def _count_more_total(document: Document) -> None:
    document["usage"]["total_tokens"] += 1


def _count_first_prompt(document: Document, asked: Document) -> None:
    prompts = asked.get("prompt")
    if isinstance(prompts, list) and len(prompts) > 1 and not isinstance(prompts[0], int):
        tokens = document["usage"]["prompt_tokens"]
        _count_prompt(document, tokens // len(prompts) - tokens)


def _cache_too_much(document: Document) -> None:
    usage = document.get("usage")
    if usage:
        usage["prompt_tokens_details"] = {"cached_tokens": usage["prompt_tokens"] + 16}


def _swap_reasons(choice: Document) -> None:
    swapped = {"length": "stop", "stop": "length"}
    reason = choice.get("finish_reason")
    choice["finish_reason"] = swapped.get(str(reason), reason)


def _swap_choices(document: Document) -> None:
    last = len(document["choices"]) - 1
    for choice in document["choices"]:
        choice["index"] = last - choice["index"]
    document["choices"].reverse()


def _one_index(choice: Document) -> None:
    choice["index"] = 0


def _copy_first(document: Document, asked: Document) -> None:
    if not isinstance(asked.get("n"), int):
        return
    first = document["choices"][0]
    for choice in document["choices"]:
        choice.update({**first, "index": choice["index"]})


def _first_prompt_only(document: Document, asked: Document) -> None:
    prompts = asked.get("prompt")
    if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int):
        document["choices"] = document["choices"][:1]


def _shift_ids(choice: Document) -> None:
    if choice.get("token_ids"):
        choice["token_ids"] = [max(0, token - 1) for token in choice["token_ids"]]


def _substitute(choice: Document) -> None:
    """Put another token at one place in twenty, everywhere a reply tells its tokens."""
    logprobs = choice.get("logprobs") or {}
    tokens = logprobs.get("tokens")
    content = logprobs.get("content")
    before = tokens or [entry["token"] for entry in content or []]
    after = [_other(token, place) for place, token in enumerate(before)]
    text = text_of(choice)
    if after and "".join(before) == text:
        set_text(choice, "".join(after))
    else:
        words = text.split(" ")
        set_text(choice, " ".join(_other(word, place) for place, word in enumerate(words)))
    if tokens:
        logprobs["tokens"] = after
    for entry, token in zip(content or [], after, strict=False):
        entry.update(token=token, bytes=list(token.encode()))
    if choice.get("token_ids"):
        ids = choice["token_ids"]
        choice["token_ids"] = [
            token ^ 1 if _is_substituted(place) else token for place, token in enumerate(ids)
        ]


def _other(spelling: str, place: int) -> str:
    return " xyz" if _is_substituted(place) else spelling


def _is_substituted(place: int) -> bool:
    return place % _SUBSTITUTED_EVERY == _SUBSTITUTED


def _constant(choice: Document) -> None:
    """Say token 0 over and over, as an argmax over NaN does."""
    logprobs = choice.get("logprobs") or {}
    for entry in logprobs.get("content") or []:
        entry.update({"token": "!", "bytes": [33]})
    if logprobs.get("tokens"):
        logprobs["tokens"] = ["!"] * len(logprobs["tokens"])
    if choice.get("token_ids"):
        choice["token_ids"] = [0] * len(choice["token_ids"])
    set_text(choice, "!" * len(text_of(choice)))


def _edit(change: Any) -> Any:
    def edited(choice: Document) -> None:
        text = text_of(choice)
        if text:
            set_text(choice, change(text))

    return edited


def _leak_end(choice: Document) -> None:
    ended = choice.get("finish_reason") == "stop" and not choice.get("stop_reason")
    if ended and "text" not in choice:
        set_text(choice, f"{text_of(choice)}<|im_end|>")


def _leak_reasoning(choice: Document) -> None:
    first = (choice.get("message") or choice.get("delta") or {}).get("role")
    if first and not choice.get("message", {}).get("tool_calls"):
        set_text(choice, f"<think>\nLet me see.\n</think>\n\n{text_of(choice)}")


DEFECTS = (
    Defect(
        name="prompt-tokens-plus-one",
        summary="`usage.prompt_tokens` is one too many.",
        breaks=in_documents(lambda body: _count_prompt(body, 1)),
    ),
    Defect(
        name="completion-tokens-minus-one",
        summary="`usage.completion_tokens` is one too few.",
        breaks=in_documents(_count_less_completion),
    ),
    Defect(
        name="total-tokens-plus-one",
        summary="`usage.total_tokens` is not the sum of its parts.",
        breaks=in_documents(_count_more_total),
    ),
    Defect(
        name="usage-missing",
        summary="A complete reply has no usage.",
        breaks=in_asked_documents(
            # One token at a time still has it: else the server would not even count as ready.
            lambda body, asked: body.pop("usage") if asked.get("max_tokens") != 1 else None
        ),
    ),
    Defect(
        name="batch-usage-first-only",
        summary="The usage of several prompts counts one of them.",
        issue="vllm PR58116",
        breaks=in_asked_documents(_count_first_prompt, paths=COMPLETIONS),
    ),
    Defect(
        name="cached-tokens-wrong",
        summary="Usage tells more cached tokens than the prompt has.",
        issue="vllm PR58116",
        breaks=in_documents(_cache_too_much),
    ),
    Defect(
        name="finish-reason-swapped",
        summary="The finish reasons `length` and `stop` are swapped.",
        breaks=in_choices(_swap_reasons),
    ),
    Defect(
        name="finish-reason-null",
        summary="A complete reply has no finish reason.",
        breaks=in_choices(lambda choice: choice.update(finish_reason=None)),
    ),
    Defect(
        name="finish-reason-missing",
        summary="A complete reply lacks the key `finish_reason`.",
        issue="vllm PR19662",
        breaks=in_choices(lambda choice: choice.pop("finish_reason", None)),
    ),
    Defect(
        name="finish-reason-unknown",
        summary="The finish reason is `eos_token`, which no client knows.",
        breaks=in_choices(lambda choice: choice.update(finish_reason="eos_token")),
    ),
    Defect(
        name="choices-swapped",
        summary="The choices of a reply have each other's index.",
        breaks=in_documents(_swap_choices),
    ),
    Defect(
        name="index-constant",
        summary="Every choice has the index 0.",
        breaks=in_choices(_one_index),
    ),
    Defect(
        name="n-identical",
        summary="All `n` choices are copies of the first.",
        breaks=in_asked_documents(_copy_first),
    ),
    Defect(
        name="batch-first-only",
        summary="Only the first of several prompts is answered.",
        breaks=in_asked_documents(_first_prompt_only, paths=COMPLETIONS),
    ),
    Defect(
        name="text-empty",
        summary="The text is empty although tokens are counted.",
        issue="vllm#37996",
        breaks=in_choices(_edit(lambda _text: "")),
    ),
    Defect(
        name="last-character-cut",
        summary="The last character of a complete reply is lost.",
        breaks=in_choices(_edit(lambda text: text[:-1])),
    ),
    Defect(
        name="whitespace-stripped",
        summary="A complete reply loses the blanks at its beginning and end.",
        breaks=in_choices(_edit(str.strip)),
    ),
    Defect(
        name="token-ids-wrong",
        summary="`token_ids` are not the tokens of the text.",
        breaks=in_choices(_shift_ids),
    ),
    Defect(
        name="tokens-substituted",
        summary="One token in twenty of a complete reply is another one.",
        issue="vllm PR46386",
        breaks=in_choices(_substitute),
    ),
    Defect(
        name="constant-token",
        summary="Every reply repeats token 0, shown as `!`.",
        issue="vllm#37996",
        breaks=in_all_choices(_constant),
    ),
    Defect(
        name="stop-reason-missing",
        summary="`stop_reason` is always null.",
        breaks=in_all_choices(lambda choice: choice.update(stop_reason=None)),
    ),
    Defect(
        name="role-wrong",
        summary="A chat reply is of the role `user`.",
        breaks=in_choices(lambda choice: choice.get("message", {}).update(role="user")),
    ),
    Defect(
        name="content-null",
        summary="A chat reply has null for its content.",
        breaks=in_choices(lambda choice: choice.get("message", {}).update(content=None)),
    ),
    Defect(
        name="special-tokens-leaked",
        summary="The end token stands in the text of a chat reply.",
        breaks=in_all_choices(_leak_end),
    ),
    Defect(
        name="reasoning-leaked",
        summary="The content of a chat reply begins with the model's marked reasoning.",
        breaks=in_all_choices(_leak_reasoning),
    ),
)
