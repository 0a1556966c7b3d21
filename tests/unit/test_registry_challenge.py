"""What registries write into WWW-Authenticate is read as RFC 9110 has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.adapters.registry.challenge import read_challenges

HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:rocm/vllm:pull,push"'
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="Registry Realm"', [("basic", {"realm": "Registry Realm"})]),
        ('BASIC REALM = "x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="a\\"b\\\\c",service=plain',
            [("bearer", {"realm": 'a"b\\c', "service": "plain"})],
        ),
        (
            HUB,
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:rocm/vllm:pull,push",
                    },
                )
            ],
        ),
        (
            'Basic realm="x", Bearer realm="y"',
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})],
        ),
        ('Negotiate, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('realm="nobody asks"', []),
    ],
)
def test_challenges_are_read(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    found = [(challenge.scheme, challenge.values) for challenge in read_challenges(header)]
    assert found == expected


@given(st.text(max_size=200))
def test_any_header_is_read_without_an_error(header: str) -> None:
    for challenge in read_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()
