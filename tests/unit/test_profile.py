"""Profiles: what they may hold, and errors that name file and key."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.profile import build_profile

WAIVER = {
    "check": "chat.x",
    "reason": "known",
    "link": "https://example.org/1",
    "expires": dt.date(2030, 1, 1),
}


def test_a_full_profile_is_read() -> None:
    profile = build_profile(
        "mine.toml",
        {
            "schema": 1,
            "target": {"timeout": 900, "serve-arg": ["--dtype=bfloat16"]},
            "verdict": {"complete": True, "pinned-image": True},
            "capabilities": {"chat": True},
            "waiver": [WAIVER],
        },
    )
    assert profile.complete
    assert profile.pinned_image
    assert profile.capabilities == ("chat",)
    assert profile.waivers[0].expires == dt.date(2030, 1, 1)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, ("schema", "schema = 1")),
        ({"schema": 2}, ("schema is 2",)),
        ({"schema": True}, ("schema is True", "schema = 1")),
        ({"schema": 1.0}, ("schema is 1.0",)),
        ({"schema": 1, "tarket": {}}, ("tarket", "did you mean target?")),
        ({"schema": 1, "target": {"modle": "x"}}, ("[target]", "modle", "did you mean model?")),
        ({"schema": 1, "target": []}, ("target is not a table",)),
        ({"schema": 1, "verdict": {"complete": "yes"}}, ("complete", "true or false")),
        ({"schema": 1, "capabilities": {"vision": True}}, ("vision",)),
        ({"schema": 1, "waiver": {}}, ("[[waiver]]",)),
        ({"schema": 1, "waiver": [{**WAIVER, "expires": "soon"}]}, ("waiver 1", "expires")),
        ({"schema": 1, "waiver": [{"check": "x"}]}, ("waiver 1", "reason")),
    ],
)
def test_a_wrong_profile_names_file_and_key(
    table: dict[str, object], words: tuple[str, ...]
) -> None:
    with pytest.raises(TargetError) as caught:
        build_profile("mine.toml", table)
    assert "mine.toml" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["schema", "target", "verdict", "waiver", "capabilities", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["schema", "target", "verdict", "waiver"]), _JSON))
def test_no_table_ends_in_a_traceback(table: dict[str, object]) -> None:
    """Any table is a profile or a `TargetError`."""
    with suppress(TargetError):
        build_profile("fuzz.toml", table)
