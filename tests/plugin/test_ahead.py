"""Independent checks share the server at the same time; everything else runs in its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.record import from_json
from tests.defects.acceptance import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.record import RunRecord

HEAD = """
import threading, time, pytest
from pytest_vllm import MUST, INFO, check, suite, Client
pytestmark = suite("own", concurrent=True)
"""
MEETING = """
MEETING = threading.Barrier(3)

@pytest.mark.parametrize("number", [1, 2, 3])
@check("own.meet")
def test_meet(vllm: Client, number: int) -> None:
    '''Three checks MUST be under way at the same time.'''
    vllm.complete("Hello", max_tokens=1)
    MEETING.wait(timeout=TIMEOUT)
"""
ALONE = """
ACTIVE = []

@check("own.alone", alone=True)
def test_alone(vllm: Client) -> None:
    '''It MUST have the server for itself.'''
    assert ACTIVE == ["begun", "ended"] * 4

@pytest.mark.parametrize("number", range(4))
@check("own.busy")
def test_busy(vllm: Client, number: int) -> None:
    '''It MUST be over before.'''
    with LOCK:
        ACTIVE.append("begun")
        vllm.complete("Hello", max_tokens=1)
        ACTIVE.append("ended")

LOCK = threading.Lock()
"""
THREAD = """
@check("own.thread")
def test_thread(vllm: Client) -> None:
    '''It MUST run in its turn.'''
    assert threading.current_thread() is threading.main_thread()
"""
FAILING = """
@check("own.fails")
def test_fails(vllm: Client) -> None:
    '''It MUST hold.'''
    text = vllm.complete("Hello", max_tokens=2).json["object"]
    assert text == "something else"

@check("own.holds")
def test_holds(vllm: Client) -> None:
    '''It MUST hold, too.'''
    vllm.complete("Hello", max_tokens=1)
"""
SEEN = """
@check("own.seen", level=INFO)
def test_seen(vllm: Client) -> None:
    '''It is only seen.'''
    vllm.observe("a thing", "its value")
    assert vllm.complete("Hello", max_tokens=1).json["object"] == "a lie"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of a healthy simulator."""
    with serving(None) as url:
        yield url


def run(
    pytester: pytest.Pytester, server: str, body: str, *arguments: str
) -> tuple[pytest.RunResult, RunRecord]:
    pytester.makepyfile(test_own=HEAD + body)
    result = pytester.runpytest_subprocess("test_own.py", f"--vllm-url={server}", *arguments)
    (path,) = (pytester.path / ".vllm").glob("*/run.json")
    return result, from_json(path.read_text(), where="run.json")


def test_checks_meet_on_threads(pytester: pytest.Pytester, server: str) -> None:
    """Each of three checks waits until all three are under way."""
    result, record = run(pytester, server, MEETING.replace("TIMEOUT", "60"))
    result.assert_outcomes(passed=3)
    assert record.verdict.decision.value == "PROMOTE"
    assert all(item.duration_s > 0 for item in record.results)


def test_one_after_the_other_on_request(pytester: pytest.Pytester, server: str) -> None:
    """With `--vllm-concurrency=1` they never meet."""
    body = MEETING.replace("TIMEOUT", "0.01")
    result, _ = run(pytester, server, body, "--vllm-concurrency=1")
    result.assert_outcomes(failed=3)


def test_a_shuffled_run_is_the_same(pytester: pytest.Pytester, server: str) -> None:
    """A seed changes the order in which checks are sent, not the order of the reports."""
    body = MEETING.replace("TIMEOUT", "60")
    result, record = run(pytester, server, body, "--vllm-seed=7")
    result.assert_outcomes(passed=3)
    assert [item.case for item in record.results] == ["1", "2", "3"]


def test_a_check_that_needs_the_server_alone_gets_it_last(
    pytester: pytest.Pytester, server: str
) -> None:
    result, record = run(pytester, server, ALONE)
    result.assert_outcomes(passed=5)
    assert record.results[-1].check.id == "own.alone"


@pytest.mark.parametrize(
    "change",
    ["conftest", "mark", "suite", "fixture", "debugger", "set-up"],
)
def test_what_cannot_be_sure_to_be_independent_runs_in_its_turn(
    pytester: pytest.Pytester, server: str, change: str
) -> None:
    body, arguments = THREAD, ()
    if change == "conftest":
        pytester.makeconftest("import pytest\n@pytest.fixture(autouse=True)\ndef own():\n    yield")
    elif change == "mark":
        body = THREAD.replace("@check", "@pytest.mark.skipif(False, reason='x')\n@check")
    elif change == "suite":
        body = 'pytestmark = suite("own")\n' + THREAD
    elif change == "set-up":
        body = THREAD + "\ndef setup_function():\n    pass\n"
    elif change == "fixture":
        body = THREAD.replace("vllm: Client", "vllm: Client, tmp_path")
    else:
        arguments = ("--setup-show",)
    result, _ = run(pytester, server, body, *arguments)
    result.assert_outcomes(passed=1)


def test_the_same_check_runs_on_a_thread_otherwise(pytester: pytest.Pytester, server: str) -> None:
    """What the test above relies on: without such a change, it is not the main thread."""
    result, _ = run(pytester, server, THREAD)
    result.assert_outcomes(failed=1)


def test_a_coroutine_does_not_pass_for_being_called(pytester: pytest.Pytester, server: str) -> None:
    """Without a plugin that awaits it, a check that is a coroutine must not pass."""
    body = THREAD.replace("def test_thread", "async def test_thread")
    result, record = run(pytester, server, body)
    assert result.parseoutcomes().get("passed", 0) == 0
    assert record.verdict.decision.value != "PROMOTE"


def test_a_failure_shows_the_line_of_the_check(pytester: pytest.Pytester, server: str) -> None:
    """A check on a thread is reported like any other, with its exchanges as evidence."""
    result, record = run(pytester, server, FAILING)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["test_own.py:*: in test_fails", '*assert text == "something else"*']
    )
    assert "concurrent/futures" not in result.stdout.str()
    bad = record.results[0]
    assert (bad.check.id, bad.outcome.value, len(bad.exchanges)) == ("own.fails", "fail", 1)


def test_the_first_failure_ends_the_run_on_request(pytester: pytest.Pytester, server: str) -> None:
    result, record = run(pytester, server, FAILING, "-x")
    result.assert_outcomes(failed=1)
    assert record.verdict.decision.value == "REJECT"


def test_a_check_alone_by_name(pytester: pytest.Pytester, server: str) -> None:
    result, record = run(pytester, server, FAILING, "-k", "holds")
    result.assert_outcomes(passed=1, deselected=1)
    assert [item.check.id for item in record.results] == ["own.holds"]


def test_what_is_only_seen_is_never_judged(pytester: pytest.Pytester, server: str) -> None:
    """An INFO check that fails is an observation."""
    result, record = run(pytester, server, SEEN)
    result.assert_outcomes(passed=1)
    seen = {item.name: item.value for item in record.observations}
    assert seen["a thing"] == "its value"
    assert "a lie" in seen["own.seen"]
    assert record.verdict.decision.value == "INCONCLUSIVE"


def test_workers_take_turns(pytester: pytest.Pytester, server: str) -> None:
    """Under xdist, a check that needs the server alone has it: no other overlaps with it."""
    body = """
from pathlib import Path

def note(name: str) -> None:
    start = time.time()
    time.sleep(0.2)
    with Path("times").open("a") as file:
        file.write(f"{name} {start} {time.time()}\\n")

@pytest.mark.parametrize("number", range(4))
@check("own.alone", alone=True)
def test_alone(vllm: Client, number: int) -> None:
    '''It MUST have the server for itself.'''
    note("alone")

@pytest.mark.parametrize("number", range(8))
@check("own.busy")
def test_busy(vllm: Client, number: int) -> None:
    '''It MUST not overlap with it.'''
    note("busy")
"""
    result, _ = run(pytester, server, body, "-n", "2")
    result.assert_outcomes(passed=12)
    rows = [line.split() for line in (pytester.path / "times").read_text().splitlines()]
    spans = [(name, float(start), float(end)) for name, start, end in rows]
    alone = [span for span in spans if span[0] == "alone"]
    for one in alone:
        others = [span for span in spans if span is not one]
        assert [span for span in others if span[1] < one[2] and one[1] < span[2]] == []
    busy = [span for span in spans if span[0] == "busy"]
    assert any(a[1] < b[2] and b[1] < a[2] for a in busy for b in busy if a is not b)


def test_a_server_that_stops_generating_is_found_after_the_suite(
    pytester: pytest.Pytester,
) -> None:
    """`/health` says 200 all the time; what was not judged by then is not run."""
    with serving("generation-hangs") as url:
        result = pytester.runpytest_subprocess(
            f"--vllm-url={url}", "--vllm-suite=models,server", "--vllm-request-timeout=2"
        )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*REJECT*"])
