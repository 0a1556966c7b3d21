"""The end of a run: record, evidence, exit code and the screen that a person reads."""

from __future__ import annotations

import os
import platform
import socket
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.backends.image import record_image
from pytest_vllm.adapters.store import LOG, log_text
from pytest_vllm.domain.check_changes import compare_checks
from pytest_vllm.domain.checks import Level
from pytest_vllm.domain.ci_job import JOB, job_url
from pytest_vllm.domain.finding import Finding, Severity
from pytest_vllm.domain.preflight.outcome import plain_facts
from pytest_vllm.domain.record import Rules, RunRecord
from pytest_vllm.domain.shown import without_start
from pytest_vllm.domain.statement import ENVELOPE_FILE
from pytest_vllm.domain.stored import first_run
from pytest_vllm.domain.text import printable
from pytest_vllm.domain.waivers import cautions, idle, use_of, waived_words
from pytest_vllm.plugin.benchmark_file import FILE as BENCHMARK
from pytest_vllm.plugin.header import target_warnings
from pytest_vllm.plugin.marks import catalogue
from pytest_vllm.plugin.materials import launch_materials, merged
from pytest_vllm.plugin.options import SUITES
from pytest_vllm.plugin.signing import signed, unsigned_warning
from pytest_vllm.reports.preflight import warning_line
from pytest_vllm.reports.registry import MAKERS, choose_reports
from pytest_vllm.reports.terminal import summary

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Sequence

    from pytest_vllm.adapters.store import EvidenceFolder
    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.errors import VllmError
    from pytest_vllm.domain.preflight.outcome import Preflight
    from pytest_vllm.domain.record import Comparison
    from pytest_vllm.domain.target import Target
    from pytest_vllm.plugin.benchmark_file import BenchmarkFile
    from pytest_vllm.plugin.launch import ServerRun
    from pytest_vllm.plugin.recorder import Recorder
    from pytest_vllm.plugin.state import RunState
    from pytest_vllm.reports.registry import Report

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
        problems: Which reports could not be written, and why.
        signed_by: ID of the key that signed what the run states, empty for none.
    """

    record: RunRecord
    evidence: str
    judged: bool
    other_failures: int
    stopped_by_pytest: bool
    problems: tuple[str, ...] = ()
    signed_by: str = ""

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
        benchmark: BenchmarkFile,
        started: dt.datetime,
        duration_s: float,
    ) -> Finish:
        """Judge the run and write its evidence."""
        if state.gone:
            recorder.bury(state.gone, at=state.gone_at, death=state.death)
        profile, today = state.profile, started.date()
        results = recorder.finished(profile.waivers, today)
        waivers = use_of(profile.waivers, results, today)
        every = catalogue(SUITES) if profile.complete or profile.waivers else ()
        required = tuple(c for c in every if profile.complete and not c.optional)
        known = {*(check.id for check in every), *recorder.collected, *recorder.deselected}
        idle_waivers = idle(waivers, results, profile=profile.name, known=known)
        verdict = recorder.judge(
            results,
            catalogue=required,
            failure=state.failure,
            gone=state.gone,
            death=state.death,
            attached=state.target.backend == "attach",
            waived=waived_words(waivers),
            idle_waivers=idle_waivers,
        )
        of_waivers = (*idle_waivers, *cautions(profile, today))
        findings = tuple(state.findings)
        files, log = run.evidence() if run is not None else ({}, [])
        files = {**files, LOG: log_text(log), BENCHMARK: benchmark.text}
        record = RunRecord(
            run_id=folder.path.name,
            started=started.isoformat(timespec="seconds"),
            duration_s=round(duration_s, 3),
            verdict=verdict,
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
            warnings=(
                *_warnings(
                    state,
                    recorder,
                    run,
                    findings,
                    [text for text in of_waivers if text not in verdict.reasons],
                ),
                *filter(None, (benchmark.problem,)),
            ),
            findings=findings,
            attempts=tuple(state.attempts),
            server_facts=run.server_facts if run is not None else None,
            facts=plain_facts(preflight.facts) if preflight is not None else {},
            forecast=state.forecast,
            gpu_samples=state.gpu_samples,
            performance=state.performance,
            rules=Rules(
                profile=profile.name,
                complete=profile.complete,
                pinned_image=profile.pinned_image,
                required=tuple(c.id for c in required if c.level is Level.MUST),
            ),
            waivers=waivers,
            materials=merged(
                (state.materials, launch_materials(state, files, encoded=folder.encoded))
            ),
        )
        unsigned = unsigned_warning(record, state.sign_key)
        record = replace(record, warnings=(*record.warnings, *unsigned))
        reports: dict[str, Callable[[RunRecord], str]] = {
            report.file: report.render for report in wanted_reports(state.target)
        }
        if state.sign_key is not None:
            reports[ENVELOPE_FILE] = partial(signed, key=state.sign_key)
        problems = folder.write(record, files={**files, **reports}, log_lines=())
        seen = results or recorder.collected or recorder.interrupted
        judged = bool(seen) or state.failure is not None
        return cls(
            record=folder.redacted(record),
            evidence=str(folder.path),
            judged=judged,
            other_failures=recorder.other_failures,
            stopped_by_pytest=recorder.stopped_by_pytest,
            problems=problems,
            signed_by=state.sign_key.id if state.sign_key is not None and not unsigned else "",
        )

    def exit_status(self, by_pytest: int, *, signalled: int) -> int:
        """Combine the verdict with what pytest itself would return.

        Args:
            by_pytest: pytest's own exit status.
            signalled: Number of the signal that ended the run, 0 for none.
        """
        if signalled:
            return exit_of_signal(signalled)
        if not self.judged or (by_pytest not in _VERDICT_SPEAKS and not self.stopped_by_pytest):
            return by_pytest
        return self.record.verdict.decision.exit_code


def exit_of_signal(number: int) -> int:
    """Return the exit code of who ends by a signal, 0 for none."""
    return _SIGNAL_BASE + number if number else 0


def wanted_reports(target: Target) -> tuple[Report, ...]:
    """Return the reports that a run is to write.

    Raises:
        TargetError: One is asked for that there is not.
    """
    setting = target.settings["report"]
    words = setting.value if isinstance(setting.value, tuple) else ()
    named = "--vllm-report" if setting.source == "option" else f"report ({setting.source})"
    return choose_reports(words, option=named)


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
    if finish.signed_by:
        reporter.write_line(f"vllm: signed by key {finish.signed_by[:16]} ({ENVELOPE_FILE})")
    for problem in finish.problems:
        reporter.write_line(f"vllm: {problem}")
    _show_keep_hint(reporter, keep_hint)


def show_loss(reporter: pytest.TerminalReporter, error: VllmError, *, keep_hint: str) -> None:
    """Show why a run has neither evidence nor, for want of it, a verdict."""
    reporter.ensure_newline()
    reporter.write_line(f"vllm: no verdict: {printable(str(error))}", red=True)
    _show_keep_hint(reporter, keep_hint)


def _show_keep_hint(reporter: pytest.TerminalReporter, keep_hint: str) -> None:
    if keep_hint:
        reporter.write_line(f"vllm: the server still runs; stop it with: {keep_hint}")


def _comparison(
    state: RunState, baseline: RunRecord | None, results: Sequence[CheckResult]
) -> Comparison | None:
    if baseline is None:
        return None
    shown = without_start(results, failed_start=state.failure is not None)
    return replace(compare_checks(baseline, shown), metrics=state.judgement)


def _planned(preflight: Preflight | None) -> dict[str, Any]:
    """Return what would have been launched, for the report of a run that was not."""
    image = preflight.facts.image if preflight is not None else None
    return {} if image is None else {"image": record_image(image)}


def _environment() -> dict[str, str]:
    packages = ("pytest-vllm", "pytest", "openai", "httpx", "jsonschema", "docker", *MAKERS)
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        **({JOB: job} if (job := job_url(os.environ)) else {}),
    }


def _warnings(
    state: RunState,
    recorder: Recorder,
    run: ServerRun | None,
    findings: Sequence[Finding],
    of_waivers: Sequence[str],
) -> tuple[str, ...]:
    warnings = [*target_warnings(state.target, state.profile), *of_waivers]
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
