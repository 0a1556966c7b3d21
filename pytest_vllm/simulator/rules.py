"""Grammars in EBNF, in the two dialects that vLLM's backends read."""

from __future__ import annotations

import re

from pytest_vllm.simulator.expressions import expression
from pytest_vllm.simulator.grammar import Chain, Either, GrammarError, Node, Repeat, Rule, literal

_RULE = re.compile(r"^\s*([?!]?[A-Za-z_][\w-]*)(?:\.\d+)?\s*(?:::=|:)", re.MULTILINE)
_TOKENS = re.compile(
    r'\s+|(?P<literal>"(?:\\.|[^"\\])*"i?)|(?P<regex>/(?:\\.|[^/\\])+/)'
    r"|(?P<class>\[(?:\\.|[^\]\\])*\])|(?P<name>[A-Za-z_][\w-]*)|(?P<mark>[()|*+?])"
    r"|(?P<comment>(?:#|//)[^\n]*)"
)
_ROOTS = ("root", "start")
_MOST = 8


def rules(text: str) -> Node:
    """Return the grammar of rules such as `root ::= "yes" | "no"`.

    Raises:
        GrammarError: They cannot be read, or there is no root.
    """
    heads = list(_RULE.finditer(text))
    if not heads:
        raise GrammarError("no rule was found")
    named: dict[str, Rule] = {}
    for head in heads:
        name = head[1].lstrip("?!")
        named.setdefault(name, Rule(name))
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        body = text[head.end() : following.start() if following else len(text)]
        named[head[1].lstrip("?!")].part = _Reader(body, named).whole()
    for root in _ROOTS:
        if root in named:
            return named[root]
    raise GrammarError("there is no rule 'root' or 'start'")


class _Reader:
    """Reads the right side of one rule."""

    def __init__(self, text: str, named: dict[str, Rule]) -> None:
        self._named = named
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        at = 0
        while at < len(text):
            match = _TOKENS.match(text, at)
            if match is None:
                raise GrammarError(f"unexpected {text[at : at + 20]!r}")
            if match.lastgroup not in {None, "comment"}:
                self._tokens.append((match.lastgroup or "", match[0]))
            at = match.end()

    def whole(self) -> Node:
        """Read everything."""
        node = self._options()
        if self._at < len(self._tokens):
            raise GrammarError(f"unexpected {self._tokens[self._at][1]!r}")
        return node

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _options(self) -> Node:
        found = [self._chain()]
        while self._peek() == "|":
            self._at += 1
            found.append(self._chain())
        return Either(found)

    def _chain(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in {"", "|", ")"}:
            part = self._atom()
            while self._peek() in {"*", "+", "?"}:
                sign = self._peek()
                self._at += 1
                part = Repeat(part, int(sign == "+"), 1 if sign == "?" else _MOST)
            parts.append(part)
        if not parts:
            raise GrammarError("an alternative is empty")
        return Chain(parts)

    def _atom(self) -> Node:
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "literal":
            return literal(_unescaped(text.rstrip("i")[1:-1]))
        if kind == "regex":
            return expression(text[1:-1])
        if kind == "class":
            return expression(text)
        if kind == "name":
            if text not in self._named:
                raise GrammarError(f"unknown name: {text!r}")
            return self._named[text]
        if text == "(":
            node = self._options()
            if self._peek() != ")":
                raise GrammarError("a group is not closed")
            self._at += 1
            return node
        raise GrammarError(f"unexpected {text!r}")


def _unescaped(text: str) -> str:
    controls = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda match: controls.get(match[1], match[1]), text)
