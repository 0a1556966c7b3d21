"""Provoke every known failure and write the table: `python -m tools.failures [pytest arguments]`.

Runs `tests/real/test_failures.py` with all its cases and writes `docs/failures.md`. The parts come
from the environment as in the tests (`./dev test` names them).
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).parent.parent
_TEMPORARY = re.compile(r"/\S*/pytest-of-[^/\s]+/pytest-\d+/")
"""Where pytest keeps a test's files on this machine; the page is for others."""
TESTS = "tests/real/test_failures.py"
PAGE = ROOT / "docs" / "failures.md"
ALL = "PYTEST_VLLM_TEST_ALL"
HEAD = """\
# Failures that were provoked, and what the run made of them

Each row is a whole run of pytest on real vLLM ({vllm}, CPU build) or the real Docker engine
({engine}). Written by `python -m tools.failures` on {day}; {cores} cores of {cpu}, {memory} GiB,
no GPU; two runs at a time. `ref` is the row of the failure table, `exit` the exit code of pytest:
1 REJECT (arguments, model or image), 75 INCONCLUSIVE (host or network).
"""
EARLY = """
## Found by preflight: no server is started

`run` is the whole command, from the shell's prompt to the next: the interpreter, the collection of
the checks, preflight, verdict and evidence.

| case | what is wrong | ref | id | fault | exit | run, s | cure |
|---|---|---|---|---|---|---|---|
"""
LATE = """
## Found in the server's log, its end, or the engine's words

The same and others with `--vllm-preflight-ignore=all`: the server is started and fails. `lived` is
from the server's first line (container: its start) to the failure, `report` from there to the
verdict on the screen, with all of the server removed. The moment of the failure is taken outside of
the run: when the line that tells it was written, when the container ended by the engine's clock, or
when the signal was sent. Where the engine refuses to start the container there is no such moment.

| case | what is wrong | ref | id | fault | exit | phase | lived, s | report, s | run, s | cure |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def provoke(arguments: Sequence[str]) -> tuple[list[dict[str, Any]], int, str]:
    """Run the tests; return their rows, pytest's exit code, and how many failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", TESTS, *arguments]
        command += ["-o", "junit_family=xunit1"]  # the later one has no properties of a test
        done = subprocess.run(
            [*command, f"--junitxml={report}"], cwd=ROOT, env={**os.environ, ALL: "1"}, check=False
        )
        tree = ET.parse(report)  # noqa: S314 - our own file
    noted = tree.iterfind(".//property[@name='failure']")
    (suite,) = tree.iterfind(".//testsuite")
    bad = int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
    summary = f"{suite.get('tests')} runs, {bad} of them not as expected."
    return [json.loads(item.get("value", "")) for item in noted], done.returncode, summary


def table(rows: Iterable[dict[str, Any]], *columns: str) -> str:
    """Write rows of a table; seconds get one digit, code is code."""
    return "".join(f"| {' | '.join(_cell(row, name) for name in columns)} |\n" for row in rows)


def _cell(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    text = str(value).replace("|", "\\|").replace("\n", " ")
    return f"`{text}`" if name in ("case", "id") else text.replace("<", "&lt;")


def page(rows: Sequence[dict[str, Any]], summary: str) -> str:
    """Write the whole page."""
    early = [row for row in rows if row["layer"] == "preflight"]
    late = [row for row in rows if row["layer"] == "live"]
    common = ("case", "what", "ref", "id", "fault", "exit")
    refs = sorted(
        {row["ref"] for row in rows if row["ref"]}, key=lambda ref: (ref[0], int(ref[1:]))
    )
    cases = {row["case"] for row in rows}
    parts = [
        HEAD.format(**facts()),
        f"\n{summary} {len(cases)} failures, {len(refs)} rows of the table: {', '.join(refs)}.\n",
        EARLY,
        table(early, *common, "took_s", "cure"),
        LATE,
        table(late, *common, "phase", "lived_s", "report_s", "took_s", "cure"),
    ]
    return _TEMPORARY.sub("/folder/", "".join(parts))


def facts() -> dict[str, str]:
    """Return what the figures were measured on."""
    python = os.environ["PYTEST_VLLM_TEST_PYTHON"]
    # The CPU build may be packaged under another name.
    ask = "import importlib.metadata as m; print(m.version(m.packages_distributions()['vllm'][0]))"
    cpu = Path("/proc/cpuinfo").read_text("utf-8").partition("model name")[2]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "vllm": _answer(python, "-c", ask).partition("+")[0],
        "engine": _answer("docker", "version", "--format", "{{.Server.Version}}"),
        "day": dt.datetime.now(dt.UTC).date().isoformat(),
        "cores": str(os.cpu_count()),
        "cpu": cpu.partition("\n")[0].strip(" \t:") or platform.machine(),
        "memory": f"{memory:.0f}",
    }


def _answer(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main(arguments: Sequence[str]) -> int:
    """Write the page; the exit code is that of pytest."""
    rows, code, summary = provoke(arguments)
    PAGE.write_text(page(rows, summary), encoding="utf-8")
    print(f"{summary} The table is in {PAGE.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
