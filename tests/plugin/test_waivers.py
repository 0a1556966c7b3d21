"""Waivers in whole runs: what is refused before anything starts, and what a run says of them."""

from __future__ import annotations

import datetime as dt

import pytest

from pytest_vllm.domain.record import from_json

HEAD = "from pytest_vllm import check, suite\npytestmark = suite('own')\n"
GOOD = "@check('own.good')\ndef test_good():\n    '''It MUST be good.'''\n"
BAD = "@check('own.bad')\ndef test_bad():\n    '''It MUST not be bad.'''\n    assert 0\n"
URL = "--vllm-url=http://127.0.0.1:9"
TODAY = dt.datetime.now(dt.UTC).date()
TOMORROW, YESTERDAY = TODAY + dt.timedelta(days=1), TODAY - dt.timedelta(days=1)


def run(
    pytester: pytest.Pytester, *arguments: str, complete: bool = True, **waivers: dt.date
) -> tuple[int, str]:
    """Run checks of one's own under a profile with waivers of `own.NAME`."""
    pytester.makepyfile(test_own=HEAD + GOOD + BAD)
    tables = [
        f'[[waiver]]\ncheck = "own.{name}"\nreason = "known"\nlink = "https://h/1"\n'
        f"expires = {expires}\n"
        for name, expires in waivers.items()
    ]
    profile = pytester.path / "mine.toml"
    profile.write_text(
        f"schema = 1\n[verdict]\ncomplete = {str(complete).lower()}\n{''.join(tables)}"
    )
    result = pytester.runpytest_subprocess(*arguments, URL, "--vllm-profile=mine.toml")
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    return int(result.ret), text


def test_an_expired_waiver_is_refused_before_anything_starts(pytester: pytest.Pytester) -> None:
    code, text = run(pytester, "test_own.py", bad=YESTERDAY, good=TOMORROW)
    assert code == 4
    assert f"profile mine.toml: a waiver has expired, today is {TODAY} (UTC): own.bad" in text
    assert "collected" not in text
    assert not list(pytester.path.glob(".vllm/*"))


@pytest.mark.parametrize("path", [(), ("test_own.py",)], ids=["suites", "own"])
def test_a_waiver_of_no_check_is_refused_before_a_server_is_looked_for(
    pytester: pytest.Pytester, path: tuple[str, ...]
) -> None:
    code, text = run(pytester, *path, god=TOMORROW)
    assert code == 4
    assert "there is no check own.god to waive" in text
    assert ("did you mean own.good?" in text) is bool(path)
    assert not list(pytester.path.glob(".vllm/*"))


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_run_says_what_its_waivers_did(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    waivers = {"bad": TODAY, "good": TOMORROW, "god": YESTERDAY}
    code, text = run(pytester, "test_own.py", *workers, complete=False, **waivers)
    assert code == (75 if workers else 0)  # workers are only sent out when there is a server
    assert f"own.bad until {TODAY}" in text
    (written,) = pytester.path.glob(".vllm/*/run.json")
    record = from_json(written.read_text(), where="run.json")
    assert [(use.check, use.waived) for use in record.waivers] == [
        ("own.bad", ("own.bad",)),
        ("own.good", ()),
        ("own.god", ()),
    ]
    assert record.warnings == (
        "the waiver of own.good is not needed, the check passed: remove it from profile mine.toml",
        "there is no check own.god to waive; did you mean own.good? (profile mine.toml)",
    )


def test_under_complete_an_idle_waiver_is_a_reason(pytester: pytest.Pytester) -> None:
    code, _ = run(pytester, "test_own.py", bad=TODAY, good=TOMORROW)
    assert code == 75
    (written,) = pytester.path.glob(".vllm/*/run.json")
    reasons = from_json(written.read_text(), where="run.json").verdict.reasons
    assert any(reason.startswith("the waiver of own.good is not needed") for reason in reasons)
