"""A burst of signals is one, and what the user made us deaf to stays unheard."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.plugin import signals as module
from pytest_vllm.plugin.signals import Signals

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def signals() -> Iterator[Signals]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    made = Signals()
    made.take()
    yield made
    made.give_back()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_only_the_first_of_a_burst_ends_the_run(signals: Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    for _ in range(5):
        send(signal.SIGINT)
    assert signals.ended_by == 0
    send(signal.SIGTERM)
    assert signals.ended_by == signal.SIGTERM


def test_who_waits_is_heard_again(signals: Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run may hang in a test's own fixture; the next Ctrl-C cuts that."""
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    later = module.time.monotonic() + 6
    monkeypatch.setattr(module.time, "monotonic", lambda: later)
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    assert signals.ended_by == 0


def test_nothing_is_heard_while_they_are_held(signals: Signals) -> None:
    with signals.held():
        send(signal.SIGINT)
        send(signal.SIGTERM)
    assert signals.ended_by == 0
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)


def test_nohup_stays(signals: Signals) -> None:
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    send(signal.SIGHUP)
    assert signals.ended_by == 0
