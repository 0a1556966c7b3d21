"""Limits of start-up phases."""

from __future__ import annotations

import pytest

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.limits import LIMITS, limit_of, read_limits, spell
from pytest_vllm.domain.phases import ORDER


def test_every_phase_has_a_limit() -> None:
    assert tuple(LIMITS) == ORDER


@pytest.mark.parametrize("word", ["graph-capture=10", "graph capture=10", "Graph_Capture=10.0"])
def test_a_phase_may_be_spelled_with_or_without_a_blank(word: str) -> None:
    assert read_limits([word, word]) == {"graph capture": 10.0}


@pytest.mark.parametrize(
    ("word", "message", "advice"),
    [
        ("load", "'load' is not PHASE=SECONDS", "--vllm-phase-timeout=load=3600"),
        ("load=", "'load=' is not PHASE=SECONDS", "load=3600"),
        ("load=soon", "is not PHASE=SECONDS", "load=3600"),
        ("load=-1", "seconds above 0", "load=3600"),
        ("load=nan", "seconds above 0", "load=3600"),
        ("load=inf", "seconds above 0", "load=3600"),
        ("compyle=5", "no phase 'compyle'; did you mean compile?", "use one of pull, start"),
        ("=5", "no phase ''", "graph-capture"),
    ],
)
def test_what_cannot_be_read_is_refused(word: str, message: str, advice: str) -> None:
    with pytest.raises(TargetError) as caught:
        read_limits([word])
    assert message in caught.value.message
    assert advice in caught.value.advice


def test_two_limits_for_one_phase_are_refused() -> None:
    with pytest.raises(TargetError, match="phase load has two limits, 3 and 4"):
        read_limits(["load=3", "load=4"])


@pytest.mark.parametrize(
    ("gib", "limit_s"), [(None, 1800.0), (0.25, 900.0), (420.0, 900.0), (640.0, 1340.0)]
)
def test_loading_may_take_as_long_as_the_weights_are_large(
    gib: float | None, limit_s: float
) -> None:
    assert limit_of("load", {}, weights_gib=gib) == limit_s
    assert limit_of("load", {"load": 7.0}, weights_gib=gib) == 7.0


def test_an_unnamed_phase_is_not_limited() -> None:
    assert limit_of("waiting for a GPU", {}) == float("inf")
    assert spell("kv cache") == "kv-cache"
