"""What the controller of a run knows about its server, and hands to its workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.domain.record import read_failure, read_server, to_plain
from pytest_vllm.domain.server_facts import ServerFacts
from pytest_vllm.domain.verdict import PREFLIGHT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.adapters.signing import PrivateKey
    from pytest_vllm.domain.checks import Outcome
    from pytest_vllm.domain.figures import Context
    from pytest_vllm.domain.finding import Finding
    from pytest_vllm.domain.metric_change import Judgement
    from pytest_vllm.domain.performance import PerformanceProfile
    from pytest_vllm.domain.profile import Profile
    from pytest_vllm.domain.record import Attempt, Material, RunRecord
    from pytest_vllm.domain.server import ServerInfo
    from pytest_vllm.domain.target import Target
    from pytest_vllm.domain.verdict import StartFailure
    from pytest_vllm.plugin.death import Death

NOT_RUN_REASON = "not run: no server became ready"


@dataclass(slots=True, kw_only=True)
class RunState:
    """The server as the tests see it, in the controller as in every worker.

    Attributes:
        target: What is accepted.
        profile: The rules of the run.
        server: The ready server.
        failure: Why there is none.
        reports_failure: Whether this process reports the failure as the one error.
        gpus: Facts of the GPUs, gathered before the launch.
        gone: How the server ended in the middle of the run, empty while it lives.
        gone_at: When it did, in seconds since the epoch.
        death: What is known about that end, `None` where nobody could look.
        findings: What preflight and clean-up found.
        attempts: Starts that failed by a flaky fault and were tried again.
        context: What the look before the launch tells a diagnosis, `None` before it.
        forecast: What the memory was expected to be before the launch, as `pytest-vllm fit --json`
            prints it; only `notes`, with the reason, when nothing could be reckoned.
        gpu_samples: What the monitor saw from before the launch to after the stop, as columns.
        server_facts: What the log of the ready server tells, `None` when it is only attached to.
        server_pid: First process of the launched server, as this host counts processes.
        container: ID of its container, empty for none.
        facts: What the preflight gathered, as plain data.
        run_name: Folder of the run, as a user can name it.
        loads: What the suite `performance` sends, `None` where it is left out.
        baseline: The earlier run that this one is compared with.
        content: Checks of the suite `content` that had a result so far, with their outcome.
        performance: What the suite `performance` measured, as plain data.
        judgement: What became of the figures since the baseline, `None` before that is known.
        gpu_columns: Gives the samples of the GPUs up to now, `None` where nobody samples.
        materials: What the run is judged by, hashed when it was read: profile, suites, golden.
        sign_key: Signs the statement, `None` where nobody asked for that.
    """

    target: Target
    profile: Profile
    server: ServerInfo | None = None
    failure: StartFailure | None = None
    reports_failure: bool = True
    gpus: dict[str, Any] = field(default_factory=dict)
    gone: str = ""
    gone_at: float = float("inf")
    death: Death | None = None
    findings: list[Finding] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    context: Context | None = None
    forecast: dict[str, Any] = field(default_factory=dict)
    gpu_samples: dict[str, Any] = field(default_factory=dict)
    server_facts: ServerFacts | None = None
    server_pid: int | None = None
    container: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    run_name: str = ""
    loads: PerformanceProfile | None = None
    baseline: RunRecord | None = None
    content: dict[str, Outcome] = field(default_factory=dict)
    performance: dict[str, Any] = field(default_factory=dict)
    judgement: Judgement | None = None
    gpu_columns: Callable[[], dict[str, Any]] | None = None
    materials: list[Material] = field(default_factory=list)
    sign_key: PrivateKey | None = None

    @property
    def measuring_asked_by(self) -> str:
        """What asks for the suite `performance`, empty where it is only a part of every run.

        Who asks for figures is not content with a verdict without them.
        """
        setting = self.target.settings["performance"]
        slo = self.profile.slo
        if setting.source != "default":
            return f"performance={setting.value} ({setting.source})"
        if slo.declared or slo.changes:
            return f"[slo] of profile {self.profile.name}"
        if self.baseline is not None:
            return "--vllm-baseline"
        return "--vllm-suite" if "performance" in self.target.suites else ""


STATE = pytest.StashKey[RunState]()


def levels_of(config: pytest.Config) -> tuple[int, ...]:
    """Return the load levels of a run, for the cases of its checks; one where there are none."""
    state = config.stash.get(STATE, None)
    profile = state.loads if state is not None else None
    if state is None or profile is None:
        return (0,)
    extra = state.profile.slo.concurrency
    return tuple(sorted({*profile.concurrency, *((extra,) if extra else ())}))


def to_wire(state: RunState, *, reports_failure: bool) -> dict[str, Any]:
    """Write the state as plain data for an xdist worker."""
    return {
        "server": to_plain(state.server) if state.server else None,
        "failure": to_plain(state.failure) if state.failure else None,
        "gpus": state.gpus,
        "forecast": state.forecast,
        "server_facts": to_plain(state.server_facts) if state.server_facts else None,
        "server_pid": state.server_pid,
        "container": state.container,
        "reports_failure": reports_failure,
    }


def from_wire(state: RunState, wire: dict[str, Any]) -> None:
    """Take over what the controller knows."""
    if wire["server"] is not None:
        state.server = read_server(wire["server"])
    if wire["failure"] is not None:
        state.failure = read_failure(wire["failure"])
    state.gpus = wire["gpus"]
    state.forecast = wire["forecast"]
    if wire["server_facts"] is not None:
        state.server_facts = ServerFacts(**wire["server_facts"])
    state.server_pid, state.container = wire["server_pid"], wire["container"]
    state.reports_failure = wire["reports_failure"]


def failure_text(failure: StartFailure) -> str:
    """Describe a failed start for a person; the end of the log stands in the summary."""
    lines = [failure.message]
    if failure.phase == PREFLIGHT:
        lines.append("found by the preflight; nothing was started")
    elif failure.phase:
        code = "still running" if failure.exit_code is None else f"exit code {failure.exit_code}"
        lines.append(f"last phase: {failure.phase}; {code}")
    if failure.advice:
        lines.append(f"fix: {failure.advice}")
    return "\n".join(lines)
