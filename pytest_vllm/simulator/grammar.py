"""What may be written: grammars as small graphs, and all the places where a text may be in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    Stack = tuple["Node", "Stack"] | None
    State = frozenset[Stack]


class GrammarError(Exception):
    """A grammar that cannot be meant."""


class Node:
    """One part of a grammar; two are the same only if they are one object."""

    __slots__ = ()

    def expand(self, rest: Stack, found: set[Stack], seen: set[object]) -> None:
        """Add the places where the next byte may come, before going on with `rest`."""
        raise NotImplementedError


class OneOf(Node):
    """One byte out of several."""

    __slots__ = ("allowed",)

    def __init__(self, allowed: Iterable[int]) -> None:
        self.allowed = frozenset(allowed)

    def expand(self, rest: Stack, found: set[Stack], seen: set[object]) -> None:
        """Wait here for the byte."""
        del seen
        found.add((self, rest))


class Chain(Node):
    """Parts one after the other."""

    __slots__ = ("parts",)

    def __init__(self, parts: Iterable[Node]) -> None:
        self.parts = tuple(parts)

    def expand(self, rest: Stack, found: set[Stack], seen: set[object]) -> None:
        """Go into the first part."""
        for part in reversed(self.parts):
            rest = (part, rest)
        go_on(rest, found, seen)


class Either(Node):
    """One of several parts."""

    __slots__ = ("options",)

    def __init__(self, options: Iterable[Node]) -> None:
        self.options = tuple(options)

    def expand(self, rest: Stack, found: set[Stack], seen: set[object]) -> None:
        """Go into each option."""
        for option in self.options:
            go_on((option, rest), found, seen)


class Repeat(Node):
    """A part several times."""

    __slots__ = ("_next", "least", "most", "part")

    def __init__(self, part: Node, least: int, most: int | None) -> None:
        self.part = part
        self.least = least
        self.most = most
        self._next: Repeat | None = None

    def expand(self, rest: Stack, found: set[Stack], seen: set[object]) -> None:
        """Go behind the part if it came often enough, and into it if it may come again."""
        if not self.least:
            go_on(rest, found, seen)
        if self.most != 0:
            if self._next is None:
                most = None if self.most is None else self.most - 1
                unbounded = most is None and not self.least
                self._next = self if unbounded else Repeat(self.part, max(0, self.least - 1), most)
            go_on((self.part, (self._next, rest)), found, seen)


class Rule(Node):
    """A part with a name, which may use itself."""

    __slots__ = ("name", "part")

    def __init__(self, name: str) -> None:
        self.name = name
        self.part: Node | None = None

    def expand(self, rest: Stack, found: set[Stack], seen: set[object]) -> None:
        """Go into the part."""
        if self.part is None:
            raise GrammarError(f"unknown name: {self.name!r}")
        go_on((self.part, rest), found, seen)


def go_on(stack: Stack, found: set[Stack], seen: set[object]) -> None:
    """Add the places where the next byte may come; `None` is the end."""
    if stack is None:
        found.add(None)
        return
    if stack in seen:
        return
    seen.add(stack)
    stack[0].expand(stack[1], found, seen)


class Grammar:
    """All texts that a node allows.

    Args:
        node: The grammar.

    Raises:
        GrammarError: It uses a name that it does not have.
    """

    def __init__(self, node: Node) -> None:
        found: set[Stack] = set()
        try:
            go_on((node, None), found, set())
        except RecursionError:
            raise GrammarError("a rule begins with itself") from None
        self.start: State = frozenset(found)
        self._moves: dict[tuple[State, int], State] = {}

    def move(self, state: State, byte: int) -> State:
        """Return the state behind a byte, empty when it is not allowed."""
        key = (state, byte)
        known = self._moves.get(key)
        if known is None:
            found: set[Stack] = set()
            seen: set[object] = set()
            for stack in state:
                if stack is not None:
                    node, rest = stack
                    assert isinstance(node, OneOf)  # noqa: S101 - expand() ends at nothing else
                    if byte in node.allowed:
                        go_on(rest, found, seen)
            known = frozenset(found)
            self._moves[key] = known
        return known

    def move_all(self, state: State, data: bytes) -> State:
        """Return the state behind several bytes."""
        for byte in data:
            state = self.move(state, byte)
            if not state:
                break
        return state


PRINTABLE = frozenset(range(0x20, 0x7F))


def literal(text: str) -> Node:
    """Return a grammar of one text."""
    return Chain(OneOf([byte]) for byte in text.encode())


def characters(allowed: Iterable[str]) -> Node:
    """Return a grammar of one character out of several."""
    listed = sorted(set(allowed))
    plain = [ord(one) for one in listed if one.isascii()]
    others = [literal(one) for one in listed if not one.isascii()]
    if not others:
        return OneOf(plain)
    return Either([OneOf(plain), *others])
