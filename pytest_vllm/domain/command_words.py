"""The command line of a verb: argparse whose complaints look like all others of this program."""

from __future__ import annotations

import argparse
from typing import NoReturn

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import closest


class WordParser(argparse.ArgumentParser):
    """Reads the words behind `pytest-vllm VERB`.

    Args:
        verb: Name of the verb.
        description: What it does.
        epilog: Examples and exit codes.
        usage: First line of the help, where argparse's own says too little.
        add_help: Whether `--help` is its own.
    """

    def __init__(
        self,
        verb: str,
        *,
        description: str = "",
        epilog: str = "",
        usage: str | None = None,
        add_help: bool = True,
    ) -> None:
        super().__init__(
            prog=f"pytest-vllm {verb}",
            usage=usage,
            add_help=add_help,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.verb = verb

    def error(self, message: str) -> NoReturn:
        """Raise what would be printed.

        Raises:
            TargetError: Always.
        """
        words = message.removeprefix("unrecognized arguments: ")
        if words == message:
            raise TargetError(f"{self.verb}: {message}", advice=f"see {self.prog} --help")
        name = words.split()[0].partition("=")[0]
        if not name.startswith("-"):
            raise self.surplus(words)
        raise self.unknown(name, words)

    def surplus(self, words: str) -> TargetError:
        """Return the complaint about words that are too many."""
        first = words.split(maxsplit=1)[0]
        return TargetError(f"{self.verb} takes no {first!r}", advice=f"see {self.prog} --help")

    def unknown(self, name: str, words: str) -> TargetError:  # noqa: ARG002 - for who needs all
        """Return the complaint about an option that there is not.

        Args:
            name: The option.
            words: All words that nobody takes.
        """
        return TargetError(
            f"{self.verb} has no option {name}{closest(name, self.names())}",
            advice=f"see {self.prog} --help",
        )

    def names(self) -> list[str]:
        """Return all options."""
        return [name for action in self._actions for name in action.option_strings]
