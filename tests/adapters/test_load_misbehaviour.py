"""Whatever a server does under load is counted by its kind, bounded, and ends no run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from pytest_vllm.adapters.load.asyncio_path import run_asyncio
from pytest_vllm.adapters.load.run import run_load
from pytest_vllm.domain.load.columns import NEVER, UNTOLD, Columns, Ending
from pytest_vllm.domain.load.measurement import Slo
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.plan import Limits, LoadPlan, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SERVER = Path(__file__).parents[1] / "data" / "misbehaving.py"
LIMITS = Limits(request_s=60, stall_s=1.5, run_s=120, reply_bytes=2**20 + 2**18, connect_s=10)
TOKENS = 6
RUNS_S = (1, 5, 25)
"""Tried in turn until the time was enough for the first events on a busy host."""

KINDS = {
    "good": Ending.DONE,
    "good_then_close": Ending.DONE,
    "close_when_used_again": Ending.DONE,
    "no_usage": Ending.DONE,
    "stall": Ending.STALLED,
    "reset": Ending.RESET,
    "refuse": Ending.STATUS,
    "refuse_endlessly": Ending.STATUS,
    "endless": Ending.TOO_LARGE,
    "endless_line": Ending.TOO_LARGE,
    "cut_body": Ending.TRUNCATED,
    "cut_chunk": Ending.TRUNCATED,
    "hang_up": Ending.TRUNCATED,
    "error_event": Ending.ERROR_EVENT,
    "bad_json": Ending.MALFORMED,
    "bad_chunk": Ending.MALFORMED,
    "garbage": Ending.MALFORMED,
    "huge_headers": Ending.MALFORMED,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen([sys.executable, SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture(params=[run_load, run_asyncio], ids=["epoll", "asyncio"])
def client(request: pytest.FixtureRequest) -> Callable[[LoadPlan], Columns]:
    run: Callable[[LoadPlan], Columns] = request.param
    return run


def plan(url: str, does: Sequence[str], *, places: int, limits: Limits = LIMITS) -> LoadPlan:
    """One request for each thing that the server is to do."""
    requests = [
        Request(
            body=json.dumps({"do": what, "tag": tag, "stream": True}).encode(), want_tokens=TOKENS
        )
        for tag, what in enumerate(does)
    ]
    return LoadPlan(url=url, requests=tuple(requests), concurrency=places, limits=limits)


def resident() -> int:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_every_kind_is_counted_beside_good_requests(
    url: str, client: Callable[[LoadPlan], Columns]
) -> None:
    """Each failure has its kind and words; good requests have all tokens, in their order."""
    does = [what for kind in KINDS for what in (kind, "good")]
    before = resident()
    sent = plan(url, does, places=len(does))
    columns = client(sent)
    facts = columns.facts
    assert facts is not None
    assert facts.path == ("asyncio" if client is run_asyncio else "epoll")
    seen = {
        what: Ending(columns.ending[row])
        for row, what in enumerate(does)
        if Ending(columns.ending[row]) is not KINDS[what]
    }
    assert not seen, {does[row]: why for row, why in columns.failures.items()}
    failed = [row for row, what in enumerate(does) if KINDS[what] is not Ending.DONE]
    assert sorted(columns.failures) == failed
    assert all(columns.failures[row] and "\n" not in columns.failures[row] for row in failed)
    grown = resident() - before if client is run_asyncio else facts.peak_rss_bytes
    assert grown < 64 * 2**20
    hold_good_ones(url, does, columns)
    hold_figures(sent, columns, good=len(does) - len(failed) - 1)


def hold_good_ones(url: str, does: Sequence[str], columns: Columns) -> None:
    """No token arrives before it was written, nor is one lost or made up."""
    log = httpx.get(f"{url}/log").json()
    for row, what in enumerate(does):
        if what != "good":
            continue
        start, count = columns.first_row[row], columns.events[row]
        times = columns.event_ns[start : start + count]
        written = log[str(row)][-TOKENS:]
        assert count == TOKENS == columns.completion_tokens[row]
        # By kernel times the two clocks are compared to some microseconds.
        assert all(came > put - 100_000 for came, put in zip(times, written, strict=True))
        assert list(times) == sorted(times)
        assert columns.send_ns[row] < times[0] < times[-1] <= columns.end_ns[row]


def hold_figures(sent: LoadPlan, columns: Columns, *, good: int) -> None:
    """Failures are in no latency, but in the shares and in the adjusted percentiles."""
    measured = measure(sent, columns, slo=Slo(ttft_ms=60_000))
    counted = Counter(Ending(one).name.lower() for one in columns.ending if one != Ending.DONE)
    counted["uncounted"] = 1  # tokens were asked for, and without usage nobody told how many came
    assert {kind: n for kind, n in measured.failures.items() if n} == dict(counted)
    ttft = measured.distributions["ttft"]
    assert ttft.requests == good
    median = ttft.percentiles["p50"].value
    assert median is not None
    assert ttft.adjusted["p50"] > median  # as if the failed ones were infinitely slow
    assert measured.figures["goodput_share"] == pytest.approx(good / len(sent.requests))


def test_a_server_that_always_says_something_has_only_so_long(
    url: str, client: Callable[[LoadPlan], Columns]
) -> None:
    """Slow bytes are no stall; the time of the whole request ends them."""
    limits = replace(LIMITS, request_s=0.8, stall_s=60)
    columns = client(plan(url, ["drip", "drip_comments"], places=2, limits=limits))
    assert list(columns.ending) == [Ending.TIMEOUT] * 2
    assert "0.8 s" in columns.failures[0]


def test_a_queue_is_no_stall(url: str, client: Callable[[LoadPlan], Columns]) -> None:
    """Before the first token a request has all of its time; a stream that flowed has less."""
    limits = replace(LIMITS, request_s=2.5, stall_s=0.5)
    columns = client(plan(url, ["silent", "queue", "stall"], places=3, limits=limits))
    assert list(columns.ending) == [Ending.TIMEOUT, Ending.TIMEOUT, Ending.STALLED]
    assert "2.5 s" in columns.failures[0]
    assert "0.5 s" in columns.failures[2]


def test_a_server_that_does_not_read_stalls_the_request(
    url: str, client: Callable[[LoadPlan], Columns]
) -> None:
    """A body larger than all buffers never gets away; others are served meanwhile."""
    limits = replace(LIMITS, stall_s=0.8)
    good = plan(url, ["good"], places=2, limits=limits)
    stuck = Request(path="/never-read", body=b"{" + b" " * 2**24 + b"}")
    columns = client(replace(good, requests=(stuck, *good.requests)))
    assert list(columns.ending) == [Ending.STALLED, Ending.DONE], columns.failures


def test_an_idle_connection_that_was_closed_is_no_failure(
    url: str, client: Callable[[LoadPlan], Columns]
) -> None:
    """With one place every request finds the connection of the last one closed or closing."""
    does = ["good_then_close", "good", "close_when_used_again"] * 3
    columns = client(plan(url, does, places=1))
    assert list(columns.ending) == [Ending.DONE] * len(does), columns.failures
    assert list(columns.completion_tokens) == [TOKENS] * len(does)


def test_a_burst_of_refusals_ends_and_leaves_the_rest(
    url: str, client: Callable[[LoadPlan], Columns]
) -> None:
    does = ["refuse"] * 40 + ["good"] * 4
    columns = client(plan(url, does, places=4))
    assert Counter(columns.status) == {503: 40, 200: 4}
    assert "overloaded" in columns.failures[0]
    assert list(columns.ending[-4:]) == [Ending.DONE] * 4


def test_the_end_of_the_time_cuts_what_is_in_flight(
    url: str, client: Callable[[LoadPlan], Columns]
) -> None:
    """What was never sent is no failure of the server; what was in flight is told as cut."""
    for run_s in RUNS_S:
        limits = Limits(request_s=60, stall_s=60, run_s=run_s)
        columns = client(plan(url, ["stall", "stall", "good"], places=2, limits=limits))
        if list(columns.events) == [3, 3, 0]:
            break
    assert list(columns.ending) == [Ending.CUT, Ending.CUT, Ending.UNSENT]
    assert list(columns.events) == [3, 3, 0]
    assert columns.send_ns[2] == columns.end_ns[2] == NEVER


def test_usage_that_is_not_told_is_not_made_up(
    url: str, client: Callable[[LoadPlan], Columns]
) -> None:
    columns = client(plan(url, ["no_usage"], places=1))
    assert columns.events[0] == TOKENS
    assert columns.completion_tokens[0] == columns.prompt_tokens[0] == UNTOLD


def test_nobody_listens(client: Callable[[LoadPlan], Columns]) -> None:
    """A port that refuses is a failed connection of each request, no error of the run."""
    columns = client(plan("http://127.0.0.1:9", ["good"] * 3, places=2))
    assert list(columns.ending) == [Ending.CONNECT] * 3
    assert len(columns.failures) == 3
