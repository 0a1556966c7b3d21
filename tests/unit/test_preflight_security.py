"""Rules about what a server may do to its host."""

from __future__ import annotations

import pytest

from pytest_vllm.domain.facts.container import ContainerFacts
from pytest_vllm.domain.finding import Severity
from pytest_vllm.domain.preflight.security import (
    IDS,
    RULES,
    gfx_override,
    override,
    remote_code,
    token,
)
from tests.unit.launches import found, make_host, make_image, make_launch, make_target, only

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_container_of_least_privilege_is_not_worth_a_word() -> None:
    ours = ContainerFacts(override="o.yaml", published=("127.0.0.1:8000",), sources=("/models",))
    assert [finding for rule in RULES for finding in rule(make_launch(container=ours))] == []


def test_each_right_that_is_given_away_is_named_with_its_file() -> None:
    container = ContainerFacts(
        override="o.yaml",
        privileged=True,
        network_mode="host",
        sources=("/models", "/var/run/docker.sock"),
        published=("0.0.0.0:8000", ":9000", "127.0.0.1:8001", "::1:8002"),
    )
    findings = found(override, make_launch(container=container))
    assert [finding.id for finding in findings] == [
        "security.privileged",
        "security.host-network",
        "security.engine-socket",
        "security.published-port",
        "security.published-port",
    ]
    assert all(finding.severity is Severity.WARNING and finding.cure for finding in findings)
    assert all("o.yaml" in finding.seen and finding.id in IDS for finding in findings)
    assert "0.0.0.0" in findings[3].seen
    assert "every address" in findings[4].seen


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"revision": "main"}, 1),
        ({"revision": COMMIT[:7]}, 1),
        ({"revision": COMMIT}, 0),
        ({"model": "/models/x"}, 0),
    ],
)
def test_remote_code_wants_a_revision_that_cannot_move(options: dict[str, str], count: int) -> None:
    target = make_target(serve_arg=["--trust-remote-code"], **options)
    findings = found(remote_code, make_launch(target))
    assert [finding.id for finding in findings] == ["security.remote-code"] * count
    assert found(remote_code, make_launch(make_target(**options))) == []


def test_a_revision_among_the_arguments_counts() -> None:
    target = make_target(serve_arg=["--trust-remote-code", f"--revision={COMMIT}"])
    assert found(remote_code, make_launch(target)) == []


def test_a_gpu_that_poses_as_another_proves_nothing() -> None:
    target = make_target(env=["HSA_OVERRIDE_GFX_VERSION=9.4.2"])
    assert "HSA_OVERRIDE_GFX_VERSION=9.4.2" in only(gfx_override, make_launch(target)).seen
    image = make_image(env={"HSA_OVERRIDE_GFX_VERSION": "11.0.0"})
    assert "11.0.0" in only(gfx_override, make_launch(image=image)).seen
    ours = make_host(variables={"HSA_OVERRIDE_GFX_VERSION": "11.0.0"})
    by_process = make_target(backend="process")
    assert only(gfx_override, make_launch(by_process, host=ours, image=None)).cure
    assert found(gfx_override, make_launch(host=ours)) == [], "a container does not inherit it"


def test_a_token_on_the_command_line_is_never_repeated() -> None:
    finding = only(token, make_launch(make_target(serve_arg=["--hf-token=hf_secret"])))
    assert "hf_secret" not in finding.seen + finding.cure
    assert "--vllm-env=HF_TOKEN" in finding.cure
