"""Send loads to the server under test and measure them: the fixture `vllm_load`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.load.calibrate import calibrate
from pytest_vllm.adapters.load.connection import connect
from pytest_vllm.adapters.load.prompts import build_plan
from pytest_vllm.adapters.load.run import run_load
from pytest_vllm.adapters.load.server_truth import ServerWatch
from pytest_vllm.adapters.load.workloads import load_workload
from pytest_vllm.domain.errors import HostError
from pytest_vllm.domain.load.calibration import bottleneck
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.timeline import timeline
from pytest_vllm.domain.load.traffic import Traffic
from pytest_vllm.domain.load.workload import Workload, read_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from pytest_vllm.adapters.load.connection import LoadServer
    from pytest_vllm.domain.load.calibration import Calibration
    from pytest_vllm.domain.load.columns import CollectorFacts, Columns
    from pytest_vllm.domain.load.measurement import Measurement, Slo
    from pytest_vllm.domain.load.plan import Limits, LoadPlan
    from pytest_vllm.domain.load.progress import Progress
    from pytest_vllm.domain.load.timeline import Timeline
    from pytest_vllm.domain.server import ServerInfo

    Watcher = Callable[[Progress], None]

_CALIBRATION_S = 1.0
_HEADROOM = 1.2
"""The calibration has a rate that is so much higher than the load's."""
_NOT_CALIBRATED = "the client was not calibrated, so its own error is unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A load that is over.

    Attributes:
        plan: What was sent.
        columns: What came back.
        measurement: Its figures.
        timeline: What the server said of itself meanwhile, as columns over time.
    """

    plan: LoadPlan
    columns: Columns
    measurement: Measurement
    timeline: Timeline = field(default_factory=dict)


class Load:
    """Sends loads to the server under test.

    Args:
        server: The server.
        gpus: Gives the samples of the GPUs up to now, `None` where nobody samples.
        shown: Shows a load on the terminal while it runs, by a title; `None` for nowhere.

    Attributes:
        last: The load that was sent last.
    """

    def __init__(
        self,
        server: ServerInfo,
        *,
        gpus: Callable[[], dict[str, Any]] | None = None,
        shown: Callable[[str], AbstractContextManager[Watcher | None]] | None = None,
    ) -> None:
        self._server = server
        self._gpus = gpus
        self._shown = shown or (lambda _title: nullcontext())
        self._connected: LoadServer | None = None
        self._calibration: tuple[float, Calibration] | None = None
        self.last: Loaded | None = None

    def run(
        self,
        workload: str | Mapping[str, Any] | Workload,
        traffic: Traffic | None = None,
        *,
        slo: Slo | None = None,
        limits: Limits | None = None,
        calibrates: bool = True,
    ) -> Measurement:
        """Send a load and measure it; what the server does wrong is counted, never raised.

        The client then measures itself at the same streams and rate: `client["calibration"]` has
        its own error, and a flag says if the client was the limit or is not calibrated.

        Args:
            workload: What the requests hold: the name of a bundled workload, a file, or its table.
            traffic: When they are sent; by default 64 requests, 8 at a time.
            slo: What a good request keeps, for the goodput.
            limits: Bounds in time and memory.
            calibrates: Whether the client measures itself; about two seconds, once for loads alike.

        Returns:
            The figures. Requests and events by themselves are in `last`.

        Raises:
            TargetError: The workload makes no sense, or the server cannot hold it.
            HostError: This host cannot send it.
        """
        traffic = traffic or Traffic(requests=64, concurrency=8, warm_up=8)
        loaded = self.send(self.plan(workload, traffic, limits=limits), slo=slo)
        self.last = self._with_own_error(loaded, calibrates=calibrates)
        return self.last.measurement

    def plan(
        self,
        workload: str | Mapping[str, Any] | Workload,
        traffic: Traffic,
        *,
        limits: Limits | None = None,
    ) -> LoadPlan:
        """Make the requests of a load, with exact counts by the server's own tokenizer."""
        if isinstance(workload, str):
            made = load_workload(workload)
        elif isinstance(workload, Workload):
            made = workload
        else:
            made = read_workload(workload)
        return build_plan(self._connection(), made, traffic, limits=limits)

    def send(self, plan: LoadPlan, *, slo: Slo | None = None, title: str = "load") -> Loaded:
        """Send a load that was planned, and look at the server's own figures around it.

        Args:
            plan: What `plan` made.
            slo: What a good request keeps.
            title: What the live line calls it.
        """
        watched = ServerWatch(plan.url, api_key=self._connection().api_key)
        with self._shown(title) as progress, watched as watch:
            columns = run_load(plan, progress=progress)
        measurement = measure(
            plan, columns, slo=slo, server=watch.looks, gpus=self._gpus() if self._gpus else None
        )
        self.last = Loaded(
            plan=plan,
            columns=columns,
            measurement=measurement,
            timeline=timeline(watch.looks, begin_ns=columns.begin_ns),
        )
        return self.last

    def _with_own_error(self, loaded: Loaded, *, calibrates: bool) -> Loaded:
        facts, measured = loaded.columns.facts, loaded.measurement
        if facts is None:  # nothing was sent
            return loaded
        calibration, flags = None, [_NOT_CALIBRATED]
        if calibrates:
            try:
                calibration = self._calibrate(loaded, facts)
            except HostError as error:
                flags = [f"{_NOT_CALIBRATED}: {error}"]
        if calibration is not None:
            reasons = bottleneck(facts, measured, calibration)
            flags = [f"the client was the limit: {reason}" for reason in reasons]
        told = asdict(calibration) if calibration is not None else {}
        return replace(
            loaded,
            measurement=replace(
                measured,
                client={**measured.client, "calibration": told},
                flags=(*measured.flags, *flags),
            ),
        )

    def _calibrate(self, loaded: Loaded, facts: CollectorFacts) -> Calibration:
        """Measure the client as it was used; a load like the last one has its calibration."""
        streams = _streams(loaded)
        rate = facts.events / facts.wall_s if facts.wall_s else 0.0
        if self._calibration is not None:
            asked, last = self._calibration
            alike = (last.path, last.streams) == (facts.path, streams)
            if alike and rate <= asked <= _HEADROOM**2 * rate:
                return last
        asked = _HEADROOM * rate
        calibration = calibrate(
            streams=streams, events_per_s=asked, seconds=_CALIBRATION_S, path=facts.path
        )
        self._calibration = asked, calibration
        return calibration

    def _connection(self) -> LoadServer:
        if self._connected is None:
            server = self._server
            key = os.environ.get(server.api_key_env) if server.api_key_env else None
            self._connected = connect(server.url, model=server.model, api_key=key)
        return self._connected


def _streams(loaded: Loaded) -> int:
    """Return how many requests were in flight: the places, or by Little's law in an open loop."""
    if loaded.plan.concurrency:
        return loaded.plan.concurrency
    taken = loaded.measurement.distributions.get("e2el")
    span_s = (loaded.columns.finish_ns - loaded.columns.begin_ns) / 1e9
    if taken is None or taken.mean is None or span_s <= 0:
        return 1
    return max(1, round(len(loaded.plan.requests) / span_s * taken.mean / 1e3))
