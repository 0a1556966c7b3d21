"""Samples of GPUs as columns, bounded however long a run is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

QUANTITIES = (
    "vram_used_bytes",
    "activity_percent",
    "power_w",
    "temperature_c",
    "memory_temperature_c",
    "gfx_clock_mhz",
    "memory_clock_mhz",
    "ecc_errors",
)
"""What a sample holds of a GPU. The temperature is that of the hottest spot, else of the edge;
`ecc_errors` counts those that could not be corrected since the driver was loaded."""

RARE = ("ecc_errors",)
"""What is only asked now and then, since the answer takes the driver long; kept in between."""

Value = int | float | None

SHARE = 0.01
"""Of a core, what looking may take."""

_MOST_NOTES = 20
_FEWEST = 2
_CHARGED = 20  # samples over which their cost is averaged, the first of which costs more


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a monitor saw at one moment.

    Attributes:
        readings: Quantities of each GPU by PCI address; what a GPU does not tell is `None`.
        problem: Why nothing was seen, or what was wrong besides; empty for nothing.
        cpu_s: Seconds of a core that the look took in other processes.
    """

    readings: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    problem: str = ""
    cpu_s: float = 0.0


class SampleColumns:
    """The samples of a run: a time for each, and a list as long for each quantity of each GPU.

    Above `limit` samples every second one is dropped and the interval doubles, so that a run of a
    day is as large as one of an hour. The highest use of VRAM is kept apart and is exact.

    Args:
        monitor: Who looks.
        gpus: `index` and `bdf` of each GPU.
        interval_s: Seconds between two samples.
        limit: Most samples that are kept; at least 2.
        started: When the sampling began, in seconds since the epoch.
        began_ns: The same by CLOCK_MONOTONIC, by which loads are timed; 0 where it is not known.
    """

    def __init__(  # noqa: PLR0913 - what a sampling is
        self,
        *,
        monitor: str,
        gpus: Sequence[Mapping[str, Any]],
        interval_s: float,
        limit: int,
        started: float,
        began_ns: int = 0,
    ) -> None:
        self.interval_s = interval_s
        self._monitor = monitor
        self._limit = max(limit, _FEWEST)
        self._started = started
        self._began_ns = began_ns
        self._times: list[float] = []
        self._gpus = [(gpu.get("index"), str(gpu["bdf"])) for gpu in gpus]
        self._columns: dict[str, dict[str, list[Value]]] = {
            bdf: {name: [] for name in QUANTITIES} for _, bdf in self._gpus
        }
        self._peaks: dict[str, tuple[int, float]] = {}
        self._silent: set[str] = set()
        self._problem = ""
        self._notes: list[str] = []
        self._thinned = 1
        self._cpu_s = 0.0
        self._charges: list[float] = []

    def __len__(self) -> int:
        """Count the samples."""
        return len(self._times)

    def add(self, at_s: float, look: Look) -> None:
        """Take in one look.

        Args:
            at_s: Seconds since the start of the sampling.
            look: What was seen.
        """
        if len(self._times) >= self._limit:
            self._thin()
        at_s = round(at_s, 3)
        self._times.append(at_s)
        if look.problem and look.problem != self._problem:
            self._note(f"at {at_s:g} s: {look.problem}")
        self._problem = look.problem
        for index, bdf in self._gpus:
            reading = look.readings.get(bdf, {})
            self._follow(index, bdf, at_s, told=any(v is not None for v in reading.values()))
            for name, column in self._columns[bdf].items():
                value = reading.get(name)
                if name in RARE and name not in reading:
                    value = column[-1] if column else None
                column.append(round(value, 1) if isinstance(value, float) else value)
            used = reading.get("vram_used_bytes")
            if isinstance(used, int) and used > self._peaks.get(bdf, (-1, 0.0))[0]:
                self._peaks[bdf] = used, at_s

    def charge(self, at_s: float, cpu_s: float) -> None:
        """Take in what a look has cost; looks become rarer when they cost more than 1 % of a core.

        Args:
            at_s: Seconds since the start of the sampling.
            cpu_s: Seconds of a core, of all processes together.
        """
        self._cpu_s += cpu_s
        self._charges.append(cpu_s)
        if len(self._charges) < _CHARGED:
            return
        mean_s = sum(self._charges) / len(self._charges)
        self._charges.clear()
        if mean_s > SHARE * self.interval_s:
            while mean_s > SHARE * self.interval_s:
                self.interval_s *= 2
            self._note(
                f"at {at_s:.0f} s: a look takes {mean_s * 1000:.1f} ms of a core, so there is one "
                f"every {self.interval_s:g} s from here on"
            )

    def plain(self) -> dict[str, Any]:
        """Return the columns as plain data for the record."""
        thinned = (
            [f"every {self._thinned}th sample was kept, for there were over {self._limit}"]
            if self._thinned > 1
            else []
        )
        return {
            "monitor": self._monitor,
            "started": round(self._started, 3),
            "began_ns": self._began_ns,
            "interval_s": self.interval_s,
            "cpu_s": round(self._cpu_s, 3),
            "time_s": list(self._times),
            "gpus": [self._plain_gpu(index, bdf) for index, bdf in self._gpus],
            "notes": [*self._notes, *thinned],
        }

    def _plain_gpu(self, index: object, bdf: str) -> dict[str, Any]:
        peak, at_s = self._peaks.get(bdf, (None, None))
        return {
            "index": index,
            "bdf": bdf,
            "vram_peak_bytes": peak,
            "vram_peak_s": at_s,
            **{name: list(column) for name, column in self._columns[bdf].items()},
        }

    def _follow(self, index: object, bdf: str, at_s: float, *, told: bool) -> None:
        """Note when a GPU falls silent and when it is back."""
        if told == (bdf not in self._silent):
            return
        if told:
            self._silent.discard(bdf)
            self._note(f"at {at_s:g} s: GPU {index} ({bdf}) tells its figures again")
        else:
            self._silent.add(bdf)
            self._note(f"at {at_s:g} s: GPU {index} ({bdf}) tells nothing")

    def _note(self, text: str) -> None:
        if len(self._notes) < _MOST_NOTES:
            self._notes.append(text)
        elif len(self._notes) == _MOST_NOTES:
            self._notes.append("more was noted than is kept")

    def _thin(self) -> None:
        del self._times[1::2]
        for columns in self._columns.values():
            for column in columns.values():
                del column[1::2]
        self.interval_s *= 2
        self._thinned *= 2
