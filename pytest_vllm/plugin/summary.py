"""The end of a run: record, evidence, exit code and the screen that a person reads."""

from __future__ import annotations

import platform
import socket
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.backends.image import record_image
from pytest_vllm.domain.check_changes import compare_checks
from pytest_vllm.domain.finding import Finding, Severity
from pytest_vllm.domain.preflight.outcome import plain_facts
from pytest_vllm.domain.record import RunRecord
from pytest_vllm.domain.stored import first_run
from pytest_vllm.plugin.header import target_warnings
from pytest_vllm.plugin.marks import catalogue
from pytest_vllm.plugin.options import SUITES
from pytest_vllm.reports.junit import junit_xml
from pytest_vllm.reports.markdown import report_md
from pytest_vllm.reports.preflight import warning_line
from pytest_vllm.reports.terminal import summary

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from pytest_vllm.adapters.store import EvidenceFolder
    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.preflight.outcome import Preflight
    from pytest_vllm.domain.record import Comparison
    from pytest_vllm.plugin.launch import ServerRun
    from pytest_vllm.plugin.recorder import Recorder
    from pytest_vllm.plugin.state import RunState

_SIGNAL_BASE = 128
_DEFAULT_CHARS = "fE"
"""What pytest lists after all else unless `-r` says otherwise."""
_VERDICT_SPEAKS = (
    pytest.ExitCode.OK,
    pytest.ExitCode.TESTS_FAILED,
    pytest.ExitCode.NO_TESTS_COLLECTED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """A run that is over, with its evidence written.

    Attributes:
        record: All about it.
        evidence: Path of the evidence folder.
        judged: Whether there were checks, so that the verdict means something.
        other_failures: How many tests that are no checks failed.
        stopped_by_pytest: Whether `--maxfail` or collection errors ended the run.
    """

    record: RunRecord
    evidence: str
    judged: bool
    other_failures: int
    stopped_by_pytest: bool

    @classmethod
    def build(  # noqa: PLR0913 - the parts of a run
        cls,
        state: RunState,
        recorder: Recorder,
        *,
        run: ServerRun | None,
        preflight: Preflight | None,
        folder: EvidenceFolder,
        baseline: RunRecord | None,
        started: dt.datetime,
        duration_s: float,
    ) -> Finish:
        """Judge the run and write its evidence."""
        if state.gone:
            recorder.bury(state.gone, at=state.gone_at, death=state.death)
        results = recorder.finished(state.profile.waivers, started.date())
        every = catalogue(SUITES) if state.profile.complete else ()
        required = tuple(check for check in every if not check.optional)
        findings = tuple(state.findings)
        record = RunRecord(
            run_id=folder.path.name,
            started=started.isoformat(timespec="seconds"),
            duration_s=round(duration_s, 3),
            verdict=recorder.judge(
                results,
                catalogue=required,
                failure=state.failure,
                gone=state.gone,
                death=state.death,
                attached=state.target.backend == "attach",
            ),
            settings=tuple(state.target.settings.values()),
            backend=state.target.backend,
            launch=run.facts() if run is not None else _planned(preflight),
            server=state.server,
            failure=state.failure,
            phases=run.phases if run is not None else (),
            gpus=state.gpus,
            checks_s=round(recorder.checks_s, 3),
            results=results,
            observations=tuple(sorted(recorder.observations, key=lambda seen: seen.name)),
            samples=tuple(recorder.samples),
            deselected=tuple(sorted(recorder.deselected)),
            comparison=_comparison(state, baseline, results),
            environment=_environment(),
            warnings=_warnings(state, recorder, run, started.date(), findings),
            findings=findings,
            attempts=tuple(state.attempts),
            server_facts=run.server_facts if run is not None else None,
            facts=plain_facts(preflight.facts) if preflight is not None else {},
            forecast=state.forecast,
            gpu_samples=state.gpu_samples,
            performance=state.performance,
        )
        files, log = run.evidence() if run is not None else ({}, [])
        reports = {"report.md": report_md, "junit.xml": junit_xml}
        folder.write(record, files={**files, **reports}, log_lines=log)
        known = results or recorder.collected or recorder.interrupted
        judged = bool(known) or state.failure is not None
        return cls(
            record=folder.redacted(record),
            evidence=str(folder.path),
            judged=judged,
            other_failures=recorder.other_failures,
            stopped_by_pytest=recorder.stopped_by_pytest,
        )

    def exit_status(self, by_pytest: int, *, signalled: int) -> int:
        """Combine the verdict with what pytest itself would return.

        Args:
            by_pytest: pytest's own exit status.
            signalled: Number of the signal that ended the run, 0 for none.
        """
        if signalled:
            return _SIGNAL_BASE + signalled
        if not self.judged or (by_pytest not in _VERDICT_SPEAKS and not self.stopped_by_pytest):
            return by_pytest
        return self.record.verdict.decision.exit_code


def show_summary(reporter: pytest.TerminalReporter, finish: Finish, *, keep_hint: str) -> None:
    """Show the verdict on one screen, and how to stop a server that was kept."""
    writer = reporter._tw  # noqa: SLF001 - no public way
    if finish.judged:
        text = summary(
            finish.record,
            width=writer.fullwidth,
            color=writer.hasmarkup,
            evidence=finish.evidence,
        )
        if not finish.other_failures and reporter.config.option.reportchars == _DEFAULT_CHARS:
            reporter.reportchars = ""  # the screen names the failed checks, and stays in sight
        reporter.ensure_newline()
        reporter.write(text if text.endswith("\n") else f"{text}\n")
    else:
        reporter.write_line("vllm: no acceptance check in this run, so no verdict")
    if keep_hint:
        reporter.write_line(f"vllm: the server still runs; stop it with: {keep_hint}")


def _comparison(
    state: RunState, baseline: RunRecord | None, results: Sequence[CheckResult]
) -> Comparison | None:
    if baseline is None:
        return None
    return replace(compare_checks(baseline, results), metrics=state.judgement)


def _planned(preflight: Preflight | None) -> dict[str, Any]:
    """Return what would have been launched, for the report of a run that was not."""
    image = preflight.facts.image if preflight is not None else None
    return {} if image is None else {"image": record_image(image)}


def _environment() -> dict[str, str]:
    packages = ("pytest-vllm", "pytest", "openai", "httpx", "jsonschema", "docker")
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _warnings(
    state: RunState,
    recorder: Recorder,
    run: ServerRun | None,
    today: dt.date,
    findings: Sequence[Finding],
) -> tuple[str, ...]:
    warnings = list(target_warnings(state.target, state.profile))
    for waiver in state.profile.waivers:
        if waiver.expires < today:
            warnings.append(f"the waiver of {waiver.check} expired on {waiver.expires}")
        elif waiver.check not in recorder.collected:
            warnings.append(f"the waiver of {waiver.check} names no check of this run")
    warnings += _not_looked_at(state, recorder)
    if recorder.deselected:
        warnings.append(f"{len(recorder.deselected)} checks were deselected")
    if state.performance.get("levels") and state.baseline is None:
        warnings.append(first_run(state.run_name))
    warnings += [warning_line(finding) for finding in findings if _warns(finding)]
    for attempt in state.attempts:
        first = attempt.diagnosis
        name = " ".join(filter(None, (first.ref, first.id)))
        warnings.append(
            f"a start failed by a flaky fault and was tried again: {name}: {first.cause}"
        )
    return (*warnings, *(run.problems if run is not None else ()))


def _not_looked_at(state: RunState, recorder: Recorder) -> list[str]:
    """Name what was declared of the performance while the checks of it are not in the run."""
    slo, found = state.profile.slo, []
    asked = {
        "performance.slo.latency": bool(slo.latencies),
        "performance.slo.rates": bool(slo.rates),
        "performance.slo.goodput": slo.goodput is not None,
    }
    missing = [name for name, wanted in asked.items() if wanted and name not in recorder.collected]
    if missing:
        found.append(
            f"[slo] was not looked at: this run leaves out {', '.join(missing)} (profile "
            f"{state.profile.name})"
        )
    if state.baseline is not None and "performance.regression" not in recorder.collected:
        found.append(
            "no figure was compared with the baseline: this run leaves out performance.regression"
        )
    return found


def _warns(finding: Finding) -> bool:
    """Tell whether a reader should see a finding that did not stop the run."""
    return finding.severity is Severity.WARNING or finding.ignored
