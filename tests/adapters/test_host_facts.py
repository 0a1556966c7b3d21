"""The look at a host: out of made-up trees of files, and at the host of the test."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.facts.client import gather_client
from pytest_vllm.adapters.facts.host import (
    HERE,
    Roots,
    find_container,
    free_bytes,
    gather_host,
    plain_gpus,
)
from pytest_vllm.adapters.facts.network import host_resolvers
from tests.adapters.test_gpus import MI300X_BYTES, add_card, add_node

if TYPE_CHECKING:
    from pathlib import Path

MIB = 2**20


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """A host with two MI300X of which each process sees the files that Linux would show."""
    made = Roots(
        root=tmp_path,
        dev=tmp_path / "dev",
        sysfs=tmp_path / "sys",
        proc=tmp_path / "proc",
    )
    for folder in (made.dev / "dri", made.dev / "shm", made.proc / "sys/kernel", made.proc / "1"):
        folder.mkdir(parents=True)
    for number, bdf in ((0, "0000:05:00.0"), (1, "0000:26:00.0")):
        add_card(made.sysfs, number, bdf=bdf)
        add_node(made.sysfs, number + 1, gfx=90402, minor=128 + number)
        (made.dev / f"dri/renderD{128 + number}").touch(mode=0o660)
    add_node(made.sysfs, 0, gfx=0, minor=0)
    (made.dev / "kfd").touch(mode=0o660)
    (made.proc / "meminfo").write_text(
        "MemTotal:  1584000000 kB\nMemAvailable:  1500000000 kB\nSwapTotal:  8000000 kB\n"
    )
    (made.proc / "sys/kernel/numa_balancing").write_text("1\n")
    (made.proc / "1/cgroup").write_text("0::/init.scope\n")
    return made


def add_process(roots: Roots, pid: int, name: str, **files: tuple[str, str]) -> None:
    """Add a process with open files: descriptor -> (path, what `fdinfo` says)."""
    folder = roots.proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "fdinfo").mkdir()
    (folder / "comm").write_text(f"{name}\n")
    for number, (path, info) in files.items():
        (folder / "fd" / number[1:]).symlink_to(path)
        (folder / "fdinfo" / number[1:]).write_text(info)


def drm(client: int, vram: str) -> str:
    return f"drm-driver:\tamdgpu\ndrm-client-id:\t{client}\ndrm-memory-vram:\t{vram}\n"


def test_devices_memory_and_kernel_are_read(roots: Roots) -> None:
    facts = gather_host({"HIP_VISIBLE_DEVICES": "0", "HOME": "/x"}, roots=roots)
    assert [gpu.bdf for gpu in facts.gpus] == ["0000:05:00.0", "0000:26:00.0"]
    assert {gpu.gfx for gpu in facts.gpus} == {"gfx942"}
    assert {gpu.gid for gpu in facts.gpus} == {os.getegid()}
    assert (facts.gpus_by, facts.gpus_reason) == ("sysfs", "")
    assert facts.kfd is not None
    assert facts.kfd.path == str(roots.dev / "kfd")
    assert (facts.kfd.gid, facts.kfd.mode & 0o600) == (os.getegid(), 0o600)
    assert facts.kfd.usable
    assert [node.path[-10:] for node in facts.render_nodes] == ["renderD128", "renderD129"]
    assert facts.topology == ("gfx942", "gfx942")
    assert facts.numa_balancing is True
    assert facts.memory_bytes == 1584000000 * 1024
    assert facts.memory_free_bytes == 1500000000 * 1024
    assert facts.swap_bytes == 8000000 * 1024
    assert facts.variables == {"HIP_VISIBLE_DEVICES": "0"}
    assert facts.shm_bytes
    assert facts.here
    assert plain_gpus(facts)["gpus"][0]["vram_total_bytes"] == MI300X_BYTES


def test_who_holds_a_gpu_is_found_by_its_open_files(roots: Roots) -> None:
    kfd, node = "/dev/kfd", "/dev/dri/renderD129"
    add_process(
        roots,
        4711,
        "python3",
        _3=(kfd, ""),
        _4=(node, drm(7, "2048 KiB")),
        _5=(node, drm(7, "2048 KiB")),
        _6=(node, drm(8, "3 MiB")),
    )
    add_process(roots, 12, "bash", _0=("/dev/null", ""), _1=("/dev/dri/card0", ""))
    (holder,) = gather_host({}, roots=roots).holders
    assert (holder.pid, holder.name) == (4711, "python3")
    assert holder.devices == (node, kfd)
    assert holder.vram_bytes == 5 * MIB, "a client counts once, whatever number of descriptors"


def test_a_holder_whose_files_are_hidden_is_named_by_the_driver(roots: Roots) -> None:
    add_process(roots, 99, "VLLM::EngineCor")
    folder = roots.sysfs / "class/kfd/kfd/proc/99"
    folder.mkdir(parents=True)
    (folder / "vram_51110").write_text("1048576\n")
    (folder / "vram_9200").write_text("2097152\n")
    add_process(roots, 100, "python3", _3=("/dev/dri/renderD128", drm(1, "1 MiB")))
    holders = gather_host({}, roots=roots).holders
    assert [(holder.pid, holder.vram_bytes) for holder in holders] == [(99, 3 * MIB), (100, MIB)]


def test_a_process_that_has_just_ended_is_no_holder(roots: Roots) -> None:
    (roots.proc / "77").mkdir()
    (roots.sysfs / "class/kfd/kfd/proc/78").mkdir(parents=True)
    assert gather_host({}, roots=roots).holders == ()


def test_a_bare_host_has_nothing_but_a_reason(tmp_path: Path) -> None:
    nothing = Roots(root=tmp_path, dev=tmp_path, sysfs=tmp_path, proc=tmp_path)
    facts = gather_host({}, roots=nothing)
    assert (facts.gpus, facts.kfd, facts.render_nodes) == ((), None, ())
    assert "there is no" in facts.gpus_reason
    assert (facts.numa_balancing, facts.memory_bytes, facts.shm_bytes) == (None, None, None)
    assert facts.holders == ()


def test_accelerators_of_others_are_seen(roots: Roots) -> None:
    (roots.dev / "nvidia0").touch()
    (roots.dev / "nvidiactl").touch()
    assert gather_host({}, roots=roots).other_accelerators == (str(roots.dev / "nvidia0"),)


def test_a_monitor_that_is_switched_off_is_the_reason(roots: Roots) -> None:
    facts = gather_host({}, monitor="none", roots=roots)
    assert (facts.gpus, facts.gpus_reason) == ((), "--vllm-monitor=none")


@pytest.mark.parametrize(
    ("mark", "text", "said"),
    [
        (".dockerenv", "", "/.dockerenv"),
        ("run/.containerenv", "", "/run/.containerenv"),
        ("proc/1/cgroup", "0::/kubepods/besteffort/pod1", "/proc/1/cgroup (kubepods)"),
        ("proc/1/cgroup", "0::/init.scope", ""),
    ],
)
def test_a_container_is_known_by_its_marks(roots: Roots, mark: str, text: str, said: str) -> None:
    file = roots.root / mark
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    assert find_container(roots) == said


def test_the_disk_of_a_folder_that_does_not_exist_yet_is_that_of_its_parent(
    tmp_path: Path,
) -> None:
    free = free_bytes(tmp_path / "a/b/c")
    assert free is not None
    assert free > 0


def test_the_host_of_the_test_is_looked_at_without_an_error() -> None:
    facts = gather_host(os.environ, roots=HERE)
    assert facts.hostname == socket.gethostname()
    assert facts.memory_bytes
    assert bool(facts.gpus) != bool(facts.gpus_reason)


def test_dns_servers_that_a_container_cannot_ask_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run/systemd/resolve").mkdir(parents=True)
    (tmp_path / "etc/resolv.conf").write_text(
        "# stub\nnameserver 127.0.0.53\nnameserver ::1\nnameserver not-an-ip\nsearch x\n"
    )
    (tmp_path / "run/systemd/resolve/resolv.conf").write_text(
        "nameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n"
    )
    roots = Roots(root=tmp_path, dev=tmp_path, sysfs=tmp_path, proc=tmp_path)
    assert host_resolvers(roots) == ("192.0.2.1", "fe80::1%eth0")
    assert host_resolvers(Roots(root=tmp_path / "no", dev=tmp_path, sysfs=tmp_path)) == ()


def test_a_server_that_listens_is_reached(roots: Roots) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]

        def accept() -> None:
            door.accept()[0].close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        knock = gather_client(f"http://localhost:{port}", roots=roots)
        thread.join(5)
    assert (knock.host, knock.port, knock.loopback) == ("localhost", port, True)
    assert (knock.problem, knock.refused) == ("", False)


def test_a_port_where_nobody_listens_refuses(roots: Roots) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    knock = gather_client(f"http://127.0.0.1:{port}", roots=roots)
    assert knock.refused
    assert knock.problem == "Connection refused"
    assert not knock.server_here


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (("/usr/bin/python3", "/opt/bin/vllm", "serve", "m", "--port", "{port}"), True),
        (("python3", "-m", "vllm.entrypoints.openai.api_server", "--port={port}"), True),
        (("vllm", "serve", "m", "--config", "where-it-says.yaml"), True),
        (("vllm", "serve", "m"), False),  # it will listen at 8000
        (("vllm", "serve", "m", "--port=1"), False),
        (("pytest", "--vllm-url=http://localhost:8000"), False),
        (("vim", "vllm", "notes"), False),
    ],
)
def test_a_server_that_still_loads_is_seen_among_the_processes(
    roots: Roots, words: tuple[str, ...], *, seen: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    line = "".join(word.format(port=port) + "\0" for word in words)
    (roots.proc / "500").mkdir()
    (roots.proc / "500/cmdline").write_bytes(line.encode())
    assert gather_client(f"http://127.0.0.1:{port}", roots=roots).server_here is seen


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://[::1]:9", True),
        ("http://0.0.0.0:9", True),
        ("http://server.localhost:9", True),
        ("http://127.8.9.1:9", True),
    ],
)
def test_every_spelling_of_this_machine_is_known(roots: Roots, url: str, *, loopback: bool) -> None:
    assert gather_client(url, roots=roots).loopback is loopback
