"""Rules about the host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_vllm.domain.facts.host import Holder
from pytest_vllm.domain.facts.model import ModelFacts
from pytest_vllm.domain.finding import Fault, Severity
from pytest_vllm.domain.preflight.host import (
    RULES,
    access,
    cache_disk,
    devices,
    groups,
    in_use,
    memory,
    numa,
    port,
    shared_memory,
    topology,
)
from tests.unit.launches import (
    GIB,
    KFD,
    found,
    make_bare_host,
    make_engine,
    make_gpu,
    make_host,
    make_image,
    make_launch,
    make_target,
    only,
)


def process(**options: object) -> object:
    return make_target(backend="process", **options)


def test_a_sound_host_is_not_worth_a_word() -> None:
    assert [finding for rule in RULES for finding in rule(make_launch())] == []


def test_a_host_without_amd_gpus_is_told_once_for_each_rule_and_stops_nothing() -> None:
    facts = make_launch(host=make_bare_host(), image=make_image(env={}))
    findings = [finding for rule in RULES for finding in rule(facts)]
    assert {finding.severity for finding in findings} == {Severity.NOT_APPLICABLE}
    assert {finding.seen for finding in findings} == {"this host has no AMD GPU (no card)"}


def test_gpus_that_are_not_handed_over_are_not_judged() -> None:
    host = make_host(make_gpu(vram_used_bytes=100 * GIB), numa_balancing=True)
    facts = make_launch(make_target(gpus="none"), host=host)
    findings = [finding for rule in RULES for finding in rule(facts)]
    assert {finding.severity for finding in findings} == {Severity.NOT_APPLICABLE}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kfd": None}, "1 AMD GPUs but no /dev/kfd"),
        ({"render_nodes": (), "gpus": ()}, "no AMD render node"),
    ],
)
def test_half_of_the_devices_is_no_device(changes: dict[str, object], words: str) -> None:
    finding = only(devices, make_launch(host=make_host(**changes)))
    assert (finding.ref, finding.fault) == ("D11", Fault.HOST)
    assert words in finding.seen
    assert finding.stops


def test_an_image_for_rocm_needs_the_driver() -> None:
    facts = make_launch(host=make_bare_host())
    finding = only(devices, facts)
    assert "built for ROCm" in finding.seen
    assert finding.fault is Fault.HOST
    assert "--vllm-gpus=none" in finding.cure
    for other in (
        replace(facts, target=make_target(gpus="none")),
        replace(facts, image=make_image(env={})),
    ):
        assert only(devices, other).severity is Severity.NOT_APPLICABLE


def test_a_process_needs_the_rights_of_its_user() -> None:
    closed = replace(KFD, usable=False)
    facts = make_launch(process(), host=make_host(kfd=closed), engine=None, image=None)
    finding = only(access, facts)
    assert (finding.ref, finding.fault) == ("G2", Fault.HOST)
    assert "/dev/kfd (group render, 660)" in finding.seen
    assert "usermod -aG render" in finding.cure
    assert found(access, make_launch(host=make_host(kfd=closed))) == []


def test_a_group_without_a_name_is_shown_by_its_number() -> None:
    closed = replace(KFD, usable=False, group="", gid=44)
    facts = make_launch(process(), host=make_host(kfd=closed), engine=None, image=None)
    assert "usermod -aG 44" in only(access, facts).cure


def test_the_documented_flags_give_only_the_group_video() -> None:
    target = make_target(docker_flags="documented")
    facts = make_launch(target, image=make_image(user="vllm"))
    finding = only(groups, facts)
    assert finding.severity is Severity.WARNING
    assert "--vllm-docker-flags=least" in finding.cure
    assert found(groups, replace(facts, image=make_image(user="root"))) == []
    video = make_host(render_nodes=(replace(KFD, group="video"),))
    assert found(groups, replace(facts, host=video)) == []


def test_gpus_of_two_kinds_deserve_a_warning() -> None:
    host = make_host(make_gpu(0), make_gpu(1, gfx="gfx90a"))
    assert "gfx90a, gfx942" in only(topology, make_launch(host=host)).seen
    assert found(topology, make_launch(make_target(gpus="0"), host=host)) == []


def test_who_holds_a_gpu_is_named_with_how_much() -> None:
    holder = Holder(pid=42, name="python3", devices=("/dev/kfd",), vram_bytes=27 * GIB)
    host = make_host(make_gpu(0, vram_used_bytes=28 * GIB), make_gpu(1), holders=(holder,))
    finding = only(in_use, make_launch(host=host))
    assert finding.severity is Severity.WARNING
    assert "GPU 0: 28.0 of 192.0 GiB" in finding.seen
    assert "PID 42 (python3) 27.0 GiB" in finding.seen
    assert finding.cure == "--vllm-gpus=1"
    assert found(in_use, make_launch(make_target(gpus="1"), host=host)) == []


def test_a_holder_that_cannot_be_seen_is_called_so() -> None:
    host = make_host(make_gpu(0, vram_used_bytes=28 * GIB))
    assert "cannot see" in only(in_use, make_launch(host=host)).seen


def test_numa_balancing_deserves_a_warning_and_silence_none() -> None:
    finding = only(numa, make_launch(host=make_host(numa_balancing=True)))
    assert finding.severity is Severity.WARNING
    assert finding.cure == "sudo sysctl kernel.numa_balancing=0"
    assert found(numa, make_launch(host=make_host(numa_balancing=None))) == []


@pytest.mark.parametrize(("ranks", "mib", "count"), [(1, 64, 0), (2, 64, 1), (2, 16384, 0)])
def test_ranks_of_a_process_share_the_memory_of_the_host(ranks: int, mib: int, count: int) -> None:
    target = process(serve_arg=[f"--tensor-parallel-size={ranks}"])
    facts = make_launch(target, host=make_host(shm_bytes=mib * 2**20), engine=None, image=None)
    assert [finding.ref for finding in found(shared_memory, facts)] == ["G12"] * count


def test_a_container_has_shared_memory_of_its_own() -> None:
    target = make_target(serve_arg=["--tensor-parallel-size=2"])
    assert found(shared_memory, make_launch(target, host=make_host(shm_bytes=2**20))) == []


def test_weights_that_no_memory_can_hold_are_refused_without_a_gpu() -> None:
    model = ModelFacts(asked="org/model", weights_bytes=600 * GIB)
    host = make_bare_host(memory_bytes=16 * GIB, memory_free_bytes=10 * GIB)
    finding = only(memory, make_launch(host=host, model=model))
    assert (finding.ref, finding.fault, finding.severity) == ("D17", Fault.HOST, Severity.FATAL)
    assert found(memory, make_launch(model=model, host=make_host(memory_bytes=16 * GIB))) == []
    other = replace(host, other_accelerators=("/dev/nvidia0",))
    assert not any(finding.stops for finding in found(memory, make_launch(host=other, model=model)))


def test_weights_above_the_free_memory_deserve_a_warning() -> None:
    model = ModelFacts(asked="org/model", weights_bytes=12 * GIB)
    host = make_bare_host(memory_bytes=16 * GIB, memory_free_bytes=10 * GIB)
    assert only(memory, make_launch(host=host, model=model)).severity is Severity.WARNING


def test_a_remote_engine_has_the_memory_of_its_own_host() -> None:
    model = ModelFacts(asked="org/model", weights_bytes=100 * GIB)
    host = make_bare_host(memory_bytes=16 * GIB, memory_free_bytes=None)
    engine = make_engine(remote=True, memory_bytes=500 * GIB)
    assert found(memory, make_launch(host=host, model=model, engine=engine)) == []


def test_a_download_must_fit_on_its_disk() -> None:
    model = ModelFacts(asked="org/model", weights_bytes=100 * GIB)
    facts = make_launch(host=make_host(cache_free_bytes=105 * GIB), model=model)
    finding = only(cache_disk, facts)
    assert (finding.ref, finding.fault) == ("H10", Fault.HOST)
    assert finding.stops
    assert found(cache_disk, replace(facts, model=replace(model, cached=True))) == []
    folder = make_target(model="/models/x")
    assert found(cache_disk, replace(facts, target=folder)) == []
    assert found(cache_disk, replace(facts, host=make_host(cache_free_bytes=111 * GIB))) == []


def test_a_taken_port_is_refused() -> None:
    host = make_host(port_problem="port 8000 on 127.0.0.1 is in use by PID 7 (python3)")
    finding = only(port, make_launch(process(), host=host))
    assert (finding.ref, finding.fault) == ("H25", Fault.HOST)
    assert "PID 7" in finding.seen
    assert "drop --port" in finding.cure
