"""Fixtures of the plugin: small, and each can be overridden in a conftest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.plugin import state as run_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.adapters.http import Transport
    from pytest_vllm.domain.server import ServerInfo
    from pytest_vllm.domain.target import Target
    from pytest_vllm.plugin.ahead import Attempt
    from pytest_vllm.plugin.client import Client
    from pytest_vllm.plugin.load import Load
    from pytest_vllm.plugin.memory import ServerMemory
    from pytest_vllm.plugin.performance import Performance


@pytest.fixture(scope="session")
def vllm_target(pytestconfig: pytest.Config) -> Target:
    """What is accepted: image, model, arguments (`pytest_vllm.domain.target.Target`)."""
    return _state(pytestconfig).target


@pytest.fixture(scope="session")
def vllm_server(pytestconfig: pytest.Config) -> ServerInfo:
    """Return the ready server: URL, model, capabilities (`pytest_vllm.domain.server.ServerInfo`).

    It is launched once for all tests, before the first one runs, and stopped after the last.
    """
    state = _state(pytestconfig)
    if state.server is None:
        text = run_state.failure_text(state.failure) if state.failure else "no server was launched"
        pytest.fail(text, pytrace=False)
    return state.server


@pytest.fixture(scope="session")
def vllm_gpus(pytestconfig: pytest.Config) -> dict[str, Any]:
    """Facts of the GPUs before the launch: `monitor`, `gpus`, and `reason` when none is known."""
    return _state(pytestconfig).gpus


@pytest.fixture(scope="session")
def vllm_memory(pytestconfig: pytest.Config, vllm_server: ServerInfo) -> Iterator[ServerMemory]:
    """What can be seen of the server's memory: forecast, log, GPUs, processes."""
    from pytest_vllm.plugin.memory import ServerMemory  # noqa: PLC0415 - loads on first use

    memory = ServerMemory(_state(pytestconfig), vllm_server)
    yield memory
    memory.close()


@pytest.fixture(scope="session")
def vllm_load(pytestconfig: pytest.Config, vllm_server: ServerInfo) -> Load:
    """Return what sends loads to the server and measures them (`pytest_vllm.Load`)."""
    from pytest_vllm.plugin.live import LiveLine  # noqa: PLC0415 - loads on first use
    from pytest_vllm.plugin.load import Load  # noqa: PLC0415

    gpus = _state(pytestconfig).gpu_columns
    return Load(vllm_server, gpus=gpus, shown=LiveLine(pytestconfig).shown)


@pytest.fixture(scope="session")
def vllm_performance(pytestconfig: pytest.Config, vllm_load: Load) -> Performance:
    """Return the loads of the suite `performance`, each of which is measured once."""
    from pytest_vllm.plugin.performance import Performance  # noqa: PLC0415 - loads on first use

    state = _state(pytestconfig)
    if state.loads is None:
        raise pytest.UsageError(
            "a test asks for the loads of the suite performance, and --vllm-performance=none\n"
            "  fix: say how to measure, e.g. --vllm-performance=smoke"
        )
    return Performance(state, vllm_load, state.loads)


@pytest.fixture
def vllm_benchmark(request: pytest.FixtureRequest, vllm_performance: Performance) -> object:
    """Return the fixture `benchmark` of pytest-benchmark, or say why there is none."""
    from pytest_vllm.plugin.skips import not_run  # noqa: PLC0415 - loads on first use

    del vllm_performance  # what stands in the way of any load is said first
    if not request.config.pluginmanager.has_plugin("benchmark"):
        not_run(
            "pytest-benchmark is turned off (-p no:benchmark), and it carries the rounds of every "
            "load; leave that option out"
        )
    benchmark: Any = request.getfixturevalue("benchmark")
    if benchmark.disabled:
        not_run(
            "pytest-benchmark measures nothing (--benchmark-disable), and it carries the rounds "
            "of every load; leave that option out, or add --benchmark-enable"
        )
    return benchmark


@pytest.fixture(scope="session")
def vllm_transport(vllm_server: ServerInfo, vllm_target: Target) -> Iterator[Transport]:
    """HTTP connections to the server, for raw traffic from any thread."""
    transport = make_transport(vllm_server, vllm_target)
    yield transport
    transport.close()


@pytest.fixture
def vllm(
    request: pytest.FixtureRequest,
    vllm_server: ServerInfo,
    vllm_target: Target,
    vllm_transport: Transport,
) -> Client:
    """Return a client that judges every reply and keeps the exchanges of this test."""
    from pytest_vllm.plugin.outcomes import ATTEMPT  # noqa: PLC0415 - loads on first use

    attempt: Attempt | None = request.node.stash.get(ATTEMPT, None)
    if attempt is not None:
        return attempt.client
    return make_client(vllm_server, vllm_transport, vllm_target)


def make_transport(server: ServerInfo, target: Target) -> Transport:
    """Connect to the server under test with the key and the limits of the run."""
    from pytest_vllm.adapters.http import Transport  # noqa: PLC0415 - httpx loads on first use

    api_key = os.environ.get(server.api_key_env) if server.api_key_env else None
    timeout_s = target.seconds("request-timeout")
    return Transport(server.url, api_key=api_key, timeout_s=timeout_s)


def make_client(server: ServerInfo, transport: Transport, target: Target) -> Client:
    """Return the client of one check."""
    from pytest_vllm.plugin.client import Client  # noqa: PLC0415 - loads on first use

    return Client(server, transport, seed=target.number("seed"))


def _state(config: pytest.Config) -> run_state.RunState:
    state = config.stash.get(run_state.STATE, None)
    if state is None:
        raise pytest.UsageError(
            "a test asks for a vLLM server, but none is named\n"
            "  fix: add --vllm-url=URL, or --vllm-image=IMAGE with --vllm-model=MODEL"
        )
    return state
