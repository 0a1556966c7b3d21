"""The preflight as the first step of a run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_vllm.adapters.preflight import preflight
from pytest_vllm.domain.finding import Severity
from pytest_vllm.domain.text import redact
from pytest_vllm.plugin.guard import guarded
from pytest_vllm.plugin.signals import Signals
from pytest_vllm.reports.preflight import finding_lines

if TYPE_CHECKING:
    from typing import TextIO

    from pytest_vllm.adapters.backends.reaper import Reaper
    from pytest_vllm.domain.preflight.outcome import Preflight
    from pytest_vllm.domain.target import Target

_SHOWN = (Severity.WARNING, Severity.FATAL)


class FirstLook:
    """Looks before the launch, shows what deserves a warning, and keeps what was found.

    Args:
        target: What is to be launched.
        terminal: Where warnings are shown, `None` for nowhere.
        reaper: Takes away what a look that is killed leaves, `None` where nothing is made.
    """

    def __init__(
        self, target: Target, terminal: TextIO | None, reaper: Reaper | None = None
    ) -> None:
        self._target = target
        self._terminal = terminal
        self._reaper = reaper
        self._signals = Signals()

    @property
    def signalled(self) -> int:
        """Number of the signal that ended the look, 0 for none or Ctrl-C."""
        return self._signals.ended_by

    def run(self) -> Preflight:
        """Look now. A signal ends it like Ctrl-C does, so that its container is removed.

        Raises:
            TargetError: An option is malformed or contradicts another.
        """
        self._signals.take()
        try:
            with guarded(self._target, self._reaper):
                outcome = preflight(self._target, env=os.environ, on_step=self._say)
        finally:
            self._signals.give_back()
        shown = [finding for finding in outcome.findings if finding.severity in _SHOWN]
        if not outcome.stopping:
            for line in finding_lines(shown):
                self._say(line)
        return outcome

    def _say(self, line: str) -> None:
        if self._terminal is not None:
            text = redact(line, self._target.secrets(os.environ))
            self._terminal.write(f"vllm: {text}\n")
            self._terminal.flush()
