"""Watching a server's `/metrics` around a load, whatever the server answers."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.load import server_truth
from pytest_vllm.adapters.load.server_truth import ServerWatch
from pytest_vllm.domain.load.server_looks import ServerLook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Answer = tuple[int, str]
KEY = "Bearer secret-of-the-server"


def told(finished: int) -> Answer:
    """What a server says that has finished so many requests."""
    return 200, (
        "# HELP vllm:request_success_total x\n"
        f'vllm:request_success_total{{finished_reason="length"}} {finished}.0\n'
        "python_gc_objects_collected_total 3.0\n"
        f"vllm:num_requests_running 0.0\n"
    )


class Script:
    """Answers each look by its number, and lets a test wait for one."""

    def __init__(self, answer: Callable[[int], Answer]) -> None:
        self.answer = answer
        self.asked = 0
        self.keys: set[str | None] = set()
        self._changed = threading.Condition()

    def next(self, key: str | None) -> Answer:
        with self._changed:
            self.asked += 1
            self.keys.add(key)
            self._changed.notify_all()
            return self.answer(self.asked)

    def wait_for(self, looks: int) -> None:
        """Return when so many looks were answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.asked >= looks, timeout=30)


@contextmanager
def serving(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/metrics"
            status, text = script.next(self.headers.get("authorization"))
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not end the waiting for counts, nor make looks rare."""
    monkeypatch.setattr(server_truth, "SHARE", 1.0)
    monkeypatch.setattr(server_truth, "_SETTLES_WITHIN_S", 60)


def test_before_during_and_after() -> None:
    finished = 10
    script = Script(lambda _: told(finished))
    with serving(script) as url, ServerWatch(url, interval_s=0.5) as watch:
        before, finished = watch.looks, 20
        script.wait_for(script.asked + 2)  # the second was surely begun after that
        finished = 30
    assert [look.counters["finished"] for look in before.looks] == [10.0]
    counts = [look.counters["finished"] for look in watch.looks.looks]
    assert counts == sorted(counts)
    assert set(counts) == {10.0, 20.0, 30.0}
    assert counts[-1] == counts[-2] == 30.0  # nothing changes any more
    moments = [look.at_ns for look in watch.looks.looks]
    assert moments == sorted(moments)
    assert watch.looks.failed == 0


def test_counts_that_come_after_the_last_token_are_waited_for() -> None:
    """What was asked before is counted late, and so is the load: neither is the other's."""
    script = Script(lambda number: told(min(number, 3)))
    with serving(script) as url, ServerWatch(url, interval_s=60) as watch:
        assert [look.counters["finished"] for look in watch.looks.looks] == [3.0]
        over = script.asked
        script.answer = lambda number: told(3 + min(number - over, 4))
    assert [look.counters["finished"] for look in watch.looks.looks] == [3, 4, 5, 6, 7, 7]


def test_looks_that_take_long_become_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of the time in which the server answers them is bounded."""
    monkeypatch.setattr(server_truth, "SHARE", 1e-9)
    script = Script(lambda _: told(1))
    with serving(script) as url, ServerWatch(url, interval_s=0.5) as watch:
        assert watch._pause_s() > 1000


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ((404, "no"), "answered with status 404"),
        ((401, "no"), "answered with status 401"),
        ((200, "vllm:num_requests_running what\n"), "not in Prometheus' format"),
    ],
)
def test_a_server_that_says_something_else_is_noted_once(answer: Answer, note: str) -> None:
    script = Script(lambda _: answer)
    with serving(script) as url, ServerWatch(url, interval_s=0.5) as watch:
        script.wait_for(2)
    assert watch.looks.looks == ()
    assert watch.looks.failed == script.asked >= 3
    (said,) = watch.looks.notes
    assert note in said


def test_no_server_at_all_ends_soon() -> None:
    with serving(Script(told)) as url:
        pass
    with ServerWatch(url) as watch:
        pass
    assert watch.looks.failed == 2
    assert watch.looks.looks == ()


def test_the_key_is_sent_and_never_noted() -> None:
    script = Script(lambda _: (401, "no"))
    key = KEY.removeprefix("Bearer ")
    with serving(script) as url, ServerWatch(url, api_key=key, interval_s=60) as watch:
        pass
    assert script.keys == {KEY}
    assert not any(key in note for note in watch.looks.notes)


def test_an_interrupt_is_not_held_up() -> None:
    """After Ctrl-C nobody waits for counts to settle."""
    script = Script(lambda _: told(1))
    asked = []

    def interrupted(url: str) -> None:
        with ServerWatch(url, interval_s=60):
            asked.append(script.asked)
            raise KeyboardInterrupt

    with serving(script) as url:
        with pytest.raises(KeyboardInterrupt):
            interrupted(url)
        assert asked == [script.asked]


def test_counts_that_never_settle_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others use the server all the time."""
    monkeypatch.setattr(server_truth, "_SETTLES_WITHIN_S", 0)
    script = Script(told)
    with serving(script) as url, ServerWatch(url, interval_s=60) as watch:
        pass
    assert len(watch.looks.looks) == 3  # the last of two before, and two after


def test_the_number_of_looks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_truth, "LIMIT", 4)
    script = Script(lambda _: told(1))
    with serving(script) as url, ServerWatch(url, interval_s=60) as watch:
        over = script.asked
        script.answer = lambda number: told(1 + min(number - over, 8))
    kept = [look.counters["finished"] for look in watch.looks.looks]
    assert len(kept) <= 4
    assert (kept[0], kept[-1]) == (1.0, 9.0)


def test_the_highest_look_stays_when_looks_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a load is: one look with the most running requests is among those kept."""
    monkeypatch.setattr(server_truth, "LIMIT", 8)
    watch = ServerWatch("http://127.0.0.1:9")
    for n in range(100):
        watch._keep(ServerLook(at_ns=n, gauges={"running": 9.0 if n == 3 else 1.0}))
    looks = watch.looks.looks
    assert len(looks) <= 8
    assert [look.at_ns for look in looks if look.gauges["running"] == 9.0] == [3]
