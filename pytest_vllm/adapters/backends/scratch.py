"""A folder for a server's temporary files, which vLLM and torch do not remove themselves."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_vllm.adapters.backends.owner import Owner, read_owner, this_owner
from pytest_vllm.domain.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "pv-"
OWNER_FILE = ".pytest-vllm-owner"
_ALWAYS_SHORT = Path("/tmp")  # noqa: S108 - what is made there has mode 0700
_LONGEST_SOCKET = 107  # unix(7): sun_path with its end
_SOCKET_NAME = 1 + 44
"""vLLM names its sockets by a UUID, some with a short word before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """The `TMPDIR` of one server.

    Attributes:
        folder: The folder, not made yet.
        parent: The folder that would have been used without ours.
        kept: Variables for caches that would otherwise be lost with the folder.
    """

    folder: Path
    parent: Path
    kept: tuple[tuple[str, str], ...] = ()

    @classmethod
    def plan(cls, env: Mapping[str, str]) -> Self:
        """Choose a name below the user's own `TMPDIR`, or below /tmp where sockets would not fit.

        Args:
            env: The server's environment as it would be without us.
        """
        parent = Path(env.get("TMPDIR") or tempfile.gettempdir()).absolute()
        name = f"{PREFIX}{uuid.uuid4().hex[:8]}"
        fits = len(str(parent / name)) + _SOCKET_NAME <= _LONGEST_SOCKET
        folder = (parent if fits else _ALWAYS_SHORT) / name
        kept = {}
        if "TORCHINDUCTOR_CACHE_DIR" not in env:
            # torch's own default; compiled code is a cache that the next start wants.
            user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
            kept["TORCHINDUCTOR_CACHE_DIR"] = str(parent / f"torchinductor_{user}")
        return cls(folder=folder, parent=parent, kept=tuple(kept.items()))

    def make(self) -> None:
        """Make the folder, and note in it whose it is, so that it can be swept.

        Raises:
            HostError: It cannot be made.
        """
        try:
            self.folder.mkdir(mode=0o700)
            self.hand_over(this_owner())
        except OSError as error:
            raise HostError(
                f"cannot make a folder for temporary files in {self.folder.parent}: "
                f"{error.strerror}",
                advice="make room there, or name another: --vllm-env=TMPDIR=FOLDER",
            ) from None

    def hand_over(self, owner: Owner) -> None:
        """Note whose it is from now on: a server that is kept is its own."""
        (self.folder / OWNER_FILE).write_text(json.dumps(owner.facts()), encoding="utf-8")

    def variables(self) -> dict[str, str]:
        """Return what the server gets into its environment."""
        return {"TMPDIR": str(self.folder), **dict(self.kept)}

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def abandoned_folders() -> list[tuple[Path, Owner]]:
    """Return the folders below the temporary folder and /tmp that say whose they are."""
    found = []
    parents = {Path(tempfile.gettempdir()), _ALWAYS_SHORT}
    for file in (file for parent in parents for file in parent.glob(f"{PREFIX}*/{OWNER_FILE}")):
        try:
            owner = read_owner(json.loads(file.read_text("utf-8")))
        except (OSError, ValueError):
            continue
        if owner is not None:
            found.append((file.parent, owner))
    return found
