"""Checks that a busy host must not fail: what they put up with, and what they still reject."""

from __future__ import annotations

import runpy
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.plugin import prefix_cache, traffic
from pytest_vllm.plugin.traffic import looks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SUITES = Path(__file__).parents[2] / "suites"


def check_of(suite: str, name: str) -> Callable[..., None]:
    """Return the function of a check; its globals are its own."""
    found: Callable[..., None] = runpy.run_path(str(SUITES / f"test_{suite}.py"))[name]
    return found


def target(**given: Any) -> SimpleNamespace:
    """Stand for a target with some arguments of the server."""
    return SimpleNamespace(
        serve_args=SimpleNamespace(value=given.get), seconds=lambda name: given[name]
    )


class Answering:
    """Stands for a client whose every answer takes as long as was said, the last one again.

    Args:
        times_ms: How long each takes.
    """

    model = "m"
    max_model_len = None
    server = SimpleNamespace(capabilities=())

    def __init__(self, *times_ms: float) -> None:
        self.times_ms = times_ms
        self.answered = 0

    def complete(self, *_: object, **__: object) -> SimpleNamespace:
        took = self.times_ms[min(self.answered, len(self.times_ms) - 1)]
        self.answered += 1
        return SimpleNamespace(status=200, elapsed_ms=took)

    get = send = refuse = complete

    def refuse_each(self, *_: object, **__: object) -> None:
        """Refuse them, as is right."""

    def abandon(self, *_: object, **__: object) -> None:
        """Hang up."""

    def together(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        return [call() for call in calls]


# --- looks ---------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock on which only sleeping takes time."""
    now = SimpleNamespace(s=0.0)

    def sleep(seconds: float) -> None:
        now.s += seconds

    monkeypatch.setattr(traffic, "time", SimpleNamespace(monotonic=lambda: now.s, sleep=sleep))
    return now


@pytest.mark.parametrize("look_s", [0.0, 10.0])
def test_the_last_look_begins_after_the_wait(clock: SimpleNamespace, look_s: float) -> None:
    """A look that takes longer than the whole wait is not the only one."""
    began = []
    for _ in looks(5.0):
        began.append(clock.s)
        clock.s += look_s
    assert len(began) >= 5
    assert began[-1] > 5.0
    assert began[-2] <= 5.0 or len(began) == 5


def test_hits_that_come_late_are_seen(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([1.0, 1.0, 2.0])

    def hits(_vllm: object) -> float:
        clock.s += 6.0
        return next(told)

    monkeypatch.setattr(prefix_cache, "hits", hits)
    assert prefix_cache.await_hits(SimpleNamespace(), 1.0) == 2.0  # type: ignore[arg-type]
    monkeypatch.setattr(prefix_cache, "hits", lambda _vllm: 1.0)
    with pytest.raises(AssertionError, match="hit no prefix cache"):
        prefix_cache.await_hits(SimpleNamespace(), 1.0)  # type: ignore[arg-type]


# --- answers that one moment holds up ------------------------------------------------------------


@pytest.mark.parametrize(
    ("suite", "name", "arguments"),
    [
        ("server", "test_health", ()),
        ("server", "test_liveness", ()),
        ("liveness", "test_liveness", ("chat",)),
        ("errors", "test_aftermath", ()),
        ("errors", "test_too_long_is_fast", ()),
    ],
)
def test_one_late_answer_is_asked_for_again(
    suite: str, name: str, arguments: tuple[str, ...]
) -> None:
    """The moment of a host passes; a server that answers late each time does not."""
    checked = check_of(suite, name)
    moment = Answering(*[90_000.0] * (2 if name == "test_aftermath" else 1), 5.0)
    checked(moment, *arguments)
    with pytest.raises(pytest.fail.Exception, match="took 90000 ms"):
        checked(Answering(90_000.0), *arguments)


class Serving(Answering):
    """Answers whatever it is asked at once, and `/health` as late as was said."""

    def complete(self, *_: object, **__: object) -> SimpleNamespace:
        self.answered += 1
        time.sleep(0.001)
        return SimpleNamespace(status=200, elapsed_ms=1.0)

    def get(self, _path: str) -> SimpleNamespace:
        late, self.times_ms = self.times_ms[0], self.times_ms[1:] or self.times_ms
        return SimpleNamespace(status=200, elapsed_ms=late)


def test_a_late_health_rejects_only_when_a_second_load_has_another() -> None:
    checked = check_of("server", "test_health_under_load")
    checked(Serving(9_000.0, 1.0))
    with pytest.raises(pytest.fail.Exception, match="it took 9000 ms under the last of 2 loads"):
        checked(Serving(9_000.0))


def test_a_server_that_is_faster_than_the_first_look_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked, fast = check_of("server", "test_health_under_load"), Serving(1.0)

    class Late(ThreadPoolExecutor):
        def submit(self, *given: Any, **named: Any) -> Any:
            future = super().submit(*given, **named)
            while fast.answered < 8:
                time.sleep(0.001)
            return future

    monkeypatch.setitem(checked.__globals__, "ThreadPoolExecutor", Late)
    checked(fast)


class GivingUp(Answering):
    """Answers within 300 ms but for one moment, and otherwise once requests were given up.

    Args:
        afterwards_ms: How long each answer takes then.
    """

    def __init__(self, afterwards_ms: Iterable[float]) -> None:
        super().__init__(100.0, 9_000.0, 300.0)
        self.afterwards_ms = tuple(afterwards_ms)

    def abandon(self, *_: object, **__: object) -> None:
        self.answered, self.times_ms = 0, self.afterwards_ms


@pytest.mark.parametrize(("slow", "fails"), [(4, False), (5, True)])
def test_a_batch_after_aborts_may_be_slow_for_a_while(
    monkeypatch: pytest.MonkeyPatch, *, slow: int, fails: bool
) -> None:
    """Places that are lost stay lost, and a host is not busy for ever."""
    checked = check_of("concurrency", "test_many_aborts")
    named: dict[str, Any] = {"BUSY_S": 0.0, "_batch_ms": lambda vllm, _: vllm.get().elapsed_ms}
    for name, value in named.items():
        monkeypatch.setitem(checked.__globals__, name, value)
    client = GivingUp(1101.0 if number < slow else 1100.0 for number in range(6))
    if not fails:
        checked(client, target())
        return
    with pytest.raises(pytest.fail.Exception, match="300 ms before and 1101 ms after, at best"):
        checked(client, target())


# --- streams -------------------------------------------------------------------------------------


class Drawing:
    """Draws other tokens for some choices of a stream than without one.

    Args:
        turned: Indexes of those choices.
    """

    def __init__(self, turned: Iterable[int]) -> None:
        self.turned = set(turned)

    def complete(self, _prompt: str, *, n: int, **_: object) -> SimpleNamespace:
        return SimpleNamespace(
            json={"choices": [{"index": index, "text": f"{index}"} for index in range(n)]}
        )

    def stream(self, _endpoint: str, _prompt: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(text=lambda at: "other" if at in self.turned else f"{at}")


def test_a_few_draws_that_rounding_turns_are_no_other_seed() -> None:
    checked = check_of("stream", "test_seed")
    checked(Drawing(range(11)))
    with pytest.raises(AssertionError, match="at least 5 of 16 equal choices, saw 4"):
        checked(Drawing(range(12)))


@pytest.mark.parametrize(
    ("times_ms", "fails"),
    [
        ([50.0 * (number + 1) for number in range(41)], False),
        ([650.0] * 12 + [650.0 + 50.0 * number for number in range(1, 30)], False),
        ([2.0 * number + 2.0 for number in range(12)] + [50.0 * n for n in range(1, 30)], True),
    ],
    ids=["steady", "held up", "slower"],
)
def test_events_that_a_host_held_up_are_no_pace(times_ms: list[float], *, fails: bool) -> None:
    """What comes late and all at once was made as quickly as what follows."""
    lines = [("data: {}", at_ms) for at_ms in times_ms]
    client = SimpleNamespace(stream=lambda *_, **__: SimpleNamespace(lines=lines))
    checked = check_of("stream", "test_pace")
    if not fails:
        checked(client, target())
        return
    with pytest.raises(pytest.fail.Exception, match="2.0 ms at first, 50.0 ms at last"):
        checked(client, target())


# --- lengths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("each_ms", "second"), [(10.0, 1024), (200.0, 300), (2000.0, 128)])
def test_a_longer_answer_ends_within_the_limit_of_a_request(each_ms: float, second: int) -> None:
    """How much is asked for the second time depends on the speed of the first."""
    asked = []

    def create(_asked: str, *, max_output_tokens: int, **_: object) -> SimpleNamespace:
        asked.append(max_output_tokens)
        return SimpleNamespace(
            elapsed_ms=each_ms * max_output_tokens,
            json={"usage": {"output_tokens": max_output_tokens}},
        )

    said = SimpleNamespace(text="{", thought="")
    responses = SimpleNamespace(create=create, read=lambda _: said)
    client = SimpleNamespace(responses=responses, max_model_len=None)
    with pytest.raises(pytest.fail.Exception, match="not done within"):
        check_of("responses", "test_json_schema")(client, target(**{"request-timeout": 120.0}))
    assert asked == [64, second]
