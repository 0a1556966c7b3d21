"""Read what a user names: a bundled TOML file by its name, or one of their own by its path."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import closest, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def read_named(  # noqa: PLR0913 - what a good message names
    name: str,
    *,
    bundled: Path,
    base: Path,
    what: str,
    option: str,
    also: Sequence[str] = (),
) -> dict[str, Any]:
    """Read a bundled file by name, or a file by path.

    Args:
        name: What the user wrote.
        bundled: Folder of the bundled files.
        base: Folder that a relative path starts from.
        what: What such a file is: `profile`.
        option: The option that names it.
        also: Other values that the option takes, for the advice.

    Raises:
        TargetError: There is none, or it cannot be read.
    """
    known = sorted(path.stem for path in bundled.glob("*.toml"))
    if name in known:
        return read_toml(bundled / f"{name}.toml", name=name, what=what, option=option)
    if not name.endswith(".toml"):
        raise TargetError(
            f"{option}: there is no {what} {name!r}{closest(name, known)}",
            advice=f"use one of {', '.join([*known, *also])}, or the path of a .toml file",
        )
    return read_toml(base / name, name=name, what=what, option=option)


def read_toml(path: Path, *, name: str, what: str, option: str = "") -> dict[str, Any]:
    """Read a file of a user; see `read_named`.

    Raises:
        TargetError: It cannot be read, or is not TOML.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # a name may hold a null byte
        why = getattr(error, "strerror", None) or str(error)
        shown = one_line(name)
        cannot = f"{option}: cannot read {shown}" if option else f"cannot read {what} {shown}"
        raise TargetError(f"{cannot}: {why}", advice="check the path") from None
    try:
        return tomllib.loads(data.decode("utf-8"))
    except ValueError as error:
        why = one_line(str(error))
    except RecursionError:
        why = "it is nested too deeply"
    raise TargetError(f"{what} {one_line(name)} is not TOML: {why}", advice="mend the file")
