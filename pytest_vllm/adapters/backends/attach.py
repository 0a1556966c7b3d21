"""A server that somebody else runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_vllm.adapters.backends import ExitStatus, LogLine
    from pytest_vllm.adapters.backends.lines import LogReader
    from pytest_vllm.adapters.backends.reaper import Reaper
    from pytest_vllm.adapters.startup import Startup
    from pytest_vllm.domain.target import Target


class AttachBackend:
    """Use a running server and leave it alone.

    Args:
        target: What to test; its backend is `attach`.
        workdir: Folder of the run (unused).
        run_id: Name of the run (unused).
        reaper: Of the run (unused).
    """

    name = "attach"
    owned = False

    def __init__(
        self, target: Target, workdir: Path, run_id: str, reaper: Reaper | None = None
    ) -> None:
        del workdir, run_id, reaper
        self._url = target.url

    def launch(self, startup: Startup | None = None) -> None:
        """Start nothing."""
        del startup

    @property
    def url(self) -> str | None:
        """The URL as given."""
        return self._url

    @property
    def log(self) -> Sequence[LogLine]:
        """No log: it belongs to whoever runs the server."""
        return ()

    @property
    def reader(self) -> LogReader | None:
        """Nothing reads a log."""
        return None

    def exit_status(self) -> ExitStatus | None:
        """Return `None`: the end of another's process cannot be seen."""
        return None

    def stop(self) -> None:
        """Leave the server alone."""

    def keep(self) -> None:
        """Do nothing: the server is another's."""

    def facts(self) -> dict[str, Any]:
        """Return the URL."""
        return {"url": self._url}

    def files(self) -> dict[str, str]:
        """Return no files."""
        return {}

    def stop_hint(self) -> str:
        """Return nothing: the server is not ours to stop."""
        return ""
