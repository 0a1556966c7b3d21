"""The live line of a load, past pytest's capture of what tests print."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from pytest_vllm.reports.progress import HEARTBEAT_S, LoadView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from pytest_vllm.domain.load.progress import Progress


class LiveLine:
    """Shows how loads go on the terminal of a pytest run; under xdist and without one, nowhere.

    Args:
        config: Of the run.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self._capture: Any = config.pluginmanager.get_plugin("capturemanager")
        self._quiet = config.get_verbosity() < 0

    @contextmanager
    def shown(self, title: str) -> Iterator[Callable[[Progress], None] | None]:
        """Show a load while the body runs; give what is to be told of its progress.

        Args:
            title: What runs, in a few words.
        """
        if self._reporter is None or self._quiet:
            yield None
            return
        free = self._capture.global_and_fixture_disabled() if self._capture else nullcontext()
        with free:
            writer = self._reporter._tw  # noqa: SLF001 - no public way
            with LoadView(
                writer._file,  # noqa: SLF001 - no public way
                live=self._reporter.isatty,
                color=writer.hasmarkup,
                title=title,
            ) as view:
                yield self._on_a_new_line(view)

    def _on_a_new_line(self, view: LoadView) -> Callable[[Progress], None]:
        """Return what updates a view, and ends pytest's line of dots before it first shows."""
        begun = False

        def update(progress: Progress) -> None:
            nonlocal begun
            if not begun and (self._reporter.isatty or progress.elapsed_s >= HEARTBEAT_S):
                begun = True
                self._reporter.ensure_newline()
            view.update(progress)

        return update
