"""Rules about the way to the model hub, and to a server that somebody else runs."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.preflight import not_applicable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.client import ClientFacts
    from pytest_vllm.domain.facts.network import NetworkFacts

_OFFLINE = "download the model on this host first (hf download {model}), then it is served offline"
_MISSING = ("RepoNotFound", "RevisionNotFound")
_BUSY = 429
_SERVER_ERROR = 500
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_NOT_FOUND = 404


def tried(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Say when the attempt itself could not be made."""
    network = facts.network
    if network is not None and network.problem and not network.stage:
        yield Finding(
            id="network.not-tried",
            severity=Severity.NOTE,
            fault=Fault.NETWORK,
            seen=f"whether {network.hub} can be reached is not known: {network.problem}",
        )


def names(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The hub's name must be resolved where the server runs."""
    network = facts.network
    if network is None or network.stage != "dns":
        return
    inside = "inside the container" if network.where == "container" else "by the server's Python"
    asked = f", asked {', '.join(network.dns)}" if network.dns else ""
    works = ""
    if network.where == "process":
        cure = "mend /etc/resolv.conf of this host"
    elif network.working_dns:
        works = f"; this host's DNS server {network.working_dns} answers from there"
        cure = f"--vllm-dns={network.working_dns}"
    elif network.dns:
        cure = f"--vllm-dns=IP with a server that answers; {', '.join(network.dns)} does not"
    else:
        cure = "--vllm-dns=IP with a DNS server that containers can reach"
    yield Finding(
        id="network.dns",
        severity=Severity.FATAL,
        fault=Fault.NETWORK,
        seen=f"{network.problem} ({inside}{asked}){works}",
        cure=f"{cure}; or {_OFFLINE.format(model=facts.target.model)}",
        ref="H1",
    )


def connection(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The hub, or the proxy before it, must take a connection and speak TLS that is trusted."""
    network = facts.network
    if network is None or network.stage not in ("connect", "tls", "http"):
        return
    model = facts.target.model
    if network.stage == "tls" and "SSL" in network.problem:
        yield Finding(
            id="network.tls",
            severity=Severity.FATAL,
            fault=Fault.NETWORK,
            seen=f"{network.hub}: {network.problem}",
            cure="--vllm-env=SSL_CERT_FILE=/path/in/the/container with the proxy's certificate, "
            f"mounted by --vllm-compose-override; or {_OFFLINE.format(model=model)}",
            ref="H3",
        )
        return
    proxy = (
        "" if network.proxy else "--vllm-env=HTTPS_PROXY=URL and --vllm-env=NO_PROXY=127.0.0.1, or "
    )
    loopback = _is_loopback(network.hub) and network.where == "container"
    inside = "; inside a container that is the container itself" if loopback else ""
    yield Finding(
        id="network.connection",
        severity=Severity.FATAL,
        fault=Fault.NETWORK,
        seen=f"{network.hub}: {network.problem}{inside}",
        cure=f"{proxy}--vllm-env=HF_ENDPOINT=URL of a mirror; or {_OFFLINE.format(model=model)}",
        ref="H2",
    )


def answer(facts: LaunchFacts, /) -> Iterator[Finding]:
    """What the hub says about the model decides."""
    network = facts.network
    if network is None or network.model_status is None:
        return
    status, model = network.model_status, facts.target.model
    said = f' ("{network.error_message}")' if network.error_message else ""
    seen = f"{network.hub} answers {status} for {model}{said}"
    if status == _BUSY or status >= _SERVER_ERROR:
        yield Finding(
            id="network.hub-busy",
            severity=Severity.FATAL,
            fault=Fault.FLAKY,
            seen=f"{seen}, twice",
            cure="try again later, export HF_TOKEN=... for a higher limit, or "
            + _OFFLINE.format(model=model),
            ref="H4",
        )
    elif "GatedRepo" in network.error_code or status == _FORBIDDEN:
        yield _gated(network, seen, str(model))
    elif status == _UNAUTHORIZED and network.error_code not in _MISSING and network.token:
        yield Finding(
            id="network.bad-token",
            severity=Severity.FATAL,
            fault=Fault.USER,
            seen=f"{seen}; a token was sent",
            cure="renew HF_TOKEN, or unset it: a bad one breaks public models, too",
            ref="H5",
        )
    elif status in (_UNAUTHORIZED, _NOT_FOUND) and network.error_code != "EntryNotFound":
        yield _missing(facts, network, seen)


def _gated(network: NetworkFacts, seen: str, model: str) -> Finding:
    page = f"{network.hub.rstrip('/')}/{model}"
    return Finding(
        id="network.gated",
        severity=Severity.FATAL,
        fault=Fault.USER,
        seen=seen,
        cure=f"accept the licence at {page} with the account of this token"
        if network.token
        else f"export HF_TOKEN=... of an account that accepted the licence at {page}",
        ref="H6",
    )


def _missing(facts: LaunchFacts, network: NetworkFacts, seen: str) -> Finding:
    revision = network.error_code == "RevisionNotFound"
    private = "" if network.token else "; the Hub says so, too, of a private one without a token"
    close = facts.model.similar if facts.model is not None else ()
    if revision:
        cure = f"--vllm-revision=REV that {facts.target.model} has"
    elif close:
        cure = f"--vllm-model={close[0]}"
    else:
        cure = "--vllm-model=ORG/NAME as the Hub spells it; export HF_TOKEN=... for a private one"
    return Finding(
        id="network.revision" if revision else "network.no-such-model",
        severity=Severity.FATAL,
        fault=Fault.USER,
        seen=f"{seen}{'' if revision else private}",
        cure=cure,
        ref="H8" if revision else "H7",
    )


def foreign(facts: LaunchFacts, /) -> Iterator[Finding]:
    """On a plan for another host nothing is known about its network."""
    model = facts.model
    if facts.host.here or model is None or model.cached or facts.target.model_is_path:
        return
    yield not_applicable(
        "network.dns", f"the network of {facts.host.hostname or 'that host'} is not here"
    )


def client(facts: LaunchFacts, /) -> Iterator[Finding]:
    """`localhost` inside a container is the container."""
    knock = facts.client
    if knock is None or not knock.refused:
        return
    if not (knock.loopback and facts.host.container):
        yield _nobody(knock)
        return
    port = f":{knock.port}"
    yield Finding(
        id="network.client-in-container",
        severity=Severity.WARNING if knock.server_here else Severity.FATAL,
        fault=Fault.NETWORK,
        seen=f"nothing listens at {knock.url}, and this process runs inside a container "
        f"({facts.host.container}), where {knock.host} is the container itself",
        cure=f"run pytest on the host with the published port, or --vllm-url=http://SERVICE{port} "
        f"in the server's network, or start this container with --network=container:SERVER",
        ref="Q6",
    )


def _nobody(knock: ClientFacts) -> Finding:
    """A server that we see loading opens its port late; without one there is nothing to test."""
    return Finding(
        id="network.nobody-listens",
        severity=Severity.WARNING if knock.server_here else Severity.FATAL,
        fault=Fault.NETWORK,
        seen=f"nothing listens at {knock.url} ({knock.problem})"
        + ("; a vLLM process runs here, which may still be loading" if knock.server_here else ""),
        cure="start the server first, or name its address with --vllm-url=http://HOST:PORT; "
        "--vllm-preflight-ignore=network.nobody-listens waits for one that still starts",
        ref="Q6",
    )


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.startswith("127.") or host == "::1"


RULES = (tried, names, connection, answer, foreign, client)
IDS = (
    "network.not-tried",
    "network.dns",
    "network.connection",
    "network.tls",
    "network.hub-busy",
    "network.gated",
    "network.bad-token",
    "network.no-such-model",
    "network.revision",
    "network.client-in-container",
    "network.nobody-listens",
)
