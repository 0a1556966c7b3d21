"""Options that choose runs, the same for every verb that does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.adapters.run_folders import named_root
from pytest_vllm.adapters.runs import runs_root
from pytest_vllm.domain.run_choice import read_choice

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from pytest_vllm.domain.command_words import WordParser
    from pytest_vllm.domain.run_choice import RunChoice

_PARTS = {
    "image": ("TEXT", "part of the image's name, or the beginning of its digest"),
    "model": ("TEXT", "part of the model's name"),
    "gpu": ("TEXT", "part of the GPUs' names, such as MI300X"),
    "verdict": ("VERDICT", "PROMOTE, REJECT or INCONCLUSIVE"),
    "since": ("TIME", "a day (2026-11-22), a time in ISO 8601, or how long ago (7d, 12h, 30m)"),
}


def add_artifacts(parser: WordParser) -> None:
    """Add `--artifacts`."""
    parser.add_argument(
        "--artifacts",
        metavar="FOLDER",
        help="folder of all runs (default: $PYTEST_VLLM_ARTIFACTS, else .vllm)",
    )


def add_choice(parser: WordParser) -> None:
    """Add `--artifacts` and one option for each part of a choice."""
    add_artifacts(parser)
    for name, (metavar, about) in _PARTS.items():
        parser.add_argument(f"--{name}", metavar=metavar, default="", help=f"only runs of: {about}")


def root_of(asked: argparse.Namespace) -> Path:
    """Return the folder of all runs.

    Raises:
        TargetError: It begins with a home folder that nobody has.
    """
    return named_root(asked.artifacts, what="--artifacts") if asked.artifacts else runs_root()


def chosen(asked: argparse.Namespace) -> tuple[Path, RunChoice]:
    """Return the folder of all runs and which of them are meant.

    Raises:
        TargetError: A verdict or a time is none, or so is the folder.
    """
    parts = {name: getattr(asked, name) for name in _PARTS}
    return root_of(asked), read_choice(**parts)
