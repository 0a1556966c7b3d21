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


@pytest.mark.parametrize("name", SUITES)
@check("liveness.after-suite", ref="H05", catches=("generation-hangs",))
def test_liveness(vllm: Client, name: str) -> None:
    """After each suite, one token MUST come within a minute: `/health` stays 200 without any."""
    # Only that something comes: what is wrong with it is for the other suites to say.
    body = {"model": vllm.model, "prompt": "Hello", "max_tokens": 1}
    reply = vllm.send("POST", "/v1/completions", body=body)
    assert reply.status == 200
    assert reply.elapsed_ms < DEADLINE_MS, f"after the suite {name}"
