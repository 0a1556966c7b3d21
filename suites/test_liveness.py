"""Liveness: after each suite the server still generates, for `/health` alone proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_vllm import Client, check, suite

pytestmark = suite("liveness")

SUITES = sorted(
    path.stem.removeprefix("test_")
    for path in Path(__file__).parent.glob("test_*.py")
    if path.stem != "test_liveness"
)
DEADLINE_MS = 60_000
TRIES = 2
"""A busy host may hold one answer up."""


@pytest.mark.parametrize("name", SUITES)
@check("liveness.after-suite", alone=True, ref="H05", catches=("generation-hangs",))
def test_liveness(vllm: Client, name: str) -> None:
    """After each suite, one token MUST come within a minute: `/health` stays 200 without any."""
    # Only that something comes: what is wrong with it is for the other suites to say.
    body = {"model": vllm.model, "prompt": "Hello", "max_tokens": 1}
    for _ in range(TRIES):
        reply = vllm.send("POST", "/v1/completions", body=body)
        assert reply.status == 200
        if reply.elapsed_ms < DEADLINE_MS:
            return
    pytest.fail(f"after the suite {name} it took {reply.elapsed_ms:.0f} ms", pytrace=False)
