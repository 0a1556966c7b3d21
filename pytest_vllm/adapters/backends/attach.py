"""A server that somebody else runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_vllm.adapters.backends import ExitStatus, LogLine
    from pytest_vllm.domain.target import Target


class AttachBackend:
    """Use a running server and leave it alone.

    Args:
        target: What to test; its backend is `attach`.
        workdir: Folder of the run (unused).
        run_id: Name of the run (unused).
    """

    name = "attach"
    owned = False

    def __init__(self, target: Target, workdir: Path, run_id: str) -> None:
        del workdir, run_id
        self._url = target.url

    def launch(self) -> None:
        """Start nothing."""

    @property
    def url(self) -> str | None:
        """The URL as given."""
        return self._url

    @property
    def log(self) -> Sequence[LogLine]:
        """No log: it belongs to whoever runs the server."""
        return ()

    def exit_status(self) -> ExitStatus | None:
        """Return `None`: the end of another's process cannot be seen."""
        return None

    def stop(self) -> None:
        """Leave the server alone."""

    def facts(self) -> dict[str, Any]:
        """Return the URL."""
        return {"url": self._url}

    def files(self) -> dict[str, str]:
        """Return no files."""
        return {}

    def stop_hint(self) -> str:
        """Return nothing: the server is not ours to stop."""
        return ""
