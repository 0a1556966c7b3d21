"""Rules about the Docker engine."""

from __future__ import annotations

import pytest

from pytest_vllm.domain.facts.image import AbsentImage
from pytest_vllm.domain.finding import Fault, Severity
from pytest_vllm.domain.preflight.engine import IDS, RULES, age, compose, disk, kind, reachable
from tests.unit.launches import (
    GIB,
    found,
    make_bare_host,
    make_engine,
    make_host,
    make_launch,
    make_target,
    only,
)


def test_a_sound_engine_is_not_worth_a_word() -> None:
    assert [finding for rule in RULES for finding in rule(make_launch())] == []


def test_without_a_docker_backend_there_is_no_engine_to_judge() -> None:
    facts = make_launch(make_target(backend="process"), engine=None, image=None)
    assert [finding for rule in RULES for finding in rule(facts)] == []


@pytest.mark.parametrize(
    ("ref", "name"), [("D1", "engine.unreachable"), ("D2", "engine.permission")]
)
def test_an_engine_that_cannot_be_used_is_the_fault_of_the_host(ref: str, name: str) -> None:
    engine = make_engine(problem="no such socket", cure="start it", ref=ref)
    finding = only(reachable, make_launch(engine=engine, image=None))
    assert (finding.id, finding.ref, finding.seen, finding.cure) == (
        name,
        ref,
        "no such socket",
        "start it",
    )
    assert finding.stops
    assert not finding.fault.rejects


def test_a_plan_for_another_host_goes_without_an_engine() -> None:
    engine = make_engine(problem="no such socket", ref="D1", compose_problem="none")
    facts = make_launch(engine=engine, image=None, host=make_host(source="mi300x.json"))
    assert only(reachable, facts).severity is Severity.NOTE
    assert found(compose, facts) == []


def test_without_compose_nothing_is_started() -> None:
    facts = make_launch(engine=make_engine(compose="", compose_problem="there is no Compose v2"))
    finding = only(compose, facts)
    assert (finding.severity, finding.fault, finding.ref) == (Severity.FATAL, Fault.HOST, "D15")
    assert "pytest-vllm[compose]" in finding.cure


@pytest.mark.parametrize(("api", "count"), [("1.39", 1), ("1.40", 0), ("1.48", 0), ("2.0", 0)])
def test_an_old_engine_deserves_a_warning(api: str, count: int) -> None:
    findings = found(age, make_launch(engine=make_engine(api=api)))
    assert [finding.id for finding in findings] == ["engine.old"] * count


def test_an_engine_that_does_not_tell_its_api_is_not_judged() -> None:
    assert found(age, make_launch(engine=make_engine(api=""))) == []


def test_a_rootless_engine_needs_other_groups_for_gpus() -> None:
    finding = only(kind, make_launch(engine=make_engine(kind="podman", rootless=True)))
    assert finding.severity is Severity.WARNING
    assert "podman and rootless" in finding.seen
    assert "keep-groups" in finding.cure
    bare = make_launch(engine=make_engine(rootless=True), host=make_bare_host())
    assert only(kind, bare).severity is Severity.NOTE


@pytest.mark.parametrize(
    ("free_gib", "pull", "severity"),
    [
        (0.5, "never", Severity.FATAL),
        (20, "never", None),
        (20, "missing", Severity.WARNING),
        (100, "missing", None),
    ],
)
def test_free_disk_is_held_against_what_is_needed(
    free_gib: float, pull: str, severity: Severity | None
) -> None:
    engine = make_engine(data_free_bytes=int(free_gib * GIB))
    target = make_target(pull=pull)
    facts = make_launch(target, engine=engine, image=None, absent=AbsentImage(asked="a:1"))
    findings = found(disk, facts)
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    assert all(finding.ref == "D7" and "/var/lib/docker" in finding.seen for finding in findings)


def test_free_disk_that_cannot_be_seen_is_not_judged() -> None:
    assert found(disk, make_launch(engine=make_engine(data_free_bytes=None))) == []


def test_every_id_can_be_ignored() -> None:
    engine = make_engine(
        problem="p", ref="D1", compose_problem="c", api="1.1", data_free_bytes=0, rootless=True
    )
    facts = make_launch(engine=engine)
    assert {finding.id for rule in RULES for finding in rule(facts)} <= set(IDS)
