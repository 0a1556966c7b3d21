"""The tokenizer and the language model out of the shipped texts, made once for a process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

from pytest_vllm.simulator.model import LanguageModel
from pytest_vllm.simulator.template import render
from pytest_vllm.simulator.tokens import END_OF_TEXT, Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What the engine knows.

    Attributes:
        tokenizer: The tokenizer.
        model: The language model.
    """

    tokenizer: Tokenizer
    model: LanguageModel


@cache
def knowledge() -> Knowledge:
    """Learn the shipped texts; takes some 50 ms."""
    folder = resources.files("pytest_vllm.simulator")
    text = (folder / "corpus.txt").read_text("utf-8")
    turns = _turns((folder / "turns.txt").read_text("utf-8"))
    dialogues = [
        render([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])
        for asked, answer in turns
    ]
    tokenizer = Tokenizer(text + "\n".join(part for turn in turns for part in turn))
    learned = [*tokenizer.encode(text), END_OF_TEXT]
    model = LanguageModel(tokenizer.size, learned, tokenizer.encode("".join(dialogues)))
    return Knowledge(tokenizer=tokenizer, model=model)


def _turns(text: str) -> list[tuple[str, str]]:
    """Read lines that begin with `U ` and `A ` in turn."""
    lines = text.splitlines()
    return [
        (asked.removeprefix("U "), answer.removeprefix("A "))
        for asked, answer in zip(lines[::2], lines[1::2], strict=True)
    ]
