"""Which runs are meant by an image, a model, a GPU, a verdict, a time, or by `latest`."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.run_brief import RunBrief
from pytest_vllm.domain.run_choice import Latest, RunChoice, promoted, read_choice, read_latest
from pytest_vllm.domain.verdict import Decision

NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
RUN = RunBrief(
    run_id="20261122-181930-3fa9c1",
    started=dt.datetime(2026, 11, 22, 18, 19, 30, tzinfo=dt.UTC),
    decision=Decision.PROMOTE,
    image="rocm/vllm:0.32.0",
    digest="sha256:9f86d081",
    model="Qwen/Qwen3-8B",
    gpus="8x AMD Instinct MI300X",
)


@pytest.mark.parametrize(
    ("parts", "fits"),
    [
        ({}, True),
        ({"image": "ROCM/"}, True),
        ({"image": "sha256:9F86"}, True),
        ({"image": "9f86"}, True),
        ({"image": "86d0"}, False),
        ({"image": "0.33"}, False),
        ({"model": "qwen3"}, True),
        ({"model": "llama"}, False),
        ({"gpu": "mi300x"}, True),
        ({"gpu": "H100"}, False),
        ({"verdict": "promote"}, True),
        ({"verdict": "REJECT"}, False),
        ({"since": "2026-11-22"}, True),
        ({"since": "2026-11-22T18:19:31+00:00"}, False),
        ({"since": "2026-11-22T20:00:00+02:00"}, True),
        ({"since": "1d"}, True),
        ({"since": "12h"}, False),
        ({"model": "qwen", "gpu": "h100"}, False),
    ],
)
def test_every_part_has_to_fit(parts: dict[str, str], fits: bool) -> None:  # noqa: FBT001
    assert read_choice(**parts, now=NOW).fits(RUN) is fits


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"verdict": "promot"}, "--verdict: there is no verdict 'promot'; did you mean PROMOTE?"),
        ({"since": "yesterday"}, "--since: 'yesterday' is no time"),
        ({"since": "2026-13-01"}, "--since: '2026-13-01' is no time"),
        ({"since": "999999d"}, "is no time"),
    ],
)
def test_what_is_no_verdict_or_time_is_named(parts: dict[str, str], words: str) -> None:
    with pytest.raises(TargetError) as caught:
        read_choice(**parts, now=NOW)
    assert words in caught.value.message
    assert caught.value.advice


def test_latest_takes_places_and_parts() -> None:
    assert read_latest("latest") == Latest()
    assert read_latest("latest~3") == Latest(back=3)
    found = read_latest("latest~1:model=Qwen3,gpu=MI300X,verdict=reject")
    wanted = RunChoice(model="Qwen3", gpu="MI300X", decision=Decision.REJECT)
    assert found == Latest(back=1, choice=wanted)
    assert wanted.words() == "model Qwen3, GPU MI300X, verdict REJECT"
    assert read_latest("20261122-181930-3fa9c1") is None
    assert read_latest("latest.json") is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("latest:gpus=1", "'gpus=1' chooses no run; did you mean gpu?"),
        ("latest:model", "'model' chooses no run"),
        ("latest:model=", "'model=' chooses no run"),
        ("latest:model=a,model=b", "'model=b' chooses no run"),
        ("latest:verdict=x", "latest:verdict: there is no verdict 'x'"),
    ],
)
def test_a_wrong_part_of_latest_is_named(name: str, words: str) -> None:
    with pytest.raises(TargetError) as caught:
        read_latest(name)
    assert words in caught.value.message


def test_a_baseline_was_promoted_unless_another_verdict_is_named() -> None:
    assert promoted(Latest()).choice.decision is Decision.PROMOTE
    rejected = Latest(choice=RunChoice(decision=Decision.REJECT))
    assert promoted(rejected).choice.decision is Decision.REJECT


@given(st.text(max_size=40))
def test_any_name_is_a_choice_or_an_error_with_words(name: str) -> None:
    with suppress(TargetError):
        found = read_latest(f"latest{name}")
        assert found is None or found.back >= 0
