"""Asks the way to the hub as the server of a target will go it: its image, variables and DNS."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.container import OWNER_LABEL, RUN_LABEL
from pytest_vllm.adapters.backends.owner import this_owner
from pytest_vllm.adapters.backends.plan import plan
from pytest_vllm.adapters.facts.network import (
    Question,
    host_resolvers,
    try_in_container,
    try_in_process,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker import DockerClient

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.network import NetworkFacts
    from pytest_vllm.domain.target import Target

_RUN = "preflight"


def try_hub(
    facts: LaunchFacts, client: DockerClient | None, env: Mapping[str, str]
) -> NetworkFacts | None:
    """Try the way to the hub for the target's model.

    Args:
        facts: What is known so far.
        client: The engine, for a target that runs in a container.
        env: Our environment.

    Returns:
        What came of it, `None` where there is no image to try it in.

    Raises:
        TargetError: A variable is to be passed on and is not set.
    """
    if facts.target.backend == "process":
        return _in_process(facts.target, env)
    if client is None or facts.image is None:
        return None
    return _in_container(facts, client, env)


def _in_container(
    facts: LaunchFacts, client: DockerClient, env: Mapping[str, str]
) -> NetworkFacts | None:
    if facts.image is None:
        return None
    planned = plan(facts.target, _RUN, image=facts.image, env=env)
    values = dict(planned.secrets)
    environment = {
        name: values.get(name, env.get(name, "")) if value is None else value
        for name, value in planned.spec.environment
    }
    dns = planned.spec.dns
    question = replace(
        _question(facts.target, {**facts.image.env, **environment}),
        environment=environment,
        dns=dns,
        others=tuple(server for server in host_resolvers() if server not in dns),
    )
    return try_in_container(
        client,
        facts.image.runs,
        question,
        labels={RUN_LABEL: _RUN, OWNER_LABEL: json.dumps(this_owner().facts())},
        network_mode=facts.container.network_mode if facts.container else "",
    )


def _in_process(target: Target, env: Mapping[str, str]) -> NetworkFacts:
    environment = {
        item.name: env.get(item.name, "") if item.value is None else item.value
        for item in target.env
    }
    variables = {**env, **environment}
    python = str(target.settings["python"].value or sys.executable)
    question = replace(_question(target, variables), environment=variables)
    return try_in_process(python, question)


def _question(target: Target, variables: Mapping[str, str]) -> Question:
    revision = target.serve_args.value("--revision") or target.revision or ""
    question = Question(model=str(target.model), revision=revision)
    endpoint = variables.get("HF_ENDPOINT")
    return replace(question, hub=endpoint.rstrip("/")) if endpoint else question
