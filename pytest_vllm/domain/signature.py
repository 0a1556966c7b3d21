"""How a known failure looks: data that `domain.diagnosis` compares a log with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.finding import Fault
from pytest_vllm.domain.needle import needle_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ID = re.compile(r"[a-z]+\.[a-z0-9-]+")
_REF = re.compile(r"[DGHQ]\d{1,2}")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_KEYS = frozenset(
    {
        *("id", "ref", "class", "patterns", "follows", "hints", "requests", "details"),
        *("cause", "cure", "link", "fatal", "serving", "figures", "count", "hang", "exit"),
        *("excerpt", "excerpt_exit", "excerpt_source"),
    }
)
_REQUIRED = ("id", "ref", "class", "cause", "cure", "link", "excerpt")
_EXIT_KEYS = frozenset(("codes", "oom_killed", "no_vllm_line"))
_HANG_KEYS = frozenset(("until",))


class SignatureError(ValueError):
    """A table that is no signature; the message names the key."""


class Role(StrEnum):
    """What a match is worth; each is the key of a list of patterns."""

    CAUSE = "patterns"
    """The line names the cause."""
    CONSEQUENCE = "follows"
    """The line follows from a cause that may stand elsewhere: it counts when none is found."""
    HINT = "hints"
    """Healthy servers print it, too: it counts in a failed log that names nothing better."""
    REQUEST = "requests"
    """A request was refused; the server is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A regular expression with what makes it cheap.

    Attributes:
        regex: The expression, searched in one line without its prefixes.
        needle: A text that every matching line holds; empty when none can be told.
        role: What a match is worth.
    """

    regex: re.Pattern[str]
    needle: str
    role: Role = Role.CAUSE

    def search(self, text: str) -> re.Match[str] | None:
        """Search, after the quick look for the needle."""
        return self.regex.search(text) if self.needle in text else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """An end of the server that is a sign by itself.

    Attributes:
        codes: Exit codes.
        oom_killed: Whether the kernel's killing for want of memory is the sign.
        no_vllm_line: Whether the code only counts when the log has no line of vLLM.
    """

    codes: tuple[int, ...] = ()
    oom_killed: bool = False
    no_vllm_line: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A known failure.

    Attributes:
        id: Stable name such as `gpu.free-memory`.
        ref: Row of the failure table, such as `G7`.
        fault: Who has to do something.
        patterns: Any of them matches a line; their named groups fill the templates.
        details: Patterns that fill further names of the templates from other lines.
        cause: Templates of the cause; the first whose names are all filled is taken.
        cure: Templates of the cure, alike.
        link: Where it was described.
        fatal: Whether one line that names the cause proves that a start has failed.
        serving: Whether it only counts once the server was up.
        figures: Computations that fill further names, see `domain.figures`.
        count: How many lines have to match.
        hang: `None` unless the log has to end there; then what shows that it went on.
        exit: An end of the server that is a sign without any line.
        excerpt: Lines of a log that show it: its own test.
        excerpt_exit: Exit code that belongs to the excerpt.
        excerpt_source: Where the lines come from when they are not a log's.
    """

    id: str
    ref: str
    fault: Fault
    patterns: tuple[Pattern, ...] = ()
    details: tuple[Pattern, ...] = ()
    cause: tuple[str, ...]
    cure: tuple[str, ...]
    link: str
    fatal: bool = False
    serving: bool = False
    figures: tuple[str, ...] = ()
    count: int = 1
    hang: tuple[Pattern, ...] | None = None
    exit: Exit | None = None
    excerpt: tuple[str, ...] = ()
    excerpt_exit: int | None = None
    excerpt_source: str = ""

    def search(self, text: str) -> re.Match[str] | None:
        """Return the first match of a line."""
        return next((match for pattern in self.patterns if (match := pattern.search(text))), None)


def build_signatures(
    tables: Iterable[Mapping[str, Any]], *, figures: Iterable[str]
) -> tuple[Signature, ...]:
    """Build signatures from the tables of one file.

    Args:
        tables: What TOML holds under `signature`.
        figures: Names of the computations that exist.

    Raises:
        SignatureError: A table is wrong; the message names it and the key.
    """
    known = frozenset(figures)
    built: list[Signature] = []
    for number, table in enumerate(tables, 1):
        name = f"signature {number} ({table.get('id', 'without id')})"
        try:
            built.append(_build(table, known))
        except SignatureError as error:
            raise SignatureError(f"{name}: {error}") from None
    return tuple(built)


def _build(table: Mapping[str, Any], figures: frozenset[str]) -> Signature:
    _refuse_unknown(table, _KEYS)
    for key in _REQUIRED:
        if key not in table:
            raise SignatureError(f"key {key} is missing")
    signature = Signature(
        id=_matching(table, "id", _ID),
        ref=_matching(table, "ref", _REF),
        fault=_fault(table),
        patterns=tuple(pattern for role in Role for pattern in _patterns(table, role)),
        details=_patterns(table, "details"),
        cause=_texts(table, "cause"),
        cure=_texts(table, "cure"),
        link=_matching(table, "link", re.compile(r"https://\S+")),
        fatal=_flag(table, "fatal"),
        serving=_flag(table, "serving"),
        figures=_texts(table, "figures"),
        count=_number(table, "count", 1),
        hang=_hang(table),
        exit=_exit(table),
        excerpt=_texts(table, "excerpt"),
        excerpt_exit=_number(table, "excerpt_exit", 0) if "excerpt_exit" in table else None,
        excerpt_source=str(table.get("excerpt_source", "")),
    )
    if not signature.patterns and signature.exit is None:
        raise SignatureError(f"key {', '.join(Role)} or exit is needed: nothing could match")
    if unknown := set(signature.figures) - figures:
        raise SignatureError(f"key figures: {', '.join(sorted(unknown))} does not exist")
    if signature.fatal and (signature.hang is not None or not table.get(Role.CAUSE)):
        raise SignatureError("key fatal: only a line that names the cause proves a failure")
    return signature


def filled(templates: Iterable[str], values: Mapping[str, str]) -> str:
    """Return the first template whose names all have values, with these put in."""
    for template in templates:
        if all(values.get(name) for name in _PLACEHOLDER.findall(template)):
            return _PLACEHOLDER.sub(lambda match: values[match[1]], template)
    return ""


def _refuse_unknown(table: Mapping[str, Any], known: frozenset[str]) -> None:
    if unknown := set(table) - known:
        raise SignatureError(f"key {', '.join(sorted(unknown))} is not known")


def _matching(table: Mapping[str, Any], key: str, form: re.Pattern[str]) -> str:
    value = table[key]
    if not isinstance(value, str) or not form.fullmatch(value):
        raise SignatureError(f"key {key}: {value!r} is not of the form {form.pattern}")
    return value


def _fault(table: Mapping[str, Any]) -> Fault:
    try:
        return Fault(table["class"])
    except ValueError:
        names = ", ".join(Fault)
        raise SignatureError(f"key class: {table['class']!r} is none of {names}") from None


def _texts(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise SignatureError(f"key {key}: a text or a list of texts is needed")
    return tuple(texts)


def _patterns(table: Mapping[str, Any], key: str) -> tuple[Pattern, ...]:
    patterns = []
    for text in _texts(table, key):
        try:
            role = Role(key) if key in tuple(Role) else Role.CAUSE
            patterns.append(Pattern(regex=re.compile(text), needle=needle_of(text), role=role))
        except re.error as error:
            raise SignatureError(f"key {key}: {text!r} is no regular expression: {error}") from None
    return tuple(patterns)


def _flag(table: Mapping[str, Any], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise SignatureError(f"key {key}: true or false is needed")
    return value


def _number(table: Mapping[str, Any], key: str, least: int) -> int:
    value = table.get(key, least)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SignatureError(f"key {key}: a whole number from {least} is needed")
    return value


def _section(table: Mapping[str, Any], key: str, known: frozenset[str]) -> Mapping[str, Any] | None:
    section = table.get(key)
    if section is None:
        return None
    if not isinstance(section, dict):
        raise SignatureError(f"key {key}: a table is needed")
    _refuse_unknown(section, known)
    return section


def _hang(table: Mapping[str, Any]) -> tuple[Pattern, ...] | None:
    section = _section(table, "hang", _HANG_KEYS)
    return None if section is None else _patterns(section, "until")


def _exit(table: Mapping[str, Any]) -> Exit | None:
    section = _section(table, "exit", _EXIT_KEYS)
    if section is None:
        return None
    codes = section.get("codes", [])
    if not isinstance(codes, list) or not all(isinstance(code, int) for code in codes):
        raise SignatureError("key exit.codes: a list of whole numbers is needed")
    return Exit(
        codes=tuple(codes),
        oom_killed=_flag(section, "oom_killed"),
        no_vllm_line=_flag(section, "no_vllm_line"),
    )
