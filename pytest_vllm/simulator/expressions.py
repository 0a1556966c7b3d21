"""Regular expressions as grammars.

Classes that exclude characters, and the dot, stand for printable ASCII: what is generated keeps to
the expression, though not everything that the expression allows is generated.
"""

from __future__ import annotations

from pytest_vllm.simulator.grammar import (
    PRINTABLE,
    Chain,
    Either,
    GrammarError,
    Node,
    OneOf,
    Repeat,
    characters,
    literal,
)

_DIGITS = frozenset(range(0x30, 0x3A))
_WORD = frozenset(byte for byte in PRINTABLE if chr(byte).isalnum()) | {0x5F}
_CLASSES = {
    "d": _DIGITS,
    "D": PRINTABLE - _DIGITS,
    "w": _WORD,
    "W": PRINTABLE - _WORD,
    "s": frozenset({0x20}),
    "S": PRINTABLE - {0x20},
}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_MOST = 16
"""How often a part without an upper bound comes at most."""


def expression(text: str) -> Node:
    """Return the grammar of a regular expression that matches the whole text.

    Raises:
        GrammarError: It is none.
    """
    reader = _Reader(text)
    node = reader.options()
    if reader.at < len(text):
        raise reader.error("unopened group")
    return node


class _Reader:
    """Reads one expression."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def error(self, problem: str) -> GrammarError:
        """Return an error in the shape of the real grammar library."""
        shown = self.text if len(self.text) < 200 else self.text[:200]  # noqa: PLR2004 - one line
        return GrammarError(
            f'invalid regex "{shown}" (in regex): regex parse error:\n    {shown}\n    '
            f"{' ' * min(self.at, 200)}^\nerror: {problem}"
        )

    def options(self) -> Node:
        """Read alternatives up to the end of the group."""
        found = [self._chain()]
        while self._peek() == "|":
            self.at += 1
            found.append(self._chain())
        return found[0] if len(found) == 1 else Either(found)

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, problem: str) -> str:
        if self.at >= len(self.text):
            raise self.error(problem)
        self.at += 1
        return self.text[self.at - 1]

    def _chain(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in {"", "|", ")"}:
            if self._peek() in {"^", "$"}:
                self.at += 1
                continue
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Chain(parts)

    def _atom(self) -> Node:
        one = self._take("nothing to read")
        if one == "(":
            return self._group()
        if one == "[":
            return characters(self._class())
        if one == ".":
            return OneOf(PRINTABLE)
        if one in "*+?{":
            self.at -= 1
            raise self.error("repetition operator missing expression")
        if one == "\\":
            escaped = self._escape()
            return OneOf(escaped) if isinstance(escaped, frozenset) else literal(escaped)
        return literal(one)

    def _group(self) -> Node:
        if self._peek() == "?":
            head = self.text[self.at : self.at + 2]
            if head == "?:":
                self.at += 2
            elif head in {"?P", "?<"} and ">" in self.text[self.at :]:
                self.at = self.text.index(">", self.at) + 1
            else:
                raise self.error("look-around is not supported")
        node = self.options()
        if self._take("unclosed group") != ")":
            raise self.error("unclosed group")
        return node

    def _escape(self) -> frozenset[int] | str:
        one = self._take("incomplete escape sequence")
        if one in _CLASSES:
            return _CLASSES[one]
        if one in {"x", "u"}:
            width = 2 if one == "x" else 4
            digits = self.text[self.at : self.at + width]
            try:
                self.at += width
                return chr(int(digits, 16))
            except ValueError:
                raise self.error("invalid escape sequence") from None
        if one in "bBAZz":
            return ""
        return _CONTROLS.get(one, one)

    def _class(self) -> frozenset[str]:
        negated = self._peek() == "^"
        self.at += negated
        found: set[str] = set()
        first = True
        while True:
            one = self._take("unclosed character class")
            if one == "]" and not first:
                break
            first = False
            if one == "\\":
                escaped = self._escape()
                if isinstance(escaped, frozenset):
                    found |= {chr(byte) for byte in escaped}
                    continue
                one = escaped
            if self._peek() == "-" and self.text[self.at + 1 : self.at + 2] not in {"", "]"}:
                self.at += 1
                last = self._take("unclosed character class")
                if last == "\\":
                    escaped = self._escape()
                    last = escaped if isinstance(escaped, str) else "-"
                if last < one:
                    raise self.error("invalid character class range")
                found |= {chr(code) for code in range(ord(one), min(ord(last), ord(one) + 512) + 1)}
            else:
                found.add(one)
        if negated:
            return frozenset(chr(byte) for byte in PRINTABLE) - found
        return frozenset(found)

    def _repeated(self, node: Node) -> Node:
        while (one := self._peek()) in {"*", "+", "?", "{"} and one:
            if one == "{":
                bounds = self._bounds()
                if bounds is None:
                    return node
                least, most = bounds
            else:
                self.at += 1
                least, most = {"*": (0, _MOST), "+": (1, _MOST), "?": (0, 1)}[one]
            if self._peek() in {"?", "+"}:
                self.at += 1
            node = Repeat(node, least, most)
        return node

    def _bounds(self) -> tuple[int, int] | None:
        end = self.text.find("}", self.at)
        if end < 0:
            raise self.error("unclosed counted repetition")
        low, comma, high = self.text[self.at + 1 : end].partition(",")
        if not low.isdigit() or (high and not high.isdigit()):
            raise self.error("repetition quantifier expects a valid decimal")
        self.at = end + 1
        least = int(low)
        if not comma:
            return least, least
        most = int(high) if high else least + _MOST
        if most < least:
            raise self.error("invalid repetition count range")
        return least, most
