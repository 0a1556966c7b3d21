"""Read a server's arguments as the server will, by the flags that its help lists.

vLLM parses with argparse after a few steps of its own (`utils/argparse_utils.py` in 0.32.0). The
same argparse, told the same flags, accepts and refuses the same words: abbreviations, several
values, negative numbers and all. Types are not in the help, so numbers are checked only where the
shipped list of flags tells them.
"""

from __future__ import annotations

import re
from argparse import SUPPRESS, ArgumentParser
from typing import TYPE_CHECKING, NoReturn

from pytest_vllm.domain.facts.arguments import Flag
from pytest_vllm.domain.serve_values import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_INVOCATION = re.compile(r"^  (-{1,2}[A-Za-z].*)$")
_NAME = re.compile(r"-{1,2}[A-Za-z0-9][A-Za-z0-9_.-]*")
_CHOICES = re.compile(r"\{([^{}]*)\}")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_POSITIONAL = re.compile(r"^positional arguments:\n +model_tag\b", re.MULTILINE)
_SPARE = "spare word"
_LEVELS = frozenset("0123")
_DOTTED = re.compile(r"(?<=--)[^.]*")


class ServeArgumentError(ValueError):
    """The server will refuse its arguments.

    Attributes:
        unknown: Whether words are unknown, rather than a value wrong.
    """

    def __init__(self, message: str, *, unknown: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.unknown = unknown


def read_flags(help_text: str) -> tuple[Flag, ...]:
    """Read the options out of what argparse prints for `--help`, of Python 3.9 to 3.14."""
    found: dict[tuple[str, ...], Flag] = {}
    for line in _ANSI.sub("", help_text).splitlines():
        match = _INVOCATION.match(line)
        flag = _read_invocation(match[1]) if match else None
        if flag is not None:
            found.setdefault(flag.names, flag)
    return tuple(found.values())


def has_place_for_model(help_text: str) -> bool:
    """Tell whether the server's parser takes a model that no `--model` is in front of."""
    return _POSITIONAL.search(help_text) is not None


def check(argv: Sequence[str], flags: Iterable[Flag], *, spare_word: bool = False) -> str:
    """Parse arguments as the server would.

    Args:
        argv: Words after the model.
        flags: What the server's help lists.
        spare_word: Whether one word is taken for a model, although the model is named already.

    Returns:
        The word that is taken like that, empty for none.

    Raises:
        ServeArgumentError: The server will refuse them.
    """
    parser = _Parser(prog="vllm serve", add_help=False, argument_default=SUPPRESS)
    for flag in flags:
        if flag.values:
            count = None if flag.values == "1" else flag.values
            parser.add_argument(
                *flag.names, nargs=count, type=Value(flag), metavar="VALUE", dest=flag.names[0]
            )
        else:
            parser.add_argument(*flag.names, action="store_true", dest=flag.names[0])
    if spare_word:
        parser.add_argument(_SPARE, nargs="?")
    taken, unknown = parser.parse_known_args(_prepared(argv))
    if unknown:
        raise ServeArgumentError(
            f"unrecognized arguments: {' '.join(unknown)}",
            unknown=tuple(word for word in unknown if word.startswith("-")) or tuple(unknown),
        )
    return str(getattr(taken, _SPARE, None) or "")


def spelled_out(argv: Sequence[str], flags: Iterable[Flag]) -> tuple[str, ...]:
    """Return arguments with long names that are cut short, as argparse takes them, in full."""
    names = [name for flag in flags for name in flag.names if name.startswith("--")]
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        asked = name.replace("_", "-")
        begins = [known for known in names if known.startswith(asked)]
        short = word.startswith("--") and asked not in names and len(begins) == 1
        words.append(f"{begins[0]}{equals}{value}" if short else word)
    return tuple(words)


class _Parser(ArgumentParser):
    """An argparse that raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise ServeArgumentError(message)


def _prepared(argv: Sequence[str]) -> list[str]:
    """Do what vLLM does before argparse: underscores, `-O3`, `--config.key value`."""
    words: list[str] = []
    rest = iter(range(len(argv)))
    for index in rest:
        word = argv[index]
        following = argv[index + 1] if index + 1 < len(argv) else None
        if word.startswith("-O") and word != "-O":
            words += ["--optimization-level", word[2:].removeprefix("=")]
        elif word == "-O" and following in _LEVELS:
            words.append("--optimization-level")
        elif word.startswith("--"):
            key, equals, value = word.partition("=")
            key = _DOTTED.sub(lambda match: match[0].replace("_", "-"), key, count=1)
            if "." in key:
                if not equals and following is None:
                    raise ServeArgumentError(f"argument {key}: expected one argument")
                if not equals:
                    next(rest)
                words += [key.split(".")[0].removesuffix("+"), "{}"]
            else:
                words.append(f"{key}{equals}{value}")
        elif word.startswith("-") and "." in word.partition("=")[0] and not _is_number(word):
            if "=" not in word:
                next(rest, None)
            words += [word.split(".")[0], "{}"]
        else:
            words.append(word)
    return words


def _read_invocation(text: str) -> Flag | None:
    """Read `--name NAME, -n NAME  help`, as far as the two blanks before the help."""
    head = re.split(r"\s{2,}", text.rstrip())[0]
    bare = re.sub(r"\{[^{}]*\}|\[[^\[\]]*\]", lambda match: " " * len(match[0]), head)
    names = [match for part in bare.split(", ") if (match := _leading_name(part))]
    if not names:
        return None
    after = head[bare.rindex(names[-1]) + len(names[-1]) :].strip()
    # A help that was printed without a GPU does not list the GPU among the devices.
    choices = () if names[0].endswith("-device") else _choices(after)
    return Flag(names=tuple(names), values=_count(after), choices=choices)


def _leading_name(part: str) -> str:
    match = _NAME.match(part.strip())
    return match[0] if match else ""


def _count(metavar: str) -> str:
    if not metavar:
        return ""
    if re.fullmatch(r"\[[^\[\]{}',]*\]", metavar):
        return "?"
    if metavar.endswith("...]"):
        return "*" if metavar.startswith("[") else "+"
    return "1"


def _choices(metavar: str) -> tuple[str, ...]:
    """Return the choices when they are all that the metavar says; free text has more words."""
    match = _CHOICES.match(metavar)
    rest = metavar[match.end() :].strip() if match else ""
    if match is None or (rest and not rest.startswith("[{")):
        return ()
    return tuple(match[1].split(","))


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-\d*\.?\d+", word) is not None
