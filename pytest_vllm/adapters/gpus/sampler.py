"""Takes samples of the GPUs in the background, without taking much of a core for it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.gpu_samples import Look, SampleColumns
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_vllm.adapters.gpus import GpuMonitor

LIMIT = 1200
"""Most samples that are kept: 20 minutes at one a second; see `SampleColumns`."""

_RARE_EVERY = 10
_ENDS_WITHIN_S = 8.0
"""A look takes 5 s at most; then the process that looks is killed."""


class Sampler:
    """Looks at the GPUs on a thread of its own, from `start` to `stop`.

    A look that is late moves the next ones; none is made up for. When looks cost more than 1 % of
    a core, they become rarer (`SampleColumns.charge`).

    Args:
        monitor: Who looks; it stays the caller's, who closes it.
        gpus: The GPUs as its facts tell them.
        interval_s: Seconds between two samples.
        limit: Most samples that are kept.
        on_sample: Told after each sample how many there are.
    """

    def __init__(
        self,
        monitor: GpuMonitor,
        gpus: Sequence[Mapping[str, Any]],
        *,
        interval_s: float,
        limit: int = LIMIT,
        on_sample: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._monitor = monitor
        self._on_sample = on_sample
        self._began = time.monotonic()
        self._columns = SampleColumns(
            monitor=monitor.name,
            gpus=gpus,
            interval_s=interval_s,
            limit=limit,
            started=time.time(),
            began_ns=time.monotonic_ns(),
        )
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vllm-gpu-sampler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> dict[str, Any]:
        """Take a last sample, end, and return the columns."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_ENDS_WITHIN_S)
        return self.columns()

    def columns(self) -> dict[str, Any]:
        """Return the samples up to now, as plain data."""
        with self._lock:
            return self._columns.plain()

    def _run(self) -> None:
        due = self._began
        count = 0
        while True:
            last = self._ended.is_set()
            interval_s = self._sample(rare=last or count % _RARE_EVERY == 0)
            count += 1
            self._on_sample(count)
            if last:
                return
            now = time.monotonic()
            due = max(due + interval_s, now)
            self._ended.wait(due - now)

    def _sample(self, *, rare: bool) -> float:
        """Take one sample; return the seconds until the next."""
        before = time.thread_time()
        at_s = time.monotonic() - self._began
        try:
            look = self._monitor.sample(rare=rare)
        except Exception as error:  # noqa: BLE001 - a monitor must not end the samples
            look = Look(problem=f"{type(error).__name__}: {one_line(str(error), 200)}")
        with self._lock:
            self._columns.add(at_s, look)
            self._columns.charge(at_s, look.cpu_s + time.thread_time() - before)
            return self._columns.interval_s
