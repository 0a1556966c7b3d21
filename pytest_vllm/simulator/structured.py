"""Structured outputs: what a request constrains its text to, and which tokens keep to that."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.documents import any_object, document
from pytest_vllm.simulator.errors import ApiError, InvalidFieldsError, about, invalid
from pytest_vllm.simulator.expressions import expression
from pytest_vllm.simulator.grammar import Chain, Either, Grammar, GrammarError, Node, literal
from pytest_vllm.simulator.rules import rules
from pytest_vllm.simulator.tokens import TURN_END

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from pytest_vllm.simulator.distribution import Distribution
    from pytest_vllm.simulator.engine import Constraint
    from pytest_vllm.simulator.grammar import State
    from pytest_vllm.simulator.tokens import Tokenizer

_KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_LIKELY, _OTHERS = 48, 48


class GrammarConstraint:
    """Keeps one sequence within a grammar.

    Not all tokens that would fit are offered, but the likely ones and some of each kind, so that
    a long free text costs no search of the whole vocabulary.

    Args:
        tokenizer: Tokenizer of the model.
        grammar: What may be written.
    """

    def __init__(self, tokenizer: Tokenizer, grammar: Grammar) -> None:
        self._tokenizer = tokenizer
        self._pieces = tokenizer.pieces
        self._grammar = grammar
        self._state: State = grammar.start

    def allowed(self, raw: Distribution) -> Collection[int]:
        """Return tokens that may come next; the end of the turn where the text may end."""
        found: set[int] = set()
        for token in raw.top(_LIKELY):
            if token > TURN_END and self._grammar.move_all(self._state, self._pieces[token]):
                found.add(token)
        for token in self._search(_trie(self._tokenizer), self._state):
            found.add(token)
            if len(found) >= _LIKELY + _OTHERS:
                break
        if None in self._state or not found:
            found.add(TURN_END)
        return found

    def take(self, token: int) -> None:
        """Go on behind a token."""
        if token > TURN_END:
            self._state = self._grammar.move_all(self._state, self._pieces[token])

    def _search(self, node: _Trie, state: State) -> Iterator[int]:
        if node.token is not None:
            yield node.token
        for byte, child in node.children.items():
            behind = self._grammar.move(state, byte)
            if behind:
                yield from self._search(child, behind)


class _Trie:
    """Tokens by their bytes."""

    __slots__ = ("children", "token")

    def __init__(self) -> None:
        self.children: dict[int, _Trie] = {}
        self.token: int | None = None


@lru_cache(maxsize=4)
def _trie(tokenizer: Tokenizer) -> _Trie:
    root = _Trie()
    for token, piece in enumerate(tokenizer.pieces):
        if token > TURN_END and not piece.startswith(b"<tool") and not piece.startswith(b"</tool"):
            node = root
            for byte in piece:
                node = node.children.setdefault(byte, _Trie())
            node.token = token
    return root


def constraint_factory(
    tokenizer: Tokenizer, values: Mapping[str, Any]
) -> Callable[[], Constraint] | None:
    """Return what makes a constraint for each sequence, `None` for free text.

    Args:
        tokenizer: Tokenizer of the model.
        values: Fields of the request.

    Raises:
        ApiError: What is asked for cannot be meant.
    """
    asked = _asked(values)
    if asked is None:
        return None
    kind, what = asked
    grammar = _compiled(kind, json.dumps(what))
    return lambda: GrammarConstraint(tokenizer, grammar)


def tool_constraint_factory(
    tokenizer: Tokenizer, functions: Sequence[Mapping[str, Any]]
) -> Callable[[], Constraint]:
    """Return what keeps a text within a call of one of the functions.

    Raises:
        ApiError: The parameters of one are no schema.
    """
    grammar = _compiled("call", json.dumps(list(functions)))
    return lambda: GrammarConstraint(tokenizer, grammar)


def _asked(values: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return the kind of the constraint and its content."""
    asked = values.get("response_format")
    if asked is not None:
        return _format(asked)
    structured = values.get("structured_outputs")
    if structured is None:
        return None
    given = {
        kind: structured[kind]
        for kind in _KINDS
        if structured.get(kind) is not None and structured[kind] is not False
    }
    if not given:
        raise ApiError(
            "You must use one kind of structured outputs constraint but none are specified: "
            f"{structured}"
        )
    if len(given) > 1:
        raise ApiError(
            "You can only use one kind of constraints for structured outputs "
            "('json', 'regex' or 'choice')."
        )
    kind, what = next(iter(given.items()))
    if kind == "choice" and not what:
        raise ApiError(f"Choice '{what}' cannot be an empty list")
    return kind, what


def _format(asked: Mapping[str, Any]) -> tuple[str, Any] | None:
    kind = asked.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return "json_object", True
    if kind == "json_schema":
        schema = asked.get("json_schema")
        if schema is None:
            raise about(
                "When response_format type is 'json_schema', the 'json_schema' field must be "
                "provided.",
                "response_format",
            )
        if not isinstance(schema, dict) or schema.get("schema", schema) is None:
            raise ApiError("Grammar error: no schema")
        return "json", schema.get("schema", {"type": "object"})
    place = "body.response_format.type"
    expected = "'text', 'json_object' or 'json_schema'"
    entry = invalid("literal_error", place, f"Input should be {expected}", kind, expected=expected)
    raise InvalidFieldsError([entry])


@lru_cache(maxsize=256)
def _compiled(kind: str, text: str) -> Grammar:
    """Return the grammar of a constraint; its content comes as JSON, so that it can be kept."""
    try:
        return Grammar(_node(kind, json.loads(text)))
    except (GrammarError, RecursionError) as error:
        raise ApiError(f"Grammar error: {error}") from None
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ApiError(f"Grammar error: invalid {kind}: {type(error).__name__}") from None


def _node(kind: str, what: Any) -> Node:
    if kind == "json":
        return document(json.loads(what) if isinstance(what, str) else what)
    if kind == "json_object":
        return any_object()
    if kind == "regex":
        return expression(what)
    if kind == "choice":
        return Either(literal(one) for one in what)
    if kind == "grammar":
        return rules(what)
    if kind == "call":
        return Either(_call(function) for function in what)
    raise GrammarError(f"{kind} is not supported")


def _call(function: Mapping[str, Any]) -> Node:
    head = f'<tool_call>\n{{"name": {json.dumps(function["name"])}, "arguments": '
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if parameters.get("type", "object") == "object" and not parameters.get("properties"):
        arguments: Node = literal("{}")
    else:
        arguments = document(parameters)
    return Chain([literal(head), arguments, literal("}\n</tool_call>")])
