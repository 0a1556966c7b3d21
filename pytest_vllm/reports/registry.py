"""The reports of a run by name; each is loaded when it is used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError, VllmError
from pytest_vllm.domain.text import closest, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report.

    Attributes:
        file: Its name in the evidence folder.
        module: Where its function is.
        function: `RunRecord -> str`; an empty text means that the run cannot have this report.
        about: One line for `--help`.
        made_with: Distributions of others that put it into its form.
    """

    file: str
    module: str
    function: str
    about: str
    made_with: tuple[str, ...] = ()

    def render(self, record: RunRecord) -> str:
        """Write the report of a run.

        Raises:
            TargetError: The record holds plain data that this report cannot show.
        """
        make = getattr(import_module(self.module), self.function)
        try:
            return str(make(record))
        except VllmError:
            raise
        except Exception as error:
            what = one_line(f"{type(error).__name__}: {error}", 200)
            raise TargetError(
                f"{self.file} cannot be made of run {one_line(record.run_id, 80)} ({what})",
                advice="its run.json holds what no run writes, or this is a bug; please report it",
            ) from error


REPORTS: Mapping[str, Report] = {
    "attestation": Report(
        file="attestation.json",
        module="pytest_vllm.reports.attestation",
        function="attestation_json",
        about="in-toto Statement of the test result, for policy engines and signing",
    ),
    "html": Report(
        file="report.html",
        module="pytest_vllm.reports.html",
        function="report_html",
        about="one HTML page with everything in it, for people",
        made_with=("pygal", "jinja2", "markupsafe"),
    ),
    "md": Report(
        file="report.md",
        module="pytest_vllm.reports.markdown",
        function="report_md",
        about="Markdown, as a step summary of GitHub takes it",
    ),
    "junit": Report(
        file="junit.xml",
        module="pytest_vllm.reports.junit",
        function="junit_xml",
        about="JUnit XML, which every CI shows",
    ),
    "ctrf": Report(
        file="ctrf.json",
        module="pytest_vllm.reports.ctrf",
        function="ctrf_json",
        about="Common Test Report Format, JSON",
    ),
    "prom": Report(
        file="metrics.prom",
        module="pytest_vllm.reports.openmetrics",
        function="metrics_prom",
        about="OpenMetrics, for a dashboard over many runs",
        made_with=("prometheus-client",),
    ),
}
"""By the name that `--vllm-report` and `pytest-vllm report` know it by."""

MAKERS = tuple(dict.fromkeys(name for report in REPORTS.values() for name in report.made_with))
"""Distributions whose versions a run keeps, so that its reports can be compared with others."""

NONE = "none"


def choose_reports(words: Sequence[str], *, option: str) -> tuple[Report, ...]:
    """Return the reports that were asked for, all of them for no word.

    Args:
        words: Names, several in a word where commas are between them; `none` alone for no report.
        option: Name of the option, for error messages.

    Raises:
        TargetError: There is no such report, or `none` stands beside others.
    """
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    known = ", ".join([*REPORTS, NONE])
    if NONE in names:
        if set(names) != {NONE}:
            raise TargetError(
                f"{option}: {NONE} stands beside {', '.join(n for n in names if n != NONE)}",
                advice=f"leave out one or the other; known are {known}",
            )
        return ()
    for name in names:
        if name not in REPORTS:
            raise TargetError(
                f"{option}: there is no report {one_line(name, 60)!r}"
                f"{closest(name, [*REPORTS, NONE])}",
                advice=f"use {known}",
            )
    return tuple(report for name, report in REPORTS.items() if not names or name in names)
