"""From pytest's hooks to server, recorder, evidence and exit code."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.facts.host import plain_gpus
from pytest_vllm.adapters.store import EvidenceFolder, new_run_id
from pytest_vllm.domain.checks import Level, Outcome, worst
from pytest_vllm.domain.errors import HostError, TargetError, VllmError
from pytest_vllm.domain.figures import context_of
from pytest_vllm.domain.preflight.outcome import plain_facts
from pytest_vllm.domain.record import Material, to_plain
from pytest_vllm.domain.verdict import StartFailure
from pytest_vllm.plugin import header
from pytest_vllm.plugin.benchmark_file import benchmark_file
from pytest_vllm.plugin.machine import machine_facts
from pytest_vllm.plugin.materials import suite_materials
from pytest_vllm.plugin.outcomes import CHECK, LIVENESS, uses_server
from pytest_vllm.plugin.recorder import Recorder
from pytest_vllm.plugin.release import Release
from pytest_vllm.plugin.state import STATE, to_wire
from pytest_vllm.plugin.summary import Finish, exit_of_signal, show_loss, show_summary
from pytest_vllm.plugin.turns import turns_path

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import TextIO

    from pytest_vllm.adapters.backends.reaper import Reaper
    from pytest_vllm.domain.preflight.outcome import Preflight
    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.plugin.launch import ServerRun
    from pytest_vllm.plugin.look import FirstLook


class WorkerPlugin:
    """What an xdist worker tells the controller at its end."""

    def __init__(self) -> None:
        self._deselected: list[dict[str, Any]] = []
        self._materials: list[dict[str, Any]] = []

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Keep what was left out; pytest does not forward it."""
        self._deselected += _wire_checks(items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Hash the files of the tests."""
        self._materials = [to_plain(each) for each in suite_materials(session)]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand over what was collected."""
        output = session.config.workeroutput  # type: ignore[attr-defined]
        output["vllm"] = {
            "collected": _wire_checks(session.items),
            "deselected": self._deselected,
            "materials": self._materials,
        }


class ControllerPlugin:
    """Launches, records, judges and writes; lives in the one process that owns the run."""

    def __init__(self, config: pytest.Config, baseline: RunRecord | None) -> None:
        self._config = config
        self._state = config.stash[STATE]
        self._baseline = baseline
        self._recorder = Recorder()
        self._started = dt.datetime.now(dt.UTC)
        self._clock = time.monotonic()
        self._folder: EvidenceFolder | None = None
        self._look: FirstLook | None = None
        self._reaper: Reaper | None = None
        self._launched = False
        self._preflight: Preflight | None = None
        self._run: ServerRun | None = None
        self.finish: Finish | None = None
        self._lost: VllmError | None = None  # why there is no evidence, once it was tried
        self._keep_hint = ""
        self._nodes = 0
        self._turns = tempfile.TemporaryFile()  # noqa: SIM115 - closed late

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Launch the server after the collection, if any test wants it and the run goes on."""
        goes_on = not session.testsfailed or session.config.option.continue_on_collection_errors
        if goes_on and any(uses_server(item) for item in session.items):
            self._ensure_server()
        start = time.monotonic()
        try:
            return (yield)
        finally:
            self._recorder.checks_s = time.monotonic() - start

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Launch the server before the first xdist worker and hand it to each."""
        self._ensure_server()
        wire = to_wire(self._state, reports_failure=self._nodes == 0)
        node.workerinput["vllm"] = {**wire, "turns": turns_path(self._turns)}
        self._nodes += 1

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take over what a worker collected."""
        output = getattr(node, "workeroutput", {}).get("vllm")
        if output is not None:
            self._recorder.collect(output["collected"], output["deselected"])
            self._state.materials += [Material(**each) for each in output["materials"]]
        elif error:
            self._recorder.interrupted = f"an xdist worker ended: {error}"

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which checks have to have a result; refuse waivers of checks that are none."""
        self._recorder.collect(_wire_checks(session.items), [])
        self._state.materials += suite_materials(session)
        if session.testsfailed:
            return  # what could not be collected may be what is waived
        own = {*self._recorder.collected, *self._recorder.deselected}
        try:
            header.refuse_strange_waivers(self._state.profile, own)
        except TargetError as error:
            raise pytest.UsageError(str(error)) from None

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Note which checks the user left out."""
        self._recorder.collect([], _wire_checks(items))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """See whether the server still lives."""
        if self._run is not None:
            self._run.look()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what could not be collected; its checks have no result."""
        if report.failed:
            self._recorder.uncollected.append(report.nodeid or "the named tests")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record what a test came to."""
        if self._run is not None:
            # Under xdist this process sets up no test, but it sees the reports.
            self._run.look(after_failure=report.failed)
        wire = getattr(report, "vllm", None)
        if wire is not None:
            self._recorder.add(wire)
            self._note_content(wire)
            dead = wire["check"]["suite"] == LIVENESS and wire["outcome"] == Outcome.FAIL
            if dead and not self._state.gone:
                self._state.gone = f"the server is up but generates no more: {wire['message']}"
                self._state.gone_at = report.stop
        elif report.failed:
            self._recorder.other_failures += 1

    def _note_content(self, wire: dict[str, Any]) -> None:
        """Note what the suite `content` found, for the suite that takes no figures of garbage."""
        if wire["check"]["suite"] == "content" and wire["check"]["level"] == Level.MUST:
            name, seen = wire["check"]["id"], self._state.content
            seen[name] = worst([Outcome(wire["outcome"]), seen.get(name, Outcome.PASS)])

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        """Say in pytest-benchmark's files what was measured: server, image, GPUs, driver."""
        machine_info["vllm"] = machine_facts(self._state, self._run)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note what ended the run early: a signal, `pytest.exit`, or errors and `--maxfail`."""
        by_pytest = isinstance(excinfo.value, pytest.Session.Interrupted)
        by_signal = isinstance(excinfo.value, KeyboardInterrupt) and not by_pytest
        self._recorder.interrupted = "interrupted by a signal" if by_signal else str(excinfo.value)
        self._recorder.stopped_by_pytest = by_pytest

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Stop the server, decide, write the evidence and set the exit code."""
        if self._run is not None:
            self._run.look()
        if exitstatus == pytest.ExitCode.USAGE_ERROR:
            self._stop()
            return
        self._conclude()
        if self.finish is not None:
            session.exitstatus = self.finish.exit_status(
                int(exitstatus), signalled=self._signalled()
            )
        elif self._lost is not None:
            session.exitstatus = exit_of_signal(self._signalled()) or self._lost.exit_code

    def _signalled(self) -> int:
        """Return the number of the signal that ended the run, 0 for none."""
        by_run = self._run.signalled if self._run is not None else 0
        return by_run or (self._look.signalled if self._look is not None else 0)

    def _conclude(self) -> None:
        """Stop the server, judge and write the evidence; tried once, it is done or lost."""
        if self._run is not None:
            self._run.look()
        release = Release(self._state, self._recorder)
        self._stop()
        if self.finish is not None or self._lost is not None:
            return
        try:
            if self._folder is None and self._recorder.collected:
                self._make_folder()  # checks that ask for no server are judged all the same
            if self._folder is not None:
                self.finish = self._judge(release, self._folder)
        except VllmError as error:
            self._lost = error

    def _judge(self, release: Release, folder: EvidenceFolder) -> Finish:
        release.judge(left="; ".join(self._run.problems) if self._run is not None else "")
        return Finish.build(
            self._state,
            self._recorder,
            run=self._run,
            preflight=self._preflight,
            folder=folder,
            baseline=self._baseline,
            benchmark=benchmark_file(self._config),
            started=self._started,
            duration_s=time.monotonic() - self._clock,
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the verdict, or why there is none."""
        if self.finish is not None:
            show_summary(terminalreporter, self.finish, keep_hint=self._keep_hint)
        elif self._lost is not None:
            show_loss(terminalreporter, self._lost, keep_hint=self._keep_hint)

    def pytest_unconfigure(self) -> None:
        """Leave nothing behind, and all evidence, even when the session never finished.

        That is so when a signal comes while xdist's workers wait for the server.
        """
        self._turns.close()
        if self.finish is not None or self._lost is not None or self._folder is None:
            self._stop()
            return
        when = "before its end" if self._recorder.results else "during the start"
        self._recorder.interrupted = self._recorder.interrupted or f"interrupted {when}"
        self._conclude()
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            self.pytest_terminal_summary(reporter)

    def _ensure_server(self) -> None:
        """Look before the launch and launch, once; what stops the look is the failure."""
        if self._launched:
            return
        self._launched = True
        from pytest_vllm.domain.expectation import plain_forecast  # noqa: PLC0415
        from pytest_vllm.plugin.guard import start_reaper  # noqa: PLC0415
        from pytest_vllm.plugin.launch import ServerRun  # noqa: PLC0415 - only with a server
        from pytest_vllm.plugin.look import FirstLook  # noqa: PLC0415

        try:
            folder = self._make_folder()
            self._reaper = start_reaper(self._state.target, folder.path)
            self._look = FirstLook(self._state.target, self._terminal(), self._reaper)
            self._preflight = self._look.run()
            header.refuse_ambiguous_image(self._preflight.facts.image, self._state.profile)
            self._state.findings += self._preflight.findings
            self._state.context = context_of(self._preflight.facts)
            self._state.forecast = plain_forecast(self._preflight.facts)
            self._state.facts = plain_facts(self._preflight.facts)
            if self._preflight.failure is not None:
                self._state.failure = self._preflight.failure
                self._state.gpus = plain_gpus(self._preflight.facts.host)
                return
            self._run = ServerRun(
                self._state,
                workdir=folder.path,
                run_id=folder.path.name,
                terminal=self._terminal(),
                reaper=self._reaper,
            )
            self._run.start()
        except KeyboardInterrupt:
            # Python 3.11 may interrupt a frame that has no line number, of which pytest's own
            # report of the interruption would die.
            raise KeyboardInterrupt from None
        except HostError as error:
            self._state.failure = StartFailure(
                kind="host", message=error.message, advice=error.advice
            )
        except TargetError as error:
            self._stop()
            self._discard_folder()
            raise pytest.UsageError(str(error)) from None

    def _make_folder(self) -> EvidenceFolder:
        target = self._state.target
        self._folder = EvidenceFolder.create(
            self._config.invocation_params.dir / target.text("artifacts"),
            new_run_id(self._started, os.urandom(3).hex()),
            secrets=target.secrets(os.environ),
        )
        self._state.run_name = f"{target.text('artifacts')}/{self._folder.path.name}"
        return self._folder

    def _discard_folder(self) -> None:
        if self._folder is not None:
            self._folder.discard_if_empty()
        self._folder = None

    def _stop(self) -> None:
        if self._run is not None:
            self._keep_hint = self._run.stop() or self._keep_hint
        elif self._reaper is not None:
            self._reaper.done()

    def _terminal(self) -> TextIO | None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        return reporter._tw._file if reporter is not None else None  # noqa: SLF001 - no public way


def _wire_checks(items: Sequence[pytest.Item]) -> list[dict[str, Any]]:
    checks = (item.stash.get(CHECK, None) for item in items)
    return [to_plain(check) for check in checks if check is not None]
