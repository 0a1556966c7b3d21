"""What each match of a regular expression must hold, so that most lines are never searched."""

from __future__ import annotations

import re


def needle_of(regex: str) -> str:
    """Return the longest text that each match must hold, empty when the look is too difficult.

    Only plain characters outside of classes, choices and what may be left out count, so it is
    never wrong.
    """
    inline_flags = regex.startswith("(?") and regex[2:3] in "aiLmsux"
    return "" if inline_flags else _longest_literal(regex)


def _longest_literal(regex: str) -> str:
    best = run = ""
    position = 0
    while position < len(regex):
        char, end = regex[position], position + 1
        literal = inner = ""
        if char == "\\":
            end += 1
            literal = "" if regex[end - 1].isalnum() else regex[end - 1]
        elif char == "[":
            end = _class_end(regex, position) + 1
        elif char == "(":
            end = _group_end(regex, position) + 1
            inner = _required_in(regex[position + 1 : end - 1])
        elif char == "{":
            end = regex.find("}", position) + 1
        elif char == "|":
            return ""
        elif char not in "^$.*+?":
            literal = char
        if regex[end : end + 1] in ("?", "*", "{") and regex[end:]:
            literal = inner = ""
        run = run + literal if literal else ""
        best = max(best, run, inner, key=len)
        position = end
    return best


def _required_in(group: str) -> str:
    """Return what a group requires; one that only looks ahead or behind requires nothing."""
    if not group.startswith("?"):
        return _longest_literal(group)
    named = re.match(r"\?(?::|P<\w+>)", group)
    return _longest_literal(group[named.end() :]) if named else ""


def _group_end(regex: str, start: int) -> int:
    depth, position = 0, start
    while position < len(regex):
        char = regex[position]
        if char == "\\":
            position += 1
        elif char == "[":
            position = _class_end(regex, position)
        elif char in "()":
            depth += 1 if char == "(" else -1
            if depth == 0:
                break
        position += 1
    return position


def _class_end(regex: str, start: int) -> int:
    """Return where a character class closes; one that opens with `]` or `^]` holds it."""
    position = start + 1
    if regex[position : position + 1] == "^":
        position += 1
    position += regex[position : position + 1] == "]"
    while position < len(regex) and regex[position] != "]":
        position += 2 if regex[position] == "\\" else 1
    return position
