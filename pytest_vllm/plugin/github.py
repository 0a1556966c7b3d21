"""Output under GitHub Actions: annotations at the end, and no command by what a server says.

The runner carries out every line of a step's output that looks like `::command::`, and
`##[command]` anywhere in a line. What a server or a log says is part of that output, so commands
are switched off from the start of the run to its end, by a token that nobody else knows.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_vllm.plugin.summary import Finish

_VARIABLE = "GITHUB_ACTIONS"


def runs_on_github(environ: Mapping[str, str]) -> bool:
    """Tell whether a step of GitHub Actions reads the output."""
    return environ.get(_VARIABLE) == "true"


class GitHubPlugin:
    """Switches commands off and on, and annotates.

    Args:
        config: Of this pytest run.
        finish: Tells the finished run, `None` where there is none.
    """

    def __init__(self, config: pytest.Config, finish: Callable[[], Finish | None]) -> None:
        self._config = config
        self._finish = finish
        self._token = secrets.token_hex(16)
        self._stopped = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Switch commands off before anything foreign is shown."""
        self._stopped = True
        self._write([f"::stop-commands::{self._token}"])

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Switch commands on again after the last foreign word, and annotate."""
        if not self._stopped:
            return
        lines = [f"::{self._token}::"]
        finish = self._finish()
        if finish is not None and finish.judged:
            from pytest_vllm.reports.annotations import annotate  # noqa: PLC0415 - only here

            lines += annotate(finish.record, evidence=finish.evidence)
        self._write(lines)

    def _write(self, lines: list[str]) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write("".join(f"{line}\n" for line in lines), flush=True)
