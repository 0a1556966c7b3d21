"""What the suite `memory` takes for the server: its GPUs, its process, its device."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm.adapters.bounds import GIB, MIB, bound
from pytest_vllm.domain.profile import Profile
from pytest_vllm.domain.server import ServerInfo
from pytest_vllm.domain.server_facts import ServerFacts
from pytest_vllm.domain.settings import Sources, resolve
from pytest_vllm.domain.target import build_target
from pytest_vllm.plugin.memory import HOST, ServerMemory, Watch
from pytest_vllm.plugin.state import RunState, from_wire, to_wire

GPUS = {
    "monitor": "amd",
    "reason": "",
    "gpus": [
        {"bdf": f"0000:{bus}:00.0", "render_node": node, "vram_used_bytes": used}
        for bus, node, used in (("05", "renderD129", 1), ("26", "renderD128", 2), ("46", "", 3))
    ],
}


def make_state(**options: object) -> RunState:
    given = {name.replace("_", "-"): value for name, value in options.items()}
    settings = resolve(Sources(options=given, env={}, ini={}), profile={}, profile_name="default")
    target = build_target(settings, known_suites=())
    return RunState(target=target, profile=Profile(name="default"), gpus=GPUS)


def launched(**options: object) -> RunState:
    return make_state(backend="process", model="/m", **options)


def server(url: str = "http://127.0.0.1:9", *, owned: bool = True) -> ServerInfo:
    return ServerInfo(
        url=url,
        model="m",
        served_names=("m",),
        max_model_len=64,
        version="0.32.0",
        capabilities=(),
        absent={},
        owned=owned,
    )


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ("all", ("0000:05:00.0", "0000:26:00.0", "0000:46:00.0")),
        ("1", ("0000:26:00.0",)),
        ("2", ("0000:05:00.0",)),
    ],
)
def test_gpus_are_counted_in_the_order_of_render_nodes(
    gpus: str, expected: tuple[str, ...]
) -> None:
    """As `--vllm-gpus` counts them; a GPU without a node comes by its address, before those."""
    memory = ServerMemory(launched(gpus=gpus), server())
    assert memory.handed_over == expected
    assert memory.before("0000:46:00.0") == 3


def test_the_ranks_are_those_of_the_forecast() -> None:
    """Devices of the table, which have no address, and GPUs that are not here do not count."""
    state = launched()
    state.forecast = {"devices": [{"bdf": "0000:26:00.0"}, {"bdf": ""}, {"bdf": "0000:99:00.0"}]}
    assert ServerMemory(state, server()).rank_gpus == ("0000:26:00.0",)


@pytest.mark.parametrize(("told", "device"), [("cpu", "cpu"), ("cuda", "gpu"), ("", "")])
def test_the_device_is_what_the_log_tells(told: str, device: str) -> None:
    """Nobody guesses: without a word in the log the device is unknown."""
    state = launched()
    state.server_facts = ServerFacts(device=told)
    assert ServerMemory(state, server()).device == device


def test_a_worker_sees_the_memory_as_the_controller_does() -> None:
    """Forecast, log and process travel to xdist's workers."""
    state, worker = launched(), launched()
    state.forecast = {"weights_bytes_per_rank": 7}
    state.server_facts = ServerFacts(device="cuda", kv_blocks=5)
    state.server_pid, state.container = 42, "f00"
    from_wire(worker, to_wire(state, reports_failure=True))
    memory = ServerMemory(worker, server())
    assert (memory.loaded_bytes, memory.said) == (7, state.server_facts)
    assert (worker.server_pid, worker.container) == (42, "f00")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://192.0.2.1:8000", "not an address of this host"),
        ("http://gpu-host", "not an address of this host"),
        ("http://127.0.0.1:9", "no process that this user may see listens on port 9"),
        ("http://[::1]:9", "no process that this user may see listens on port 9"),
    ],
)
def test_a_server_that_is_not_seen_shows_nothing(url: str, reason: str) -> None:
    """Neither its processes nor GPUs of this host, which are then another's."""
    memory = ServerMemory(make_state(url=url), server(url, owned=False))
    assert reason in memory.unseen
    assert memory.use() == {}
    assert memory.said is None


def test_a_process_of_another_host_is_not_looked_at() -> None:
    """A container's process that /proc does not show as one of that container."""
    state = make_state(image="i", model="/m", backend="docker")
    state.server_pid, state.container = 1, "f" * 64
    assert "cannot be seen" in ServerMemory(state, server()).unseen


def test_a_watch_keeps_the_most() -> None:
    """Of each thing that was looked at, however often it was seen."""
    watch = Watch()
    looks: list[dict[str, Any]] = [{HOST: 5}, {HOST: 9, "0000:05:00.0": 2}, {HOST: 7}]
    for number, seen in enumerate(looks):
        watch.note(number, seen)
    assert watch.most() == {HOST: 9, "0000:05:00.0": 2}


def test_bounds_come_in_bytes() -> None:
    """A unit in the file is never left to the reader."""
    assert bound("use-below") == 0.5 * GIB
    assert bound("weights-floor") == 0.1 * 1024 * MIB
    assert bound("capacity") == 0.9
    with pytest.raises(KeyError):
        bound("no-such-bound")
