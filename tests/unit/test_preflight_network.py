"""Rules about the way to the hub, and to a server that somebody else runs."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm.domain.facts.client import ClientFacts
from pytest_vllm.domain.facts.model import ModelFacts
from pytest_vllm.domain.facts.network import NetworkFacts
from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.preflight.network import IDS, RULES, client
from tests.unit.launches import (
    found,
    make_bare_host,
    make_host,
    make_launch,
    make_target,
    only,
)

HUB = "https://huggingface.co"


def judged(**values: Any) -> list[Finding]:
    """Judge what a container in which the attempt came to some stage saw."""
    network = NetworkFacts(**{"hub": HUB, "where": "container", **values})
    model = ModelFacts(asked="org/model", similar=values.pop("similar", ()))
    facts = make_launch(network=network, model=model)
    return [finding for rule in RULES for finding in rule(facts)]


def answered(status: int, **values: Any) -> list[Finding]:
    return judged(stage="answered", resolved=True, reached=True, model_status=status, **values)


def test_nothing_is_said_where_nothing_was_tried() -> None:
    assert [finding for rule in RULES for finding in rule(make_launch())] == []


@pytest.mark.parametrize("status", [200, 302, 307])
def test_a_hub_that_has_the_model_is_not_worth_a_word(status: int) -> None:
    assert answered(status) == []


def test_a_model_without_a_config_is_there_all_the_same() -> None:
    assert answered(404, error_code="EntryNotFound") == []


def test_a_dns_server_of_the_host_that_works_is_the_cure() -> None:
    (finding,) = judged(stage="dns", problem="x cannot be resolved: -3", working_dns="10.0.0.2")
    assert (finding.id, finding.ref, finding.fault) == ("network.dns", "H1", Fault.NETWORK)
    assert finding.stops
    assert finding.cure.startswith("--vllm-dns=10.0.0.2; or ")
    assert "inside the container" in finding.seen
    assert "hf download org/model" in finding.cure


def test_a_dns_server_that_was_given_and_does_not_answer_is_named() -> None:
    (finding,) = judged(stage="dns", problem="x cannot be resolved", dns=("127.0.0.9",))
    assert "127.0.0.9 does not" in finding.cure


def test_a_process_has_the_dns_of_its_host() -> None:
    (finding,) = judged(stage="dns", problem="x cannot be resolved", where="process")
    assert "/etc/resolv.conf" in finding.cure
    assert "--vllm-dns" not in finding.cure


@pytest.mark.parametrize(
    ("stage", "problem", "ref"),
    [
        ("connect", "1.2.3.4 port 443: Connection refused (ECONNREFUSED)", "H2"),
        ("tls", "ConnectionResetError: [Errno 104] Connection reset by peer", "H2"),
        ("tls", "SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] ...", "H3"),
        ("http", "RemoteDisconnected: Remote end closed connection", "H2"),
    ],
)
def test_a_connection_fails_by_the_network(stage: str, problem: str, ref: str) -> None:
    (finding,) = judged(stage=stage, resolved=True, problem=problem)
    assert (finding.ref, finding.fault) == (ref, Fault.NETWORK)
    assert finding.stops
    assert problem in finding.seen


def test_a_hub_on_localhost_is_the_container_itself() -> None:
    (finding,) = judged(hub="http://127.0.0.1:8080", stage="connect", problem="refused")
    assert "is the container itself" in finding.seen


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_leaves_the_verdict_open(status: int) -> None:
    (finding,) = answered(status)
    assert (finding.ref, finding.fault) == ("H4", Fault.FLAKY)
    assert finding.stops
    assert not finding.fault.rejects


@pytest.mark.parametrize(
    ("status", "code", "token", "name", "ref"),
    [
        (401, "GatedRepo", False, "network.gated", "H6"),
        (403, "GatedRepo", True, "network.gated", "H6"),
        (403, "", True, "network.gated", "H6"),
        (401, "", True, "network.bad-token", "H5"),
        (401, "RepoNotFound", False, "network.no-such-model", "H7"),
        (401, "RepoNotFound", True, "network.no-such-model", "H7"),
        (404, "RepoNotFound", True, "network.no-such-model", "H7"),
        (401, "", False, "network.no-such-model", "H7"),
        (404, "RevisionNotFound", False, "network.revision", "H8"),
    ],
)
def test_a_refusal_is_the_users_to_mend(
    status: int, code: str, name: str, ref: str, *, token: bool
) -> None:
    (finding,) = answered(status, error_code=code, token=token)
    assert (finding.id, finding.ref, finding.fault) == (name, ref, Fault.USER)
    assert finding.stops
    assert finding.id in IDS


def test_a_gated_model_needs_a_token_or_another_one() -> None:
    (without,) = answered(401, error_code="GatedRepo")
    assert without.cure.startswith("export HF_TOKEN=")
    assert f"{HUB}/org/model" in without.cure
    (with_one,) = answered(403, error_code="GatedRepo", token=True)
    assert with_one.cure.startswith("accept the licence at")


def test_the_closest_known_name_is_the_cure_of_a_wrong_one() -> None:
    network = NetworkFacts(hub=HUB, where="container", stage="answered", model_status=404)
    model = ModelFacts(asked="org/modle", similar=("org/model",))
    facts = make_launch(make_target(model="org/modle"), network=network, model=model)
    (finding,) = [finding for rule in RULES for finding in rule(facts)]
    assert finding.cure == "--vllm-model=org/model"


def test_an_attempt_that_could_not_be_made_is_a_note() -> None:
    (finding,) = judged(problem="the image has no python3")
    assert (finding.id, finding.severity) == ("network.not-tried", Severity.NOTE)


def test_the_network_of_another_host_is_not_here() -> None:
    facts = make_launch(host=make_host(source="f.json"), model=ModelFacts(asked="org/model"))
    (finding,) = [finding for rule in RULES for finding in rule(facts)]
    assert finding.severity is Severity.NOT_APPLICABLE


KNOCK = ClientFacts(
    url="http://localhost:8000",
    host="localhost",
    port=8000,
    loopback=True,
    refused=True,
    problem="Connection refused",
)


def attached(knock: ClientFacts, container: str = "/.dockerenv") -> list[Finding]:
    target = make_target(url=knock.url)
    host = make_bare_host(container=container)
    return found(client, make_launch(target, host=host, engine=None, image=None, client=knock))


def test_localhost_inside_a_container_is_the_container() -> None:
    (finding,) = attached(KNOCK)
    assert (finding.id, finding.ref) == ("network.client-in-container", "Q6")
    assert finding.stops
    assert not finding.fault.rejects
    assert "http://SERVICE:8000" in finding.cure
    assert "/.dockerenv" in finding.seen


@pytest.mark.parametrize(
    ("changes", "container"),
    [
        ({"refused": False, "problem": "no route"}, ""),
        ({"refused": False, "problem": "timed out"}, "/.dockerenv"),
        ({"refused": False, "problem": ""}, "/.dockerenv"),
    ],
)
def test_any_other_way_to_a_server_is_left_to_the_run(
    changes: dict[str, Any], container: str
) -> None:
    values = {name: getattr(KNOCK, name) for name in KNOCK.__slots__}
    assert attached(ClientFacts(**{**values, **changes}), container) == []


@pytest.mark.parametrize(
    ("changes", "container"),
    [({}, ""), ({"loopback": False, "host": "server"}, "/.dockerenv")],
)
def test_where_nothing_listens_there_is_nothing_to_test(
    changes: dict[str, Any], container: str
) -> None:
    values = {name: getattr(KNOCK, name) for name in KNOCK.__slots__}
    (finding,) = attached(ClientFacts(**{**values, **changes}), container)
    assert (finding.id, finding.stops) == ("network.nobody-listens", True)
    assert not finding.fault.rejects
    assert "http://localhost:8000 (Connection refused)" in finding.seen
    loading = ClientFacts(**{**values, **changes, "server_here": True})
    (warning,) = attached(loading, container)
    assert warning.severity is Severity.WARNING
    assert "may still be loading" in warning.seen


def test_a_server_that_still_starts_beside_us_is_waited_for() -> None:
    values = {name: getattr(KNOCK, name) for name in KNOCK.__slots__}
    knock = ClientFacts(**{**values, "server_here": True})
    target = make_target(url=knock.url)
    facts = make_launch(target, host=make_bare_host(container="/.dockerenv"), client=knock)
    assert only(client, facts).severity is Severity.WARNING
