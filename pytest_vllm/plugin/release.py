"""Whether a stopped server has given its memory back; judged when no test can run any more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.vram import LIMIT_S
from pytest_vllm.adapters.bounds import bound
from pytest_vllm.adapters.rss import held_bytes, living
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.plugin.memory import ServerMemory, gib

if TYPE_CHECKING:
    from pytest_vllm.plugin.recorder import Recorder
    from pytest_vllm.plugin.state import RunState

CHECK = "memory.release.after-stop"
"""ID of the check in `suites/test_memory.py` that is judged here."""

_POLL_S = 0.5


class Release:
    """Compares the memory of a server before its stop and after.

    Args:
        state: What the run knows.
        recorder: Has the check that waits.
    """

    def __init__(self, state: RunState, recorder: Recorder) -> None:
        self._recorder = recorder
        self._memory: ServerMemory | None = None
        self._pids: tuple[int, ...] = ()
        self._held: dict[str, int] = {}
        if CHECK in recorder.deferred and state.server is not None:
            self._memory = ServerMemory(state, state.server)
            self._pids = self._memory.processes()
            self._held = self._memory.use()

    def judge(self, *, left: str = "") -> None:
        """Judge the check that waits, if one does; the wait is over when all is back, or in 120 s.

        Args:
            left: Why the server could not be stopped, empty when it was.
        """
        memory, self._memory = self._memory, None
        if memory is not None:
            self._judge(memory, left)
            memory.close()

    def _judge(self, memory: ServerMemory, left: str) -> None:
        left = left or self._recorder.interrupted
        if left:
            self._recorder.settle(CHECK, Outcome.NOT_RUN, f"not run: {left}")
            return
        if not self._held:
            reason = memory.unseen or memory.monitor_says or "nobody sees the server's memory"
            self._recorder.settle(CHECK, Outcome.NOT_RUN, f"not run: {reason}")
            return
        end = time.monotonic() + LIMIT_S
        while (over := self._over(memory)) and time.monotonic() < end:
            time.sleep(_POLL_S)
        if over:
            self._recorder.settle(
                CHECK, Outcome.FAIL, f"{LIMIT_S:g} s after the stop: {'; '.join(over)}"
            )
        else:
            self._recorder.settle(CHECK, Outcome.PASS, "")

    def _over(self, memory: ServerMemory) -> list[str]:
        """Say what has not come back yet, a line for each."""
        lines = []
        if alive := living(self._pids):
            lines.append(f"processes {', '.join(map(str, alive))} hold {gib(held_bytes(alive))}")
        gpus = set(memory.rank_gpus or memory.handed_over)
        for bdf, use in memory.use().items() if gpus else ():
            if bdf in gpus and bdf in self._held:
                more = use - memory.before(bdf)
                if more > bound("release"):
                    lines.append(f"GPU {bdf}: {gib(more)} more in use than before the launch")
        return lines
