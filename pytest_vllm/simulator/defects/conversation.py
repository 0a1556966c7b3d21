"""Defects of chat: what of a conversation reaches the model, and through which template."""

from __future__ import annotations

import re
from typing import Any

from pytest_vllm.simulator.defects.defect import Defect
from pytest_vllm.simulator.defects.hooks import (
    CHAT,
    Document,
    chained,
    in_asked_documents,
    in_bodies,
    in_documents,
)

_FIRST_MARK = re.compile(r"<[^<>]{1,40}>")


def _without_system(body: Document) -> None:
    messages = body.get("messages")
    if isinstance(messages, list):
        rest = [
            turn
            for turn in messages
            if not isinstance(turn, dict) or turn.get("role") not in ("system", "developer")
        ]
        body["messages"] = rest or messages


def _last_turn(body: Document) -> None:
    if isinstance(body.get("messages"), list):
        body["messages"] = body["messages"][-1:]


def _first_part(body: Document) -> None:
    for turn in body.get("messages") or []:
        if isinstance(turn, dict) and isinstance(turn.get("content"), list):
            turn["content"] = turn["content"][:1]


def _without_prompt(body: Document) -> None:
    if not body.get("continue_final_message"):
        body["add_generation_prompt"] = False


def _new_turn(body: Document) -> None:
    if body.pop("continue_final_message", None):
        body["add_generation_prompt"] = True


def _double_in_chat(document: Document) -> None:
    ids = document.get("prompt_token_ids")
    if ids:
        document["prompt_token_ids"] = [ids[0], *ids]
    text = document.get("prompt_text")
    mark = _FIRST_MARK.match(text) if isinstance(text, str) else None
    if mark:
        document["prompt_text"] = mark[0] + str(text)
    usage = document.get("usage")
    if usage:
        usage["prompt_tokens"] += 1
        usage["total_tokens"] += 1


def _double_in_tokens(document: Document, asked: Document) -> None:
    if "messages" not in asked:
        return
    document["count"] += 1
    for name in ("tokens", "token_strs"):
        found: list[Any] | None = document.get(name)
        if found:
            document[name] = [found[0], *found]


DEFECTS = (
    Defect(
        name="system-ignored",
        summary="System messages do not reach the model.",
        breaks=in_bodies(_without_system, paths=CHAT),
    ),
    Defect(
        name="turns-forgotten",
        summary="Only the last message of a conversation reaches the model.",
        breaks=in_bodies(_last_turn, paths=CHAT),
    ),
    Defect(
        name="content-parts-first-only",
        summary="Only the first part of a content list reaches the model.",
        breaks=in_bodies(_first_part, paths=CHAT),
    ),
    Defect(
        name="bos-doubled",
        summary="A conversation begins with its first special token twice.",
        issue="vllm#2012",
        breaks=chained(
            in_documents(_double_in_chat, paths=CHAT),
            in_asked_documents(_double_in_tokens, paths=("/tokenize",)),
        ),
    ),
    Defect(
        name="generation-prompt-missing",
        summary="Chat is rendered without the opening of the assistant's turn.",
        breaks=in_bodies(_without_prompt, paths=CHAT),
    ),
    Defect(
        name="continue-ignored",
        summary="`continue_final_message` is ignored: a new turn begins.",
        breaks=in_bodies(_new_turn, paths=CHAT),
    ),
    Defect(
        name="eos-ignored",
        summary="Chat goes on after the token that ends a turn.",
        breaks=in_bodies(lambda body: body.update(ignore_eos=True), paths=CHAT),
    ),
)
