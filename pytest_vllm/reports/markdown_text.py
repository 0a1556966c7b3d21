"""Markdown of foreign text, and how much of it a summary on GitHub has room for."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pytest_vllm.domain.text import one_line, printable
from pytest_vllm.reports.exchanges import BODY_SHOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_T = TypeVar("_T")
ROWS_SHOWN = 200
_LINKED = re.compile(r"://|@|www\.|#\d", re.IGNORECASE)
"""What GitHub makes a link of wherever it stands, but in code."""
_MARKUP = re.compile(r"([\\*_{}\[\]()#+!|~$])")
_LIST_MARK = re.compile(r"^(\d*)([-.)])")
_WHOLE_LINES = ("|", "- ")
_NOTE_BYTES = 120


@dataclass(frozen=True, slots=True)
class Rows:
    """A table or a list of the first rows that there are.

    Attributes:
        text: The rows in Markdown.
        left: How many more there are.
    """

    text: str
    left: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its heading, empty for none.
        blocks: Tables, lists, fenced blocks and paragraphs.
        most: Bytes that it may have.
    """

    title: str
    blocks: tuple[str | Rows, ...]
    most: int = 40_000

    def fitted(self) -> tuple[str, bool]:
        """Return it within its bytes, and whether something was left out.

        A table or a list loses its last rows; a block that does not fit is left out whole.
        """
        room = self.most - _NOTE_BYTES
        shown, lost = [], 0
        for block in self.blocks:
            whole, left = (block, 0) if isinstance(block, str) else (block.text, block.left)
            lost += left
            if not whole:
                continue
            part = _cut(whole, room)
            room -= size(part)
            shown += [part] if part else []
            lost += whole.count("\n") - part.count("\n") + (not part)
        if not shown and not lost:
            return "", False
        note = [left_out(lost, "lines")] if lost else []
        head = [f"## {self.title}"] if self.title else []
        return "\n\n".join([*head, *shown, *note]), bool(lost)


def left_out(count: int, what: str) -> str:
    """Say what a page has no room for."""
    return f"**{count} more {what} are left out here for their size; `run.json` has them.**"


def size(text: str) -> int:
    """Return the bytes that a part takes, with the blank line behind it."""
    return len(text.encode("utf-8", "backslashreplace")) + 2


def code(text: str, limit: int = 500) -> str:
    """Show foreign text on one line as a code span, which interprets nothing inside it."""
    line = one_line(text, limit)
    if not line:
        return "-"
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def fence(text: str, limit: int = BODY_SHOWN, *, kind: str = "text", from_end: bool = False) -> str:
    """Show foreign text as a fenced block that its content cannot end.

    Args:
        text: Any text.
        limit: Characters of it that are shown; how many are left out is said.
        kind: What it is, for colours.
        from_end: Show its end, not its beginning.
    """
    content = _shortened(text, limit, from_end=from_end) if len(text) > limit else printable(text)
    ticks = "`" * max(3, _longest_run(content) + 1)
    return f"{ticks}{kind}\n{content}\n{ticks}"


def sentence(text: str) -> str:
    """Show the sentence of a check's author: it may have code spans, and nothing else.

    What GitHub would make a link or a mention of is shown as code too.
    """
    parts = re.split(r"(`[^`]+`)", one_line(text))
    shown = "".join(part if index % 2 else _plain(part) for index, part in enumerate(parts))
    return _LIST_MARK.sub(r"\1\\\2", shown)


def bullets(texts: Iterable[str]) -> Rows:
    """Show foreign texts as a list."""
    rows, left = _first(texts)
    return Rows("\n".join(f"- {code(text)}" for text in rows), left)


def first_rows(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    show: Callable[[str], str] = code,
) -> Rows:
    """Show rows of foreign text as a table, each cell as `show` has it."""
    some, left = _first(rows)
    return Rows(table(head, ([show(cell) for cell in row] for row in some)), left)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Show cells as a table, nothing for no row."""
    # a bar ends a cell even inside a code span, where GitHub's Markdown alone takes it escaped:
    # https://github.github.com/gfm/#tables-extension- (example 200)
    cells = [tuple(cell.replace("|", r"\|") for cell in row) for row in rows]
    lines = [tuple(head), ("---",) * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if cells else ""


def _first(rows: Iterable[_T]) -> tuple[list[_T], int]:
    """Return so many rows as a table may have, and how many more there are."""
    every = list(rows)
    return every[:ROWS_SHOWN], max(len(every) - ROWS_SHOWN, 0)


def _shortened(text: str, limit: int, *, from_end: bool) -> str:
    """Return so much of a text as can be shown, and say how much is left out.

    A text can be huge, so only what may be in sight is made printable, which adds to it and takes
    from it: what is cut after that is counted as it would be shown, the rest as it is.
    """
    near = text[-2 * limit :] if from_end else text[: 2 * limit]
    shown = printable(near)
    left = len(text) - len(near) + max(len(shown) - limit, 0)
    if not left:
        return shown
    if from_end:
        return f"[{left} characters before] ...{shown[-limit:]}"
    return f"{shown[:limit]}... [{left} more characters]"


def _plain(text: str) -> str:
    return "".join(_word(word) for word in re.split(r"(\s+)", text))


def _word(word: str) -> str:
    if _LINKED.search(word):
        return code(word)
    return _MARKUP.sub(r"\\\1", html.escape(word.replace("`", "'"), quote=False))


def _cut(block: str, room: int) -> str:
    """Return as much of a block as there is room for, nothing where it cannot be cut."""
    if size(block) <= room:
        return block
    lines = block.split("\n")
    if not all(line.startswith(_WHOLE_LINES) for line in lines):
        return ""
    kept: list[str] = []
    for line in lines:
        room -= size(line) - 1
        if room < 0:
            break
        kept.append(line)
    fewest = 3 if block.startswith("|") else 1  # a head alone is no table
    return "\n".join(kept) if len(kept) >= fewest else ""


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
