"""The name of a run, which stands in file names, links and commands."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def read_run_name(name: str, *, where: str) -> str:
    """Return a name that has the form of those that `store.new_run_id` and a number make.

    Raises:
        ValueError: It has another one.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{where} is {name[:80]!r}, which is no name of a run")
    return name
