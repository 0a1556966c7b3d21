"""Which reports a run writes, and what it says under GitHub Actions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.record import from_json
from pytest_vllm.reports.registry import REPORTS, choose_reports

if TYPE_CHECKING:
    from pathlib import Path

URL = "--vllm-url=http://127.0.0.1:9"
HOSTILE = "x\\n::stop-commands::pwned\\n##[stop-commands]pwned\\n::error::fake"
HEAD = "from pytest_vllm import MUST, check, suite\npytestmark = suite('own')\n"
GOOD = f"{HEAD}@check('own.good')\ndef test_good():\n    '''It MUST be good.'''\n"
BAD = f"""{GOOD}
@check('own.bad')
def test_bad():
    '''It MUST be bad.'''
    assert 0, '{HOSTILE}'
"""
FILES = {report.file for report in REPORTS.values()} - {"attestation.json"}  # no image is tested


def written(pytester: pytest.Pytester) -> set[str]:
    return {path.name for path in pytester.path.glob(".vllm/*/*") if path.is_file()}


@pytest.fixture
def own(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A test file with a check that needs no server."""
    monkeypatch.delenv("PYTEST_VLLM_REPORT", raising=False)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    path: Path = pytester.makepyfile(test_own=GOOD)
    return path


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--vllm-report=none",), set()),
        (
            ("--vllm-report=md,junit", "--vllm-report=prom"),
            {"report.md", "junit.xml", "metrics.prom"},
        ),
    ],
    ids=["none", "some"],
)
def test_a_run_writes_the_reports_that_were_asked_for(
    own: Path, pytester: pytest.Pytester, arguments: tuple[str, ...], wanted: set[str]
) -> None:
    """`run.json` is always written."""
    result = pytester.runpytest_subprocess(str(own), URL, *arguments)
    assert result.ret == 0, result.stdout.str()
    assert written(pytester) & (FILES | {"run.json"}) == wanted | {"run.json"}


def test_by_default_it_writes_all_and_they_are_what_its_record_gives_again(
    own: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And elsewhere than on GitHub it says nothing to GitHub."""
    own.write_text(BAD)
    monkeypatch.setenv("GITHUB_ACTIONS", "false")
    result = pytester.runpytest_subprocess(str(own), URL, "--tb=no")
    assert result.ret == 1
    assert written(pytester) >= FILES | {"run.json"}
    (file,) = pytester.path.glob(".vllm/*/run.json")
    record = from_json(file.read_text(), where="run.json")
    for report in REPORTS.values():
        path = file.with_name(report.file)
        assert (path.read_text() if path.exists() else "") == report.render(record)
    assert not re.search(r"^\s*::", result.stdout.str(), re.MULTILINE)


def test_an_unknown_report_is_refused_before_anything_runs(
    own: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = pytester.runpytest_subprocess(str(own), URL, "--vllm-report=htm")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: --vllm-report: there is no report 'htm'; did you mean html?"]
    )
    assert not list(pytester.path.glob(".vllm/*"))
    monkeypatch.setenv("PYTEST_VLLM_REPORT", "none md")
    result = pytester.runpytest_subprocess(str(own), URL)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: report (env PYTEST_VLLM_REPORT): none stands beside md"])


def test_names_are_chosen_in_the_order_of_the_registry() -> None:
    chosen = choose_reports(("junit, md",), option="--vllm-report")
    assert [report.file for report in chosen] == ["report.md", "junit.xml"]
    assert choose_reports((), option="--vllm-report") == tuple(REPORTS.values())


def test_under_github_actions_no_word_of_a_server_is_a_command(
    own: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands are off by a secret token while anything foreign is shown, then annotations come."""
    own.write_text(BAD)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = pytester.runpytest_subprocess(str(own), URL, "-rA", "--tb=long")
    assert result.ret == 1
    carried_out = runner(result.stdout.str())
    titles = [re.sub(r"title=(.*?)::.*", r"\1", line) for line in carried_out]
    assert titles == ["error pytest-vllm REJECT", "error MUST fail%3A own.bad"]
    lines = result.stdout.str().splitlines()
    open_to_all = "\n".join(line for line in lines if not line.startswith("::"))
    with pytest.raises(AssertionError, match="never switched on again"):  # pwned
        runner(open_to_all)


def runner(text: str) -> list[str]:
    """Return the commands that the runner of GitHub Actions carries out, as it reads its output.

    https://github.com/actions/runner: ActionCommandManager.TryProcessCommand, ActionCommand.
    """
    known = "error|warning|notice|add-mask|group|endgroup|debug|echo|add-matcher|stop-commands"
    stopped, done = "", []
    for line in text.splitlines():
        found = re.match(rf"\s*::(({known}|{stopped or 'stop-commands'})(?: .*?)?::.*)", line)
        old = re.search(rf"##\[(({known}|{stopped or 'stop-commands'})[^\]]*\].*)", line)
        command = found or old
        if command is None:
            continue
        if stopped:
            stopped = "" if command[2] == stopped else stopped
        elif command[2] == "stop-commands":
            stopped = re.split(r"::|\]", command[1], maxsplit=1)[1]
        else:
            done.append(command[1])
    assert not stopped, "commands were never switched on again"
    return done
