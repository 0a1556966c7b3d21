"""Tries the way to the model hub from where the server will run, with the server's own Python.

The default bridge copies the host's DNS servers, a compose network asks Docker's own, and either
may work where the other does not; so the attempt is made in a network like the server's.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.facts.host import HERE, Roots
from pytest_vllm.domain.facts.network import NetworkFacts
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker import DockerClient
    from docker.models.containers import Container

ATTEMPT_S = 5.0
"""Limit for the attempt itself, from the first line of the script."""
_START_S = 10.0
MARK = "pytest-vllm network: "
_HUB = "https://huggingface.co"
_RESOLVERS = ("etc/resolv.conf", "run/systemd/resolve/resolv.conf")
_MOST_RESOLVERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be tried.

    Attributes:
        model: Hub ID.
        revision: Revision, empty for the main branch.
        hub: URL of the hub.
        environment: Variables of the server.
        dns: DNS servers given to the container.
        others: DNS servers of this host, one of which may be the cure.
    """

    model: str
    revision: str = ""
    hub: str = _HUB
    environment: Mapping[str, str] = field(default_factory=dict)
    dns: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def words(self) -> dict[str, str]:
        """Return the variables that tell the script what to do; the token is one of its own."""
        question = {
            "hub": self.hub,
            "path": f"/{self.model}/resolve/{self.revision or 'main'}/config.json",
            "dns": list(self.dns),
            "others": list(self.others),
            "limit_s": ATTEMPT_S,
            "mark": MARK,
        }
        return {
            # One question takes two seconds at most, and is asked twice.
            "RES_OPTIONS": "timeout:2 attempts:2",
            **self.environment,
            "PYTEST_VLLM_QUESTION": json.dumps(question),
        }


def host_resolvers(roots: Roots = HERE) -> tuple[str, ...]:
    """Return the DNS servers of this host that a container can ask: none on a loopback address."""
    found: dict[str, None] = {}
    for name in _RESOLVERS:
        with contextlib.suppress(OSError):
            for line in (roots.root / name).read_text("utf-8", "replace").splitlines():
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver" and _is_usable(words[1]):
                    found[words[1]] = None
    return tuple(found)[:_MOST_RESOLVERS]


def try_in_container(
    client: DockerClient,
    image: str,
    question: Question,
    *,
    labels: Mapping[str, str],
    network_mode: str = "",
) -> NetworkFacts:
    """Try from a throw-away container of the image, in a network of its own.

    What the attempt shows is never an error; container and network are removed in any case.

    Args:
        client: The engine.
        image: Content address of the image.
        question: What to try.
        labels: Labels by which a later run can find what a killed one left.
        network_mode: Network mode of the server, empty for a network like compose's.
    """
    from docker.errors import DockerException  # noqa: PLC0415 - loaded when used
    from requests.exceptions import RequestException  # noqa: PLC0415

    started = time.monotonic()
    try:
        with _container(client, image, question, labels, network_mode) as container:
            container.start()
            container.wait(timeout=_START_S + ATTEMPT_S)
            output = container.logs(stdout=True, stderr=True).decode("utf-8", "replace")
    except (DockerException, RequestException, OSError) as error:
        said = one_line(str(getattr(error, "explanation", None) or error), 300)
        return _unknown(question, "container", f"the container could not try: {said}")
    return read_answer(output, question, where="container", took_s=time.monotonic() - started)


def try_in_process(python: str, question: Question) -> NetworkFacts:
    """Try from a child process with the interpreter of the server."""
    started = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603 - our own script
            [python, "-c", script()],
            env=question.words(),
            capture_output=True,
            timeout=_START_S + ATTEMPT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _unknown(question, "process", f"{python} could not try: {one_line(str(error), 300)}")
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    return read_answer(output, question, where="process", took_s=time.monotonic() - started)


def script() -> str:
    """Return the program that tries; it needs nothing but Python 3.8."""
    return (files("pytest_vllm.adapters.facts") / "inside" / "reach_hub.py").read_text("utf-8")


def read_answer(output: str, question: Question, *, where: str, took_s: float) -> NetworkFacts:
    """Understand what the script printed."""
    lines = output.splitlines()
    answers = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    if not answers:
        said = one_line(lines[-1], 300) if lines else "nothing"
        return _unknown(question, where, f"the attempt printed no answer but: {said}")
    answer: dict[str, Any] = json.loads(answers[-1])
    return NetworkFacts(
        hub=question.hub,
        where=where,
        dns=question.dns,
        stage=answer["stage"],
        resolved=answer["resolved"],
        reached=answer["status"] is not None,
        problem=one_line(answer["problem"], 300),
        working_dns=answer["working_dns"],
        proxy=answer["proxy"],
        model_status=answer["status"],
        error_code=one_line(answer["error_code"], 100),
        error_message=one_line(answer["error_message"], 300),
        token=answer["token"],
        took_s=round(took_s, 2),
    )


@contextlib.contextmanager
def _container(
    client: DockerClient,
    image: str,
    question: Question,
    labels: Mapping[str, str],
    network_mode: str,
) -> Iterator[Container]:
    """Make the container, and remove it with its network."""
    name = f"pytest-vllm-preflight-{os.getpid()}-{time.monotonic_ns()}"
    with contextlib.ExitStack() as stack:
        place: dict[str, str] = {"network_mode": network_mode}
        if not network_mode:
            network = client.networks.create(name, driver="bridge", labels=dict(labels))
            stack.callback(network.remove)
            place = {"network": name}
        container = client.containers.create(
            image,
            entrypoint=["python3", "-c", script()],
            command=[],
            environment=question.words(),
            dns=list(question.dns),
            labels=dict(labels),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            mem_limit="256m",
            pids_limit=64,
            **place,  # type: ignore[arg-type]  # one of two keywords
        )
        stack.callback(container.remove, force=True, v=True)
        yield container


def _unknown(question: Question, where: str, problem: str) -> NetworkFacts:
    return NetworkFacts(hub=question.hub, where=where, dns=question.dns, problem=problem)


def _is_usable(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False
