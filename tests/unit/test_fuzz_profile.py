"""Any profile, waivers included, is read or refused by its name and key."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.profile import Profile, build_profile
from pytest_vllm.domain.settings import OPTIONS, Sources, resolve
from pytest_vllm.domain.waivers import cautions, refuse_expired, use_of, waive, waived_words
from pytest_vllm.plugin.options import load_profile
from tests.unit.fuzz import JUNK, tries
from tests.unit.records import HOSTILE, all_passed

if TYPE_CHECKING:
    from pathlib import Path

TODAY = dt.date(2026, 11, 23)
KEYS = (
    "schema",
    "description",
    "target",
    "verdict",
    "capabilities",
    "waiver",
    "slo",
    "performance",
)
WAIVER = {
    "check": "chat.usage.adds-up",
    "reason": "known",
    "link": "https://example.org/1",
    "expires": dt.date(2027, 1, 31),
}
DATES = st.dates() | st.datetimes() | st.times()
VALUES: st.SearchStrategy[Any] = JUNK | DATES | st.floats(allow_nan=True)
WAIVERS = st.fixed_dictionaries(
    {},
    optional={
        "check": st.sampled_from([WAIVER["check"], "a.b[c]", "a", HOSTILE]) | VALUES,
        "reason": st.just("known") | VALUES,
        "link": st.sampled_from(["https://h/1", "http://[", "javascript:x", HOSTILE]) | VALUES,
        "expires": DATES | VALUES,
        "more": VALUES,
    },
)
SECTION = st.dictionaries(
    st.sampled_from([*(option.name for option in OPTIONS), "complete", "chat", "ttft-p99"])
    | st.text(max_size=5),
    VALUES,
    max_size=3,
)
TABLES = st.fixed_dictionaries(
    {"schema": st.just(1)},
    optional={
        key: SECTION | (st.lists(WAIVERS | VALUES, max_size=3) if key == "waiver" else VALUES)
        for key in KEYS[1:]
    },
)


def use(profile: Profile) -> None:
    """Do with a profile what a run does."""
    resolve(Sources(options={}, env={}, ini={}), profile=profile.target, profile_name=profile.name)
    refuse_expired(profile, TODAY)
    results = waive(profile.waivers, all_passed(), TODAY)
    waived_words(use_of(profile.waivers, results, TODAY))
    cautions(profile, TODAY)


def refused(error: TargetError) -> None:
    """Hold a refusal to what a user needs: one line that names the file, and a way out."""
    assert "mine.toml" in error.message or error.message.startswith("--vllm-profile: ")
    assert "\n" not in error.message
    assert error.advice


@tries(150)
@given(TABLES | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), VALUES, max_size=4))
def test_any_table_is_a_profile_or_a_clear_error(table: dict[str, Any]) -> None:
    try:
        profile = build_profile("mine.toml", table)
        use(profile)
    except TargetError as error:
        refusal = error
    else:
        return
    refused(refusal)


@tries(80)
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
)
@example(b"")
@example(b"\xff")
@example(b"schema = 1\nx = " + b"[" * 5_000)
@example(b"schema = 1\nx = " + b"{a=" * 5_000)
@example(b"schema = " + b"9" * 5_000)
@example(b"schema = 1\n[[waiver]]\nexpires = 2026-02-30")
@example(b"schema = 1\n[waiver]\nexpires = 2026-02-28")
@example(b"schema = 1\n[verdict]\ncomplete = nan")
def test_any_file_is_a_profile_or_a_clear_error(tmp_path: Path, data: bytes) -> None:
    tmp_path.joinpath("mine.toml").write_bytes(data)
    with pytest.raises(TargetError) as caught:
        load_profile("mine.toml", base=tmp_path)
    refused(caught.value)


@tries(80)
@given(st.text(max_size=30) | st.sampled_from(["../x", "a\0b.toml", "\ud800.toml", "x" * 999, "."]))
def test_any_name_of_a_profile_is_found_or_a_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(TargetError) as caught:
        load_profile(name, base=tmp_path)
    assert caught.value.message.startswith("--vllm-profile: ")
    assert "\n" not in caught.value.message
    assert caught.value.advice


@tries(100)
@given(st.lists(WAIVERS, max_size=3))
def test_any_waiver_is_one_or_names_its_number(waivers: list[dict[str, Any]]) -> None:
    try:
        profile = build_profile("mine.toml", {"schema": 1, "waiver": waivers})
    except TargetError as error:
        refusal = error
    else:
        assert len(profile.waivers) == len(waivers)
        return
    assert refusal.message.startswith("profile mine.toml waiver ")
    refused(refusal)
